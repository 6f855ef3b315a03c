"""Names of metrics and arrays, formatted and parsed in this file alone.

    test/<cohort>/<condition>/<method>/<score>     test/abide_cc400/hidden0.75/mae/r2_pooled_low
    test/<cohort>/<condition>/<score>              test/abide_cc400/horizon20/num_windows (of no method)

A comparison of two methods takes the place of a method, `<method>_minus_<other>`. A score can have several parts,
`network/Visual/effect_size`. Slashes in labels are escaped as `%2F`. Beside the results of a test stand

    data/<cohort>/<what>                           data/abide_cc400/effective_dimensions
    fitted/<method>/<what>                         fitted/linear_smoother/ridge: what was chosen on validation subjects
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

ENDS = ("", "_low", "_high")  # of an estimate and its 95 % interval
MINUS = "_minus_"
ROOT = "test"


def quoted(label: str) -> str:
    """Escapes a label for use as one part of a name."""
    return label.replace("%", "%25").replace("/", "%2F")


def unquoted(part: str) -> str:
    """The inverse of `quoted`."""
    return part.replace("%2F", "/").replace("%25", "%")


@dataclass(frozen=True)
class MetricName:
    """The name of a metric or array of a test run.

    Attributes:
        cohort: the test cohort.
        condition: what was tested: `hidden0.75`, `horizon20`, a phenotype, a contrast.
        method: the scored method; "" for a number that belongs to the condition as a whole.
        score: the quantity; labels inside it must be `quoted` by the caller.
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
        """Parses a name; None if it is not of a test run (`val/loss`)."""
        root, *parts = name.split("/", 4)
        if root != ROOT or len(parts) < 3:
            return None
        cohort, condition, *method, score = parts
        return cls(unquoted(cohort), unquoted(condition), unquoted(method[0]) if method else "", score)

    def of(self, score: str) -> str:
        """The name of another score of the same method."""
        return str(replace(self, score=score))

    def by(self, method: str = "") -> "MetricName":
        """The same condition with another method and no score; without a method, the condition itself."""
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
    """Name of the comparison of a method with another."""
    return f"{method}{MINUS}{other}"


def parsed(names: Iterable[str]) -> list[MetricName]:
    """Parses the names of test results and leaves out all other names; keeps the order."""
    return [found for name in names if (found := MetricName.parse(name)) is not None]


def data_name(cohort: str, what: str) -> str:
    """Name of a number that describes a test cohort's data, not a method."""
    return f"data/{quoted(cohort)}/{what}"


def fitted_name(method: str, what: str) -> str:
    """Name of what a method chose on validation subjects."""
    return f"fitted/{method}/{what}"


def methods_at_edge(metrics: Mapping[str, float]) -> list[str]:
    """Methods with a setting chosen at the edge of its grid."""
    ends = {name: name.removeprefix("fitted/").removesuffix("/at_edge") for name in metrics}
    return [method for name, method in ends.items() if name == fitted_name(method, "at_edge") and metrics[name]]


def check_method_name(name: str) -> None:
    """Checks that a method's name cannot be mistaken for a comparison.

    Raises:
        ValueError: it is empty or contains `_minus_`.
    """
    if not name or MINUS in name:
        raise ValueError(f"a method is named {name!r}; expected a name without {MINUS!r}, which marks comparisons")
