"""Forecasts: scores of each method as a table, like the paper's Table 3, and the figures of a test run."""

from collections.abc import Iterator
from functools import partial

from matplotlib.figure import Figure

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.evaluation.resampling import SIGNIFICANCE
from brainlm_lightning.report.figures import parcel_map
from brainlm_lightning.report.finding import OPTIMUM, Finding, Truth, absent, against_strongest
from brainlm_lightning.report.forecast_figures import forecast_curves, forecast_figure
from brainlm_lightning.report.page import Page, ReportFile
from brainlm_lightning.report.report_table import ReportTable
from brainlm_lightning.report.scores import (
    MISSING,
    Arrays,
    Estimate,
    Metrics,
    is_worse,
    methods_with,
    reference_method,
)

# Table 3 of the paper: R², Pearson's R and MSE over 40 frames, in distribution (UKB) and out of it (HCP).
PAPER = {
    "BrainLM, fine-tuned": ((0.086, 0.280, 0.648), (0.028, 0.185, 0.568)),
    "BrainLM without pretraining": ((0.012, 0.112, 0.695), (0.007, 0.090, 0.583)),
    "LSTM": ((-0.001, 0.151, 0.704), (-0.020, 0.049, 0.598)),
    "Neural ODE": ((-0.577, 0.001, 1.083), (-0.469, 0.000, 0.857)),
    "Latent ODE": ((0.001, 0.023, 0.703), (-0.003, -0.000, 0.588)),
}
KNOWN = ("ar",)  # the strongest known of band-passed recordings; a test without it shows no merit
SCORES = {"r2_pooled": "R²", "pearson_r_pooled": "R", "mse_pooled": "MSE"}
PAPER_R2 = "0.086 (UKB), 0.028 (HCP), 40 frames"
BY_FRAME = (
    "Mean squared error and R² at each frame after the last one seen, pooled over windows; the band is the "
    "forecaster's 95 % interval from resampling subjects."
)
CURVES_SHOWN = (
    "One window's best, middle and worst forecast parcel by the forecaster's error, with the true continuation."
)
R2_SHOWN = "R² of the forecast in each parcel, over all windows and frames of the horizon."
CURVES = ("ar", "var", "optimum")  # drawn beside the forecaster if they were tested


class ForecastPage(Page):
    """One table per cohort; figures of error by frame, a few forecasts, and R² on the brain."""

    heading = "Forecasting"
    place = 3
    paper_table = 3
    wanted = "forecast"

    def tables(self, metrics: Metrics) -> Iterator[ReportTable]:
        """Methods by score."""
        for condition, methods in conditions(metrics).items():
            notes = _notes(metrics, condition, methods[0])
            rows, paper = _rows(metrics, condition, methods), _paper_rows()
            yield ReportTable(_title(metrics, condition), rows, notes, (condition,), paper)

    def files(self, metrics: Metrics, arrays: Arrays) -> Iterator[ReportFile]:
        """The figures, for all cohorts."""
        found = conditions(metrics)
        if found:
            titles = {condition: _title(metrics, condition) for condition in found}
            yield ReportFile("forecast_by_frame", partial(forecast_figure, arrays, found, titles), BY_FRAME, "4")
        for condition, (name, *others) in found.items():
            shown = [name, *(other for other in others if other in CURVES)]
            draw, cohort = partial(forecast_curves, arrays, condition, shown), condition.cohort
            yield ReportFile(f"forecast_curves_{cohort}", draw, f"{cohort}. {CURVES_SHOWN}")
            draw = partial(_r2_map, arrays, condition.by(name))
            yield ReportFile(f"forecast_r2_{cohort}", draw, f"{cohort}. {R2_SHOWN}")

    def findings(self, metrics: Metrics) -> Iterator[Finding]:
        """R² of the forecaster beside the strongest method that is not another form of it."""
        for condition, (own, *others) in conditions(metrics).items():
            ours = Estimate.read(metrics, condition.by(own).of("r2_pooled"))
            rivals = [name for name in others if not name.startswith(f"{own}_")]
            score = ("r2_pooled", "r2_subject", False)
            best, theirs, verdict = against_strongest(metrics, condition, own, rivals, score)
            what = f"{condition.level('horizon'):g} frames"
            told = (condition.cohort, what, "R²", own, ours, best, theirs, verdict, PAPER_R2)
            yield Finding(*told, absent=absent(KNOWN, others))

    def truths(self, metrics: Metrics) -> Iterator[Truth]:
        """The forecast that knows the simulation's true model."""
        for condition, (own, *others) in conditions(metrics).items():
            if OPTIMUM in others:
                planted, found = (Estimate.read(metrics, condition.by(name).of("r2_pooled")) for name in (OPTIMUM, own))
                what = f"Best possible forecast, {condition.cohort}, {condition.level('horizon'):g} frames"
                yield Truth(what, f"R² {planted.text()}", f"R² {found.text()} by {own}")


