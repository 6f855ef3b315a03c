"""What completed windows keep of connectivity and spectrum, as a table beside R²."""

from collections.abc import Iterable, Sequence

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.report.report_table import ReportTable
from brainlm_lightning.report.scores import MISSING, Estimate, Metrics

HEADS = {
    "r2_pooled": "R² of hidden values",
    "r2_connectivity": "connectivity",
    "r2_lagged_connectivity": "lagged connectivity",
    "r2_spectrum": "spectrum",
}
NOTE = (
    "The rest of each row: R² over all pairs of parcels (correlation in a window; of one parcel with another a frame "
    "later) or all frequencies (log10 of the mean power), of windows completed with what a method predicts, against "
    "the true windows [95 % interval from resampling subjects]."
)


def completed_table(
    metrics: Metrics, condition: MetricName, heading: str, methods: Sequence[str]
) -> ReportTable | None:
    """Methods in rows; None where a run has no such scores.

    Args:
        metrics: of the run.
        condition: what is hidden.
        heading: the same in words, such as ``50 % hidden``.
        methods: in the order of the rows.
    """
    known = [name for name in methods if condition.by(name).of("r2_connectivity") in metrics]
    rows = [[name, *_row(metrics, condition.by(name), HEADS)] for name in known]
    title = f"Reconstruction, {condition.cohort}, what completed windows keep, {heading}"
    return ReportTable(title, [["method", *HEADS.values()], *rows], [NOTE], (condition,)) if rows else None


def _row(metrics: Metrics, method: MetricName, scores: Iterable[str]) -> list[str]:
    return [
        str(Estimate.read(metrics, method.of(score))) if method.of(score) in metrics else MISSING for score in scores
    ]
