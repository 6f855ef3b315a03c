"""Reconstruction: R² of each method by hidden ratio as a table and a figure, beside the paper's numbers."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.evaluation.resampling import SIGNIFICANCE
from brainlm_lightning.report.figures import legend_handles, plain_text
from brainlm_lightning.report.page import Page, ReportFile
from brainlm_lightning.report.report_table import ReportTable
from brainlm_lightning.report.scores import (
    MISSING,
    Arrays,
    Estimate,
    Metrics,
    is_worse,
    methods_with,
    names_under,
    num_significant,
    reference_method,
)

# Table 1 of the paper: R² of the model trained on all of UKB with 75 % hidden, by cohort and hidden ratio.
PAPER_R2 = {"UKB": {0.2: 0.402, 0.5: 0.389, 0.75: 0.343}, "HCP": {0.2: 0.316}}
SCORE = "r2_pooled"
MODEL = "mae"  # the reference if a run has no comparisons

R2ByRatio = dict[float, Estimate]
Methods = dict[str, R2ByRatio]
Conditions = dict[MetricName, list[str]]


class ReconstructionPage(Page):
    """One table per cohort, and the figure of R² by hidden ratio."""

    def tables(self, metrics: Metrics) -> Iterator[ReportTable]:
        """Methods by hidden ratio, `0.391 [0.380, 0.402]`."""
        for cohort, conditions in _conditions(metrics).items():
            methods = _methods(metrics, conditions)
            notes = _notes(metrics, conditions)
            yield ReportTable(f"Reconstruction, {cohort}", _rows(methods), notes, tuple(conditions))

    def files(self, metrics: Metrics, arrays: Arrays) -> Iterator[ReportFile]:
        """The figure of R² by hidden ratio, if there are scores."""
        if _conditions(metrics):
            yield ReportFile("r2_by_ratio", partial(r2_by_ratio_figure, metrics))


def _conditions(metrics: Metrics) -> dict[str, Conditions]:
    """Cohort -> `test/<cohort>/hidden<ratio>` -> its methods."""
    found: dict[str, Conditions] = {}
    for condition, methods in methods_with(metrics, SCORE).items():
        if condition.level("hidden") is not None:
            found.setdefault(condition.cohort, {})[condition] = methods
    return found


def _reference(metrics: Metrics, conditions: Conditions) -> str:
    """The model under test."""
    return reference_method(metrics, conditions, MODEL)


def reconstruction_scores(metrics: Metrics) -> dict[str, Methods]:
    """Cohort -> method -> hidden ratio -> R², pooled over all hidden values.

    The reference method comes first, the others follow in the order of the metrics.
    """
    return {cohort: _methods(metrics, conditions) for cohort, conditions in _conditions(metrics).items()}


def _methods(metrics: Metrics, conditions: Conditions) -> Methods:
    """Method -> hidden ratio -> R² in one cohort."""
    reference = _reference(metrics, conditions)
    methods = dict.fromkeys(method for methods in conditions.values() for method in methods)
    ordered = sorted(methods, key=lambda method: method != reference)
    return {method: _by_ratio(metrics, conditions, reference, method) for method in ordered}


def _by_ratio(metrics: Metrics, conditions: Conditions, reference: str, method: str) -> R2ByRatio:
    """One method's R² at each hidden ratio, marked by the paired test of R² per subject."""
    found = {}
    for condition, methods in conditions.items():
        if method in methods:
            worse = is_worse(metrics, condition.by(reference).against(method), "r2_subject")
            found[condition.level("hidden") or 0.0] = Estimate.read(metrics, condition.by(method).of(SCORE), worse)
    return found


