"""Reads a run's metrics for all pages: estimates with intervals, methods of a condition, paired tests."""

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

MARKS = {None: "", True: " *↓", False: " *↑"}  # by `Estimate.worse`
MISSING = "–"


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % interval.

    Attributes:
        value: NaN if the score is undefined or was not computed.
        low: lower end of the interval; NaN if there is none.
        high: upper end.
        worse: True / False if the method is significantly worse / better than the reference, else None.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    worse: bool | None = None

    @classmethod
    def read(cls, metrics: Metrics, name: str, worse: bool | None = None) -> "Estimate":
        """Reads the metric of this name, and its `_low` and `_high`."""
        value, low, high = (metrics.get(name + end, math.nan) for end in ENDS)
        return cls(value, low, high, worse)

    def __str__(self) -> str:
        """`0.391 [0.380, 0.402] *↓`."""
        return self.text()

    def text(self, digits: int = 3, scale: float = 1) -> str:
        """Formats the estimate times `scale` with `digits` decimals; a dash if it is undefined."""
        if math.isnan(self.value):
            return MISSING
        value, low, high = (f"{number * scale:.{digits}f}" for number in (self.value, self.low, self.high))
        return value + ("" if math.isnan(self.low) else f" [{low}, {high}]") + MARKS[self.worse]


def methods_with(metrics: Metrics, score: str) -> dict[MetricName, list[str]]:
    """Condition -> methods that have this score, in the order of the metrics, without comparisons."""
    found: dict[MetricName, list[str]] = {}
    for name in parsed(metrics):
        if name.score == score and name.method and not name.pair:
            found.setdefault(name.by(), []).append(name.method)
    return found


def names_under(names: Iterable[str], conditions: Iterable[MetricName]) -> list[MetricName]:
    """Parses the names of a run and keeps those of these conditions."""
    wanted = set(conditions)
    return [name for name in parsed(names) if name.by() in wanted]


def reference_method(metrics: Metrics, conditions: Mapping[MetricName, Iterable[str]], default: str = "") -> str:
    """The method that the others are compared with: the one that is first in most comparisons.

    Args:
        metrics: of a run.
        conditions: condition -> its methods, at least one; the first is the answer if there are no comparisons.
        default: breaks ties between methods with equally many comparisons.
    """
    pairs = {(name.by(), name.pair) for name in names_under(metrics, conditions) if name.pair}
    counts = Counter(first for _, (first, _) in pairs)
    candidates = [*(method for methods in conditions.values() for method in methods), *sorted(counts)]
    return max(candidates, key=lambda method: (counts[method], method == default))


def is_worse(metrics: Metrics, comparison: MetricName, score: str) -> bool | None:
    """True if the second method of a comparison scores significantly lower than the first, False if higher.

    Returns:
        None if they do not differ significantly or were not compared.
    """
    p = metrics.get(comparison.of("p_corrected"), math.nan)
    return metrics[comparison.of(score)] > 0 if p < SIGNIFICANCE else None


def num_significant(metrics: Metrics, conditions: Iterable[MetricName]) -> tuple[int, int]:
    """Number of significant comparisons under these conditions, and of all comparisons."""
    p = [metrics[str(name)] for name in names_under(metrics, conditions) if name.score == "p_corrected"]
    return sum(value < SIGNIFICANCE for value in p), len(p)
