"""One line of a summary: what was found for a question, beside its strongest opponent and the paper's number."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.evaluation.resampling import SIGNIFICANCE
from brainlm_lightning.report.scores import Estimate, Metrics

OPTIMUM = "optimum"  # knows the true model of a simulated cohort: a yardstick and no opponent


class Verdict(Enum):
    """How a method stands to its strongest opponent, in a paired test over subjects that is corrected."""

    AHEAD = "ahead"
    UNMET = "ahead, but the strongest known method was left out"
    BEHIND = "behind"
    UNDECIDED = "no significant difference"
    UNTESTED = "not tested against each other"
    ALONE = "nothing to compare with"


@dataclass(frozen=True)
class Finding:
    """What was found in one condition.

    Attributes:
        cohort: the test cohort.
        what: the condition in words, "75 % hidden".
        score: name of the score, with its unit.
        method: the method under test.
        ours: its score.
        opponent: the method with the best score among the others; "" if there is none.
        theirs: its score.
        compared: how the two compare.
        paper: the paper's number and where it was measured; "" where it has none.
        digits: decimals to show.
        scale: factor before showing: 100 for per cent.
        absent: methods without which nothing is ahead of the strongest known, and that this test left out.
    """

    cohort: str
    what: str
    score: str
    method: str
    ours: Estimate
    opponent: str
    theirs: Estimate
    compared: Verdict
    paper: str = ""
    digits: int = 3
    scale: float = 1.0
    absent: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What may be said of the method: being ahead of weaker methods alone is no merit."""
        return Verdict.UNMET if self.compared is Verdict.AHEAD and self.absent else self.compared


@dataclass(frozen=True)
class Truth:
    """What a simulation planted, beside what was found.

    Attributes:
        what: the quantity and where.
        planted: in words or numbers.
        found: the same.
    """

    what: str
    planted: str
    found: str


def against_strongest(
    metrics: Metrics, condition: MetricName, method: str, others: Iterable[str], score: tuple[str, str, bool]
) -> tuple[str, Estimate, Verdict]:
    """The strongest opponent of a method, its score, and how the method stands to it.

    Args:
        metrics: of a run.
        condition: whose scores are compared.
        method: under test.
        others: the other methods; the optimum is left out.
        score: name of the score that is shown, name of the score that is tested, and whether low values are better.
    """
    shown, tested, low_is_better = score
    values = {other: metrics.get(condition.by(other).of(shown), math.nan) for other in others if other != OPTIMUM}
    values = {other: value for other, value in values.items() if not math.isnan(value)}
    if not values:
        return "", Estimate(math.nan), Verdict.ALONE
    best = (min if low_is_better else max)(values, key=lambda other: values[other])
    theirs = Estimate.read(metrics, condition.by(best).of(shown))
    return best, theirs, verdict(metrics, condition, (method, best), tested, low_is_better)


def verdict(
    metrics: Metrics, condition: MetricName, methods: tuple[str, str], tested: str, low_is_better: bool
) -> Verdict:
    """How the first of two methods stands to the second; the run may have compared them either way round."""
    first, second = methods
    for one, other, sign in ((first, second, 1), (second, first, -1)):
        pair = condition.by(one).against(other)
        p, difference = metrics.get(pair.of("p_corrected"), math.nan), metrics.get(pair.of(tested), math.nan)
        if math.isnan(p) or math.isnan(difference):
            continue
        if p >= SIGNIFICANCE or difference == 0:
            return Verdict.UNDECIDED
        return Verdict.AHEAD if (sign * difference > 0) != low_is_better else Verdict.BEHIND
    return Verdict.UNTESTED


def absent(known: Iterable[str], methods: Collection[str]) -> tuple[str, ...]:
    """Which of the strongest known methods of a question a test left out."""
    return tuple(name for name in known if name not in methods)


def first_of(preferred: Iterable[str], available: Collection[str]) -> str | None:
    """The first preferred name that is available; None if there is none."""
    return next((name for name in preferred if name in available), None)
