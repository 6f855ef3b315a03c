"""What a reader has to know before believing a number."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from brainlm_lightning.evaluation.names import data_name, methods_at_edge, parsed
from brainlm_lightning.evaluation.resampling import SIGNIFICANCE
from brainlm_lightning.report.html.runs import Run, Runs

LOW_PASSED = 0.6  # share of a window's frames that are free: below it, a filter has removed much
FEW_SUBJECTS = math.ceil(1 - math.log2(SIGNIFICANCE))  # the two-sided signed-rank test of n subjects reaches 2^(1 - n)
SEEN = ("num_tested_seen_in_pretraining", "num_subjects_seen")


@dataclass(frozen=True)
class Warned:
    """A warning.

    Attributes:
        run: whose numbers it concerns.
        what: in a few words.
        meaning: what follows from it.
    """

    run: str
    what: str
    meaning: str


def warnings(runs: Runs) -> list[Warned]:
    """All warnings, each once."""
    found = [
        warning
        for run in runs.tests
        for kind in (_low_passed, _small, _seen, _edges, _unclean)
        for warning in kind(run)
    ]
    return list(dict.fromkeys(found))


def _low_passed(run: Run) -> Iterator[Warned]:
    for cohort in dict.fromkeys(name.cohort for name in parsed(run.metrics)):
        free, frames = (
            run.metrics.get(data_name(cohort, what), math.nan)
            for what in ("effective_dimensions", "dimensions_of_frames")
        )
        if free < LOW_PASSED * frames:
            yield Warned(
                run.name,
                f"{cohort} is low-passed: {free:.0f} of {frames:.0f} frames of a window are free",
                "hidden and future frames follow from their neighbours by interpolation; a high R² is no merit",
            )


def _small(run: Run) -> Iterator[Warned]:
    counts: dict[str, float] = {}
    for name in parsed(run.metrics):
        if name.score in ("num_subjects", "num_tested"):
            counts[name.cohort] = max(counts.get(name.cohort, 0), run.metrics[str(name)])
    for cohort, count in counts.items():
        if count < FEW_SUBJECTS:
            yield Warned(
                run.name,
                f"{cohort} is tested on {count:.0f} subjects",
                f"a paired signed-rank test of {count:.0f} subjects cannot fall below p = {2 ** (1 - count):.2g}: "
                "nothing can be "
                f"significant, and “no significant difference” says nothing; {FEW_SUBJECTS} are the least",
            )


def _seen(run: Run) -> Iterator[Warned]:
    worst: dict[str, float] = {}
    for name in parsed(run.metrics):
        if name.score.endswith(SEEN):
            worst[name.cohort] = max(worst.get(name.cohort, 0), run.metrics[str(name)])
    for cohort, count in worst.items():
        if count > 0:
            yield Warned(
                run.name,
                f"{count:.0f} of the subjects of {cohort} that were tested were seen in pretraining",
                "their recordings (not their labels) are no news to the model; results on new people may be lower",
            )


def _edges(run: Run) -> Iterator[Warned]:
    edge = methods_at_edge(run.metrics)
    if edge:
        yield Warned(
            run.name,
            f"chosen at the edge of a grid: {', '.join(edge)}",
            "another setting may be better still: these opponents are not shown at their best",
        )


def _unclean(run: Run) -> Iterator[Warned]:
    if run.provenance.get("git_dirty"):
        yield Warned(
            run.name,
            "was run with code that differs from its commit",
            "the commit alone does not bring these numbers back",
        )
