"""Names of metrics and arrays: written and read in this file alone.

    test/<cohort>/<condition>/<method>/<score>     test/abide_cc400/hidden0.75/mae/r2_pooled_low
    test/<cohort>/<condition>/<score>              test/abide_cc400/horizon20/num_windows: no method's own

A comparison of two methods is a method of its own, `<method>_minus_<other>`. A score may have parts,
`network/Visual/effect_size`. Any label may be part of a name: a slash in it is written `%2F`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

ENDS = ("", "_low", "_high")  # of an estimate and its 95 % interval
MINUS = "_minus_"
ROOT = "test"


def quoted(label: str) -> str:
    """A label as one part of a name."""
    return label.replace("%", "%25").replace("/", "%2F")


def unquoted(part: str) -> str:
    """The inverse of `quoted`."""
    return part.replace("%2F", "/").replace("%25", "%")


@dataclass(frozen=True)
class MetricName:
    """The name of a number or an array of a test run.

    Attributes:
        cohort: that was tested on.
        condition: what was asked: `hidden0.75`, `horizon20`, a phenotype, a contrast.
        method: whose score it is; "" for what belongs to the condition as a whole.
        score: what was measured. Its parts are quoted by whoever puts labels into them.
    """

    cohort: str
    condition: str
    method: str = ""
    score: str = ""

    def __str__(self) -> str:
        """`test/<cohort>/<condition>/<method>/<score>`."""
        labels = [quoted(label) for label in (self.cohort, self.condition, self.method) if label]
        return "/".join([ROOT, *labels, *([self.score] if self.score else [])])

    @classmethod
    def parse(cls, name: str) -> "MetricName | None":
        """Reads a name; None for one of another kind (`val/loss`)."""
        root, *parts = name.split("/", 4)
        if root != ROOT or len(parts) < 3:
            return None
        cohort, condition, *method, score = parts
        return cls(unquoted(cohort), unquoted(condition), unquoted(method[0]) if method else "", score)

    def of(self, score: str) -> str:
        """The name of another score of the same method."""
        return str(replace(self, score=score))

    def by(self, method: str = "") -> "MetricName":
        """The prefix of another method's scores under the same condition; without a method, the condition's own."""
        return replace(self, method=method, score="")

    def level(self, word: str) -> float | None:
        """The number in a condition: 0.75 for the word `hidden` and the condition `hidden0.75`, else None."""
        found = re.fullmatch(re.escape(word) + r"(\d*\.?\d+(?:e[+-]?\d+)?)", self.condition)
        return float(found[1]) if found else None

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the score, unquoted: `("network", "Hand/SM", "effect_size")`."""
        return tuple(unquoted(part) for part in self.score.split("/"))

    def against(self, other: str) -> "MetricName":
        """The comparison of this method with another."""
        return replace(self, method=pair_name(self.method, other))

    @property
    def pair(self) -> tuple[str, str] | None:
        """The two methods of a comparison, else None."""
        method, minus, other = self.method.partition(MINUS)
        return (method, other) if minus else None


def pair_name(method: str, other: str) -> str:
    """The comparison of a method with another, as the name of a method."""
    return f"{method}{MINUS}{other}"


def parsed(names: Iterable[str]) -> list[MetricName]:
    """The names of test results among names of all kinds, in their order."""
    return [found for name in names if (found := MetricName.parse(name)) is not None]


def check_method_name(name: str) -> None:
    """Checks that a method's name can be told from a comparison's.

    Raises:
        ValueError: it is empty or contains `_minus_`.
    """
    if not name or MINUS in name:
        raise ValueError(f"a method is named {name!r}; expected a word without {MINUS!r}, which names comparisons")
