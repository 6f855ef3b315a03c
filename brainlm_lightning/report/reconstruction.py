"""Reconstruction scores as a table: methods by hidden ratio, with intervals, beside the paper's numbers."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from brainlm_lightning.report.grid import Grid

# Table 1 of the paper: R² of the model trained on all of UKB with 75 % hidden, by cohort and hidden ratio.
PAPER_R2 = {"UKB": {0.2: 0.402, 0.5: 0.389, 0.75: 0.343}, "HCP": {0.2: 0.316}}
SIGNIFICANT = 0.05
SCORE_NAME = re.compile(r"test/(?P<cohort>[^/]+)/hidden(?P<ratio>\d*\.?\d+)/(?P<method>[^/]+)/r2_pooled")
COMPARISON_NAME = re.compile(r"test/[^/]+/hidden[^/]+/(?P<reference>[^/]+?)_minus_[^/]+/r2_subject")


@dataclass(frozen=True)
class Cell:
    """One method's R² at one hidden ratio.

    Attributes:
        r2: pooled over all hidden values.
        low: lower end of the 95 % interval over subjects; NaN where there is none.
        high: upper end.
        worse: True or False where the method is significantly worse or better than the reference, else None.
    """

    r2: float
    low: float
    high: float
    worse: bool | None

    def __str__(self) -> str:
        """`0.391 [0.380, 0.402] *↓`."""
        if math.isnan(self.r2):
            return "–"
        interval = "" if math.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        mark = {None: "", True: " *↓", False: " *↑"}[self.worse]
        return f"{self.r2:.3f}{interval}{mark}"


Cells = dict[str, dict[float, Cell]]


def reference_method(metrics: Mapping[str, float]) -> str:
    """The model that a run is about: what others are compared with, `mae` where nothing is."""
    found = (match["reference"] for name in metrics if (match := COMPARISON_NAME.fullmatch(name)))
    return next(found, "mae")


def _is_worse(metrics: Mapping[str, float], condition: str, method: str) -> bool | None:
    comparison = f"{condition}/{reference_method(metrics)}_minus_{method}"
    p = metrics.get(f"{comparison}/p_corrected", math.nan)
    return metrics[f"{comparison}/r2_subject"] > 0 if p < SIGNIFICANT else None


def reconstruction_cells(metrics: Mapping[str, float]) -> dict[str, Cells]:
    """Cohort -> method -> hidden ratio -> cell, from names `test/<cohort>/hidden<ratio>/<method>/r2_pooled`.

    The reference method comes first, the others in the order of the metrics.
    """
    found: dict[str, Cells] = {}
    for name, value in metrics.items():
        if not (match := SCORE_NAME.fullmatch(name)):
            continue
        cohort, method, condition = match["cohort"], match["method"], name.rsplit("/", 2)[0]
        low, high = (metrics.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
        cell = Cell(value, low, high, _is_worse(metrics, condition, method))
        found.setdefault(cohort, {}).setdefault(method, {})[float(match["ratio"])] = cell
    reference = reference_method(metrics)
    return {
        cohort: dict(sorted(methods.items(), key=lambda item: item[0] != reference))
        for cohort, methods in found.items()
    }


def _notes(metrics: Mapping[str, float], cohort: str) -> list[str]:
    """What stands below a cohort's table."""
    prefix = f"test/{cohort}/hidden"
    subjects = {int(n) for name, n in metrics.items() if name.startswith(prefix) and name.endswith("/num_subjects")}
    of = f"resampling {'–'.join(map(str, sorted({min(subjects), max(subjects)})))} subjects" if subjects else "subjects"
    notes = [f"R² pooled over all hidden values [95 % interval from {of}]."]
    tests = [p for name, p in metrics.items() if name.startswith(prefix) and name.endswith("/p_corrected")]
    if tests:
        notes.append(
            f"* differs from {reference_method(metrics)} in R² per subject, ↓ worse or ↑ better: p < {SIGNIFICANT}, "
            f"Wilcoxon's paired test, Benjamini–Hochberg over the whole test run; "
            f"{sum(p < SIGNIFICANT for p in tests)} of the {len(tests)} comparisons here."
        )
    numbers = "; ".join(
        f"{paper_cohort} " + ", ".join(f"{r2:.3f} at {100 * ratio:g} %" for ratio, r2 in by_ratio.items())
        for paper_cohort, by_ratio in PAPER_R2.items()
    )
    return [*notes, f"The paper's Table 1: {numbers} hidden."]


def _grid(cells: Cells) -> list[list[str]]:
    """The header and a row for each method; a dash where a method has no score."""
    ratios = sorted({ratio for row in cells.values() for ratio in row})
    header = ["method", *(f"{100 * ratio:g} % hidden" for ratio in ratios)]
    return [header] + [[method, *(str(row.get(ratio, "–")) for ratio in ratios)] for method, row in cells.items()]


def reconstruction_grids(metrics: Mapping[str, float]) -> list[Grid]:
    """A table for each cohort: methods by hidden ratio, `0.391 [0.380, 0.402]`; [] where there are no such scores."""
    return [
        Grid(f"Reconstruction, {cohort}", _grid(cells), _notes(metrics, cohort))
        for cohort, cells in reconstruction_cells(metrics).items()
    ]


def side_by_side(runs: Mapping[str, Mapping[str, float]]) -> Grid:
    """The models of several runs beside one another, like the paper's Table 1: a column a run, a row a condition."""
    models = {run: (reference_method(metrics), reconstruction_cells(metrics)) for run, metrics in runs.items()}
    found: dict[tuple[str, float], dict[str, Cell]] = {}
    for run, (model, cohorts) in models.items():
        for cohort, methods in cohorts.items():
            for ratio, cell in methods.get(model, {}).items():
                found.setdefault((cohort, ratio), {})[run] = cell
    rows = [
        [f"{cohort}, {100 * ratio:g} % hidden", *(str(cells.get(run, "–")) for run in runs)]
        for (cohort, ratio), cells in sorted(found.items())
    ]
    title = "R² of each run's model [95 % interval from resampling subjects]"
    return Grid(title, [["tested on", *runs], *rows])
