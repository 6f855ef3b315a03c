"""How well parcels are sorted into networks: accuracy by recording, intervals over subjects, paired tests.

Intervals and tests are over subjects. All subjects share one atlas and its labels, so they say what to expect of other
people, not of another atlas.

Shapes: R recordings, U subjects, M metrics, Q networks (true, predicted in Q × Q).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainlm_lightning.evaluation.comparison import paired_comparison
from brainlm_lightning.evaluation.metrics import mean_defined
from brainlm_lightning.evaluation.names import ENDS, pair_name
from brainlm_lightning.evaluation.resampling import percentile_interval, subject_bootstrap, sum_by_subject

Floats = NDArray[np.float64]
SCORES = ("accuracy", "balanced_accuracy")


def recording_scores(confusion_RQQ: ArrayLike) -> Floats:
    """Accuracy and balanced accuracy (mean over networks of the share found) of each recording, (R, M)."""
    counts_RQQ = np.asarray(confusion_RQQ, dtype=np.float64)
    right_RQ, all_RQ = np.diagonal(counts_RQQ, axis1=1, axis2=2), counts_RQQ.sum(2)
    recall_RQ = np.where(all_RQ > 0, right_RQ / np.maximum(all_RQ, 1), np.nan)
    return np.stack([right_RQ.sum(1) / all_RQ.sum(1), mean_defined(recall_RQ)], axis=1)


def subject_scores(confusion_RQQ: ArrayLike, subject_of_recording: Sequence[str] | NDArray[Any]) -> Floats:
    """Mean over each subject's recordings, (U, M), subjects in sorted order."""
    scores_RM = recording_scores(confusion_RQQ)
    totals = sum_by_subject(np.concatenate([scores_RM, np.ones((len(scores_RM), 1))], axis=1), subject_of_recording)
    return totals[:, :2] / totals[:, 2:]


def network_scores(
    confusion_RQQ: ArrayLike,
    subject_of_recording: Sequence[str] | NDArray[Any],
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Mean over recordings of accuracy and balanced accuracy, with 95 % intervals from resampling subjects.

    Args:
        confusion_RQQ: counts of true and predicted networks over the test parcels of all divisions.
        subject_of_recording: (R,) subject ids.
        num_resamples: draws of the subjects.
        seed: of the draws.
    """
    scores_RM = recording_scores(confusion_RQQ)
    totals = sum_by_subject(np.concatenate([scores_RM, np.ones((len(scores_RM), 1))], axis=1), subject_of_recording)
    draws = subject_bootstrap(lambda sums: sums[:, :2] / sums[:, 2:], totals, num_resamples, seed)
    numbers = np.stack([scores_RM.mean(0), *percentile_interval(draws, len(totals))])
    found = {name + end: float(numbers[i, j]) for j, name in enumerate(SCORES) for i, end in enumerate(ENDS)}
    return found | {"num_subjects": float(len(totals)), "num_recordings": float(len(scores_RM))}


def compare_methods(
    confusions: Mapping[str, ArrayLike],
    subject_of_recording: Sequence[str] | NDArray[Any],
    method: str,
    fixed: Collection[str] = (),
) -> dict[str, float]:
    """A method against every other, by each subject's accuracy and balanced accuracy; p-values are corrected later.

    Args:
        confusions: method -> counts of each recording, (R, Q, Q).
        subject_of_recording: (R,) subject ids.
        method: which one is compared with all others.
        fixed: methods that give every recording the same features. They get no test: their scores differ between
            recordings by the random divisions of the parcels alone.

    Returns:
        `<method>_minus_<other>/{accuracy, accuracy_low, accuracy_high, p, num_subjects}`, the test by accuracy, and
        `balanced_accuracy` with its interval.
    """
    scores = {name: subject_scores(confusion_RQQ, subject_of_recording) for name, confusion_RQQ in confusions.items()}
    found: dict[str, float] = {}
    for other in (name for name in confusions if name != method):
        pair = pair_name(method, other)
        for column, score in enumerate(SCORES):
            result = paired_comparison(scores[method][:, column], scores[other][:, column])
            ends = (result.difference, result.low, result.high)
            found |= {f"{pair}/{score}{end}": value for end, value in zip(ENDS, ends, strict=True)}
            if score == "accuracy":
                found[f"{pair}/num_subjects"] = float(result.num_subjects)
                found |= {} if other in fixed else {f"{pair}/p": result.p}
    return found