def _notes(metrics: Metrics, conditions: Conditions) -> list[str]:
    """The lines below a cohort's table."""
    names = names_under(metrics, conditions)
    counts = sorted({int(metrics[str(name)]) for name in names if name.score == "num_subjects"})
    subjects = f"{'–'.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} subjects" if counts else "subjects"
    notes = [f"R² pooled over all hidden values [95 % interval from resampling {subjects}]."]
    significant, tests = num_significant(metrics, conditions)
    if tests:
        notes.append(
            f"* differs from {_reference(metrics, conditions)} in R² per subject, ↓ worse or ↑ better: "
            f"p < {SIGNIFICANCE}, Wilcoxon signed-rank test, Benjamini–Hochberg over the whole test run; "
            f"{significant} of the {tests} comparisons here."
        )
    numbers = "; ".join(
        f"{paper_cohort} " + ", ".join(f"{r2:.3f} at {100 * ratio:g} %" for ratio, r2 in by_ratio.items())
        for paper_cohort, by_ratio in PAPER_R2.items()
    )
    return [*notes, f"The paper's Table 1: {numbers} hidden."]


def _rows(methods: Methods) -> list[list[str]]:
    """The header, and one row per method; a dash where a score is missing."""
    ratios = sorted({ratio for row in methods.values() for ratio in row})
    header = ["method", *(f"{100 * ratio:g} % hidden" for ratio in ratios)]
    return [header] + [[method, *(str(row.get(ratio, MISSING)) for ratio in ratios)] for method, row in methods.items()]


def side_by_side(runs: Mapping[str, Metrics]) -> ReportTable:
    """The models of several runs side by side, like the paper's Table 1: one column per run, one row per condition."""
    found: dict[tuple[str, float], dict[str, Estimate]] = {}
    for run, metrics in runs.items():
        for cohort, conditions in _conditions(metrics).items():
            for ratio, r2 in _methods(metrics, conditions).get(_reference(metrics, conditions), {}).items():
                found.setdefault((cohort, ratio), {})[run] = r2
    rows = [
        [f"{cohort}, {100 * ratio:g} % hidden", *(str(r2.get(run, MISSING)) for run in runs)]
        for (cohort, ratio), r2 in sorted(found.items())
    ]
    title = "R² of each run's model [95 % interval from resampling subjects]"
    return ReportTable(title, [["tested on", *runs], *rows])


def r2_by_ratio_figure(metrics: Metrics) -> Figure:
    """Pooled R² of every method against the hidden ratio, with 95 % intervals over subjects; one panel per cohort.

    Args:
        metrics: of a test run, with names `test/<cohort>/hidden<ratio>/<method>/r2_pooled`.

    Raises:
        ValueError: there are none.
    """
    cohorts = reconstruction_scores(metrics)
    if not cohorts:
        raise ValueError(f"none of {len(metrics)} metrics is named test/<cohort>/hidden<ratio>/<method>/{SCORE}")
    figure = Figure(figsize=(1.9 + 4.6 * len(cohorts), 4), layout="constrained")
    panels = figure.subplots(1, len(cohorts), sharey=True, squeeze=False)[0]
    order = list(dict.fromkeys(method for methods in cohorts.values() for method in methods))
    for axes, (cohort, methods) in zip(panels, cohorts.items(), strict=True):
        _draw_methods(axes, cohort, methods, order)
    panels[0].set_ylabel("R² over all hidden values\n(95 % interval over subjects)")
    handles = legend_handles(panels)
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=9)
    return figure


def _draw_methods(axes: Axes, cohort: str, methods: Methods, order: Sequence[str]) -> None:
    """One line per method, in the same colour in all panels; offset sideways so that intervals do not overlap."""
    for method, by_ratio in methods.items():
        number = order.index(method)
        colour, shift = f"C{number % 10}", 0.008 * (number - (len(order) - 1) / 2)
        ratio, r2, low, high = np.array([[x, y.value, y.low, y.high] for x, y in sorted(by_ratio.items())]).T
        # Not error bars: a percentile interval need not contain the estimate, and their lengths could be negative.
        axes.vlines(ratio + shift, low, high, color=colour, linewidth=1.4)
        marker, label = "os^Dv<>P"[number % 8], plain_text(method)
        axes.plot(ratio + shift, r2, marker=marker, markersize=5, color=colour, label=label)
    ratios = sorted({ratio for by_ratio in methods.values() for ratio in by_ratio})
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xticks(ratios, [f"{100 * ratio:g}" for ratio in ratios])
    axes.set_xlabel("hidden (%)")
    axes.set_title(cohort, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
