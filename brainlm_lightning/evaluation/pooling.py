"""Repeated splits of one cohort as one sample: the test subjects of several runs together.

A small cohort has few test subjects, and four can show no significance. Where the same experiment is run on several
splits every subject tests in one of them, each time with a model that has not seen it. Training sets overlap, so the
subjects' scores are not quite independent: intervals and p-values are somewhat too small.

Shapes: U subjects of a run, K six sums.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainlm_lightning.evaluation.comparison import compare, with_corrected_p
from brainlm_lightning.evaluation.metrics import scores
from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.run_folder import read_arrays, read_metrics

SUBJECTS, SUMS = "subject_U", "sums_UK"  # arrays of a reconstruction test
Arrays = Mapping[str, NDArray[Any]]


def pooled_runs(folders: Sequence[Path], method: str | None = None) -> dict[str, float]:
    """The metrics of the test subjects of several run folders together; see `pooled`.

    Args:
        folders: of the runs.
        method: that is compared with all others; None = the one that the runs compared. With one, a single run is
            compared anew.

    Raises:
        ValueError: a single run without a method to compare; a run compared nothing with its model, or the runs are
            not of one experiment.
    """
    if len(folders) < 2 and method is None:
        raise ValueError(
            f"got {len(folders)} run; expected the tests of one experiment on two or more splits, or --compare METHOD "
            "to compare another method of a single run with the others"
        )
    references = [method or _compared(folder) for folder in folders]
    return pooled([read_arrays(folder) for folder in folders], references)


def pooled(runs: Sequence[Arrays], references: Sequence[str]) -> dict[str, float]:
    """Scores, intervals and corrected paired tests of the subjects of all runs, named as those of one run.

    A subject that tests in several runs counts once, with the values of all of them. What all runs have is pooled:
    cohorts, conditions and methods of some are left out, and so are scores that need more than a subject's sums.

    Args:
        runs: `arrays.npz` of each run's test.
        references: of each run, the method to compare with all others; the same in all of them.

    Raises:
        ValueError: no runs, different references, or nothing that all runs have of the reference.
    """
    if not runs or len(set(references)) != 1:
        raise ValueError(
            f"got {len(runs)} runs about {', '.join(sorted(set(references)))}; expected the tests of one experiment"
        )
    numbers: dict[str, float] = {}
    for condition, methods in _shared(runs).items():
        if references[0] not in methods:
            continue
        subject_R = np.concatenate([arrays[condition.of(SUBJECTS)] for arrays in runs])
        sums = {name: _stacked(runs, condition.by(name)) for name in methods}
        for name, sums_R1K in sums.items():
            found = {key: value for key, value in scores(sums_R1K, subject_R).items() if "_pooled" in key}
            numbers |= {condition.by(name).of(key): value for key, value in found.items()}
            numbers[condition.by(name).of("num_subjects")] = float(len(np.unique(subject_R)))
        compared = compare(sums, subject_R, references[0])
        numbers |= {condition.of(key): value for key, value in compared.items()}
    if not numbers:
        raise ValueError(
            "the runs have no condition in common with sums of their subjects; expected tests of reconstruction of one "
            "cohort, with the same shares hidden. Test older runs again: they did not keep these sums"
        )
    return with_corrected_p(numbers)


def _compared(folder: Path) -> str:
    """The method that a run compared with the others."""
    for key in read_metrics(folder):
        name = MetricName.parse(key)
        if name and name.pair:
            return name.pair[0]
    raise ValueError(f"{folder} compares no methods; expected the test of an experiment with baselines")


def _shared(runs: Sequence[Arrays]) -> dict[MetricName, list[str]]:
    """The conditions that all runs have, each with the methods that all have, in the order of the first run."""
    found: dict[MetricName, list[str]] = {}
    for key in runs[0]:
        name = MetricName.parse(key)
        if name and name.method and name.score == SUMS and all(key in arrays for arrays in runs):
            found.setdefault(name.by(), []).append(name.method)
    return found


def _stacked(runs: Sequence[Arrays], method: MetricName) -> NDArray[np.float64]:
    """A method's sums of each subject of each run, (R, 1, K): a run's subject takes the place of a recording."""
    return np.concatenate([arrays[method.of(SUMS)] for arrays in runs])[:, None]
