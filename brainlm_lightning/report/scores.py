"""What every page reads from a run's metrics: estimates with intervals, methods of a condition, paired tests."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from brainlm_lightning.evaluation.names import ENDS, MetricName, parsed
from brainlm_lightning.evaluation.resampling import SIGNIFICANCE

Metrics = Mapping[str, float]
Arrays = Mapping[str, NDArray[Any]]

MARKS = {None: "", True: " *↓", False: " *↑"}  # is it significantly worse than the reference?
MISSING = "–"


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % interval.

    Attributes:
        value: NaN where the score is undefined or was not computed.
        low: lower end of the interval; NaN where there is none.
        high: upper end.
        worse: True or False where the method is significantly worse or better than the reference, else None.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    worse: bool | None = None

    @classmethod
    def read(cls, metrics: Metrics, name: str, worse: bool | None = None) -> "Estimate":
        """The estimate of this name, with the `_low` and `_high` beside it."""
        value, low, high = (metrics.get(name + end, math.nan) for end in ENDS)
        return cls(value, low, high, worse)

    def __str__(self) -> str:
        """`0.391 [0.380, 0.402] *↓`."""
        return self.text()

    def text(self, digits: int = 3, scale: float = 1) -> str:
        """The estimate times `scale` with so many decimals; a dash where it is undefined."""
        if math.isnan(self.value):
            return MISSING
        value, low, high = (f"{number * scale:.{digits}f}" for number in (self.value, self.low, self.high))
        return value + ("" if math.isnan(self.low) else f" [{low}, {high}]") + MARKS[self.worse]


def methods_with(metrics: Metrics, score: str) -> dict[MetricName, list[str]]:
    """Condition -> the methods that have this score, in the order of the metrics; comparisons are left out."""
    found: dict[MetricName, list[str]] = {}
    for name in parsed(metrics):
        if name.score == score and name.method and not name.pair:
            found.setdefault(name.by(), []).append(name.method)
    return found


def names_under(names: Iterable[str], conditions: Iterable[MetricName]) -> list[MetricName]:
    """The names of these conditions among the names of a run."""
    wanted = set(conditions)
    return [name for name in parsed(names) if name.by() in wanted]


def reference_method(metrics: Metrics, conditions: Mapping[MetricName, Iterable[str]], default: str = "") -> str:
    """The method that the others are compared with: the first of the most comparisons.

    Args:
        metrics: of a run.
        conditions: condition -> its methods, at least one; the first of them where the comparisons do not tell.
        default: the choice among methods with equally many comparisons.
    """
    pairs = {(name.by(), name.pair) for name in names_under(metrics, conditions) if name.pair}
    counts = Counter(first for _, (first, _) in pairs)
    candidates = [*(method for methods in conditions.values() for method in methods), *sorted(counts)]
    return max(candidates, key=lambda method: (counts[method], method == default))


def is_worse(metrics: Metrics, comparison: MetricName, score: str) -> bool | None:
    """Whether the second method of a comparison has significantly less of a score than the first.

    Returns:
        None where they do not differ significantly or were not compared.
    """
    p = metrics.get(comparison.of("p_corrected"), math.nan)
    return metrics[comparison.of(score)] > 0 if p < SIGNIFICANCE else None


def num_significant(metrics: Metrics, conditions: Iterable[MetricName]) -> tuple[int, int]:
    """How many comparisons under these conditions are significant, and how many there are."""
    p = [metrics[str(name)] for name in names_under(metrics, conditions) if name.score == "p_corrected"]
    return sum(value < SIGNIFICANCE for value in p), len(p)