def conditions(metrics: Metrics) -> dict[MetricName, list[str]]:
    """`test/<cohort>/horizon<frames>` -> its methods, the forecaster under test first."""
    found = {}
    for condition, methods in methods_with(metrics, "r2_pooled").items():
        if condition.level("horizon") is not None:
            reference = reference_method(metrics, {condition: methods})
            found[condition] = sorted(methods, key=lambda method, first=reference: method != first)  # type: ignore[misc]
    return found


def _rows(metrics: Metrics, condition: MetricName, methods: list[str]) -> list[list[str]]:
    """The header, and one row per method; the last column counts frames where the first method is better / worse."""
    rows = [["method", *SCORES.values(), "frames better / worse"]]
    for method in methods:
        pair = condition.by(methods[0]).against(method)
        worse = {"r2_pooled": is_worse(metrics, pair, "r2_subject")}  # the only score that is tested
        cells = [Estimate.read(metrics, condition.by(method).of(score), worse.get(score)).text() for score in SCORES]
        counts = [metrics.get(pair.of(f"num_frames_{which}")) for which in ("better", "worse")]
        rows.append([method, *cells, MISSING if None in counts else " / ".join(f"{count:g}" for count in counts)])
    return rows


def _title(metrics: Metrics, condition: MetricName) -> str:
    frames, seconds = condition.level("horizon"), metrics[condition.of("horizon_s")]
    return f"Forecast, {condition.cohort}, {frames:g} frames ({seconds:g} s)"


def _notes(metrics: Metrics, condition: MetricName, reference: str) -> list[str]:
    """The lines below a condition's table."""
    subjects = int(metrics[condition.by(reference).of("num_subjects")])
    windows, too_short = (int(metrics[condition.of(f"num_{name}")]) for name in ("windows", "recordings_too_short"))
    paper = "; ".join(f"{name} " + " and ".join(map(_triple, numbers)) for name, numbers in PAPER.items())
    return [
        f"Pooled over {windows} windows of {subjects} subjects [95 % interval from resampling subjects]; "
        f"{too_short} recordings are too short for a window.",
        f"* differs from {reference} in R² per subject, ↓ worse or ↑ better; last column: number of frames at which "
        f"the error of {reference} is lower / higher: p < {SIGNIFICANCE}, Wilcoxon signed-rank tests, "
        "Benjamini–Hochberg over all methods, frames and cohorts of the test run.",
        f"The paper's Table 3 (R² / R / MSE over 40 frames, UKB and HCP): {paper}.",
    ]


def _paper_rows() -> list[list[str]]:
    """The paper's table, a row for each of its methods and cohorts."""
    return [
        [f"paper, {cohort}: {name}", *(f"{number:.3f}" for number in numbers), MISSING]
        for place, cohort in enumerate(("UKB", "HCP"))
        for name, both in PAPER.items()
        for numbers in (both[place],)
    ]


def _triple(numbers: tuple[float, float, float]) -> str:
    return " / ".join(f"{number:.3f}" for number in numbers)


def _r2_map(arrays: Arrays, method: MetricName) -> Figure:
    title = f"R² of the forecast by {method.method}, {method.cohort}"
    return parcel_map(arrays[method.of("r2_P")], arrays["parcels/xyz_mm"], title, "R²")
