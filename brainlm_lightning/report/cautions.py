"""What must be known to read any table of scores: how free the data were, and which method is not at its best."""

from collections.abc import Iterable, Iterator

from brainlm_lightning.evaluation.names import MetricName, data_name, methods_at_edge, parsed
from brainlm_lightning.report.scores import Metrics


def cautions(metrics: Metrics, conditions: Iterable[MetricName]) -> list[str]:
    """Notes for the table of these conditions.

    Args:
        metrics: of the run.
        conditions: that the table shows; tables without any get no note.
    """
    shown = set(conditions)
    cohorts = dict.fromkeys(condition.cohort for condition in shown)
    return [*_free_frames(metrics, cohorts), *_edges(metrics, shown)]


def _free_frames(metrics: Metrics, cohorts: Iterable[str]) -> Iterator[str]:
    """How many frames of a window are free in time, by cohort."""
    for cohort in cohorts:
        free, frames = (
            metrics.get(data_name(cohort, what)) for what in ("effective_dimensions", "dimensions_of_frames")
        )
        if free is not None and frames is not None:
            yield (
                f"{cohort}: {free:.0f} of {frames:.0f} frames of a window are free in time (effective dimensions); "
                "the fewer, the more follows from interpolation."
            )


def _edges(metrics: Metrics, shown: set[MetricName]) -> Iterator[str]:
    """Methods of the table whose settings were chosen at the edge of their grid."""
    methods = {name.method for name in parsed(metrics) if name.by() in shown}
    edge = [method for method in methods_at_edge(metrics) if method in methods]
    if edge:
        yield f"Chosen at the edge of a grid, so that another setting may be better: {', '.join(edge)}."
