"""Embeddings of training and test subjects' halves, scored and compared with connectivity of the same frames.

Shapes: U subjects, F features, Y entries of connectivity.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brainlm_lightning.evaluation.comparison import paired_comparison
from brainlm_lightning.evaluation.names import ENDS, MetricName
from brainlm_lightning.tasks.compare import Numbers
from brainlm_lightning.tasks.identity.halves import Halves
from brainlm_lightning.tasks.identity.score import (
    LinearReading,
    mean_of,
    r2_of,
    reidentified,
    reliability,
    shrinkage,
    squared_errors,
)

CONDITION = "identity"
CONNECTIVITY = "connectivity"  # what every embedding stands beside
NETWORKS = "network_connectivity"  # the same between networks, where the atlas names some
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HalfEmbeddings:
    """Embeddings of subjects' halves.

    Attributes:
        halves: whose.
        values: name -> (2 U, F): first halves, then second ones; NaN for subjects without a second.
    """

    halves: Halves
    values: Mapping[str, Floats]

    def first(self, name: str, only_whole: bool = False) -> Floats:
        """Embeddings of first halves; of all subjects, or of those who have a second."""
        first_UF = self.values[name][: len(self.halves.subject_U)]
        return first_UF[self.halves.has_second_U] if only_whole else first_UF

    def second(self, name: str) -> Floats:
        """Embeddings of second halves, of the subjects who have one."""
        count = len(self.halves.subject_U)
        return self.values[name][count : 2 * count][self.halves.has_second_U]


def scored(cohort: str, train: HalfEmbeddings, test: HalfEmbeddings) -> Numbers:
    """All scores of all embeddings on a test set, and each embedding against connectivity.

    Args:
        cohort: name of the test set.
        train: halves of training subjects.
        test: halves of test subjects; both with the embedding ``connectivity``.

    Returns:
        `test/<cohort>/identity/<embedding>/<score>`: ``reidentification`` (chance is 1 over the subjects),
        ``reliability``, ``reads_r2`` (connectivity of the same half, read linearly) and ``other_half_r2`` (that of the
        other half); p-values are uncorrected.
    """
    whole = MetricName(cohort, CONDITION)
    num_whole = int(test.halves.has_second_U.sum())
    numbers: Numbers = {
        whole.of("num_subjects"): float(len(test.halves.subject_U)),
        whole.of("num_subjects_with_two_halves"): float(num_whole),
    }
    found: dict[str, Floats] = {}
    for name in test.values:
        of = MetricName(cohort, CONDITION, name)
        scores = reads(name, train, test)
        if num_whole > 1:
            scores |= across_halves(name, train, test, found)
        numbers |= {of.of(score): value for score, value in scores.items()}
    for name in (name for name in found if name != CONNECTIVITY):
        pair = MetricName(cohort, CONDITION, CONNECTIVITY).against(name)
        result = paired_comparison(found[CONNECTIVITY], found[name])
        ends = zip(ENDS, (result.difference, result.low, result.high), strict=True)
        numbers |= {pair.of(f"reidentification{end}"): value for end, value in ends}
        numbers |= {pair.of("p"): result.p, pair.of("num_subjects"): float(result.num_subjects)}
    return numbers


def reads(name: str, train: HalfEmbeddings, test: HalfEmbeddings) -> Numbers:
    """How much of a half's connectivity, between networks if there are any, can be read linearly from its embedding."""
    goal = NETWORKS if NETWORKS in train.values else CONNECTIVITY
    group_Y = train.first(goal).mean(0)
    reading = LinearReading.fit(train.first(name), train.first(goal) - group_Y)
    predicted_UY = reading.predict(test.first(name)) + group_Y
    return r2_of(squared_errors(test.first(goal), predicted_UY, group_Y), "reads_r2")


def across_halves(name: str, train: HalfEmbeddings, test: HalfEmbeddings, found: dict[str, Floats]) -> Numbers:
    """Re-identification, reliability, and how well the other half's connectivity is predicted; notes the first."""
    mean_F = train.first(name).mean(0)
    first_UF, second_UF = test.first(name, only_whole=True), test.second(name)
    found[name] = reidentified(first_UF - mean_F, second_UF - mean_F)
    numbers = mean_of(found[name], "reidentification") | {"reliability": reliability(first_UF, second_UF)}
    if train.halves.has_second_U.sum() < 2:
        return numbers
    group_Y = train.first(CONNECTIVITY).mean(0)
    goal_UY, own_UF = train.second(CONNECTIVITY) - group_Y, train.first(name, only_whole=True)
    if name == CONNECTIVITY:
        predicted_UY = shrinkage(own_UF - group_Y, goal_UY) * (first_UF - group_Y) + group_Y
    else:
        predicted_UY = LinearReading.fit(own_UF, goal_UY).predict(first_UF) + group_Y
    return numbers | r2_of(squared_errors(test.second(CONNECTIVITY), predicted_UY, group_Y), "other_half_r2")
