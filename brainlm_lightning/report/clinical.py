"""Prediction of clinical variables as tables: methods with their scores, like the paper's Table 2."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from brainlm_lightning.report.grid import Grid

# Table 2 of the paper, MSE of the scaled variable, mean ± std: SVM on raw data, SVM on embeddings, the tuned model.
PAPER_MSE = {
    "age": ("2.000 ± 0.222", "0.857 ± 0.114", "0.485 ± 0.025"),
    "PCL": ("0.034 ± 0.003", "0.022 ± 0.002", "0.018 ± 0.001"),
    "GAD-7": ("0.172 ± 0.007", "0.094 ± 0.008", "0.074 ± 0.005"),
    "neuroticism": ("0.160 ± 0.014", "0.086 ± 0.005", "0.072 ± 0.005"),
}
SIGNIFICANT = 0.05
# `networks` is no phenotype: how well parcels are sorted has a balanced accuracy, too.
NUMBER_NAME = re.compile(r"(?P<place>test/[^/]+/(?!networks/)[^/]+)/(?P<method>[^/]+)/(?:mse_scaled|balanced_accuracy)")
COMPARISON_NAME = re.compile(r"(?P<a>.+?)_minus_(?P<b>.+)/(?:squared_error|auc)")
# Column -> the score, and what else stands in it: an interval, or the mean ± std over folds.
NUMBER_COLUMNS = {"MSE, scaled": "mse_scaled_fold", "R²": "r2", "r within folds": "pearson_r", "MAE, own unit": "mae"}
CLASS_COLUMNS = {"AUC by fold": "auc_fold", "AUC within folds": "auc", "balanced accuracy": "balanced_accuracy"}


@dataclass(frozen=True)
class ClinicalResult:
    """What is known of one phenotype in one cohort.

    Attributes:
        place: beginning of its metrics' names, ``test/<cohort>/<phenotype>``.
        methods: in the order of the metrics.
        columns: heading -> score.
        reference: the method that all others are compared with.
    """

    place: str
    methods: tuple[str, ...]
    columns: dict[str, str]
    reference: str

    @property
    def title(self) -> str:
        """`Prediction of age, abide_cc400`."""
        _, cohort, phenotype = self.place.split("/")
        return f"Prediction of {phenotype}, {cohort}"


def clinical_results(metrics: Mapping[str, float]) -> list[ClinicalResult]:
    """The phenotypes among the metrics of a run; [] where there are none."""
    found: dict[str, list[str]] = {}
    for name in metrics:
        if (match := NUMBER_NAME.fullmatch(name)) and f"{match['place']}/num_tested" in metrics:
            found.setdefault(match["place"], []).append(match["method"])
    results = []
    for place, methods in found.items():
        classes = f"{place}/{methods[0]}/balanced_accuracy" in metrics
        columns = CLASS_COLUMNS if classes else NUMBER_COLUMNS
        results.append(ClinicalResult(place, tuple(methods), columns, _reference(metrics, place, methods)))
    return results


def _comparisons(metrics: Mapping[str, float], place: str) -> list[tuple[str, str, float]]:
    """(a, b, difference) of every paired test: of squared errors, or of AUC."""
    inside = {name.removeprefix(f"{place}/"): value for name, value in metrics.items() if name.startswith(f"{place}/")}
    return [(m["a"], m["b"], value) for name, value in inside.items() if (m := COMPARISON_NAME.fullmatch(name))]


def _reference(metrics: Mapping[str, float], place: str, methods: list[str]) -> str:
    """The method that is compared with the most others."""
    sides = [a for a, _, _ in _comparisons(metrics, place)]
    return max(methods, key=sides.count)


def _cell(metrics: Mapping[str, float], name: str) -> str:
    """`0.857 ± 0.114` over folds, or `0.39 [0.31, 0.46]`; a dash where there is no score."""
    if name.endswith("_fold"):
        mean, std = (metrics.get(f"{name}_{part}", math.nan) for part in ("mean", "std"))
        return "–" if math.isnan(mean) else f"{mean:.3f}" + ("" if math.isnan(std) else f" ± {std:.3f}")
    value, low, high = (metrics.get(f"{name}{end}", math.nan) for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" + ("" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]")


def _mark(metrics: Mapping[str, float], result: ClinicalResult, method: str) -> str:
    """Whether a method is significantly worse or better than the reference."""
    for a, b, difference in _comparisons(metrics, result.place):
        p = metrics.get(f"{result.place}/{a}_minus_{b}/p_corrected", math.nan)
        if (a, b) == (result.reference, method) and p < SIGNIFICANT:
            errors = f"{result.place}/{a}_minus_{b}/squared_error" in metrics
            return " *↓" if (difference < 0) == errors else " *↑"
    return ""


def _grid(metrics: Mapping[str, float], result: ClinicalResult) -> list[list[str]]:
    """The header and a row for each method."""
    rows = [["method", *result.columns]]
    for method in result.methods:
        cells = [_cell(metrics, f"{result.place}/{method}/{score}") for score in result.columns.values()]
        rows.append([method + _mark(metrics, result, method), *cells])
    return rows


def _notes(metrics: Mapping[str, float], result: ClinicalResult) -> list[str]:
    """What stands below a table."""

    def count(name: str) -> int:
        return int(metrics.get(f"{result.place}/{name}", 0))

    seen = count("num_tested_seen_in_pretraining")
    notes = [
        f"{count('num_tested')} of {count('num_subjects')} subjects in {count('num_folds')} test folds, the rest in "
        f"training alone; {count('num_without_label')} subjects without a label left out. The pretraining has seen "
        + (f"{seen} of those tested (not their labels)." if seen else "none of those tested."),
        "± is the standard deviation over folds, which share training subjects: no measure of confidence. [95 % "
        "interval from resampling subjects.]",
    ]
    errors = any(name.endswith("/squared_error") for name in metrics)
    test = "Wilcoxon's paired test of squared errors" if errors else "paired bootstrap of AUC"
    notes.append(f"* differs from {result.reference}, ↓ worse or ↑ better: p < {SIGNIFICANT}, {test} over subjects, "
                 "Benjamini–Hochberg over the whole test run.")  # fmt: skip
    for a, b, difference in _comparisons(metrics, result.place):
        if a != result.reference or b == f"untrained_{a}":
            p = metrics.get(f"{result.place}/{a}_minus_{b}/p_corrected", math.nan)
            what = "squared error" if errors else "AUC"
            notes.append(f"Pretraining, {a}: {what} {difference:+.3f} against {b} (corrected p = {p:.2g}).")
    if errors:
        paper = "; ".join(f"{name} {', '.join(values)}" for name, values in PAPER_MSE.items())
        notes.append(f"The paper's Table 2, scaled MSE on UKB of raw SVM, embedding SVM, tuned: {paper}.")
    return notes


def clinical_grids(metrics: Mapping[str, float]) -> list[Grid]:
    """A table for each phenotype; [] where there are none."""
    return [Grid(of.title, _grid(metrics, of), _notes(metrics, of)) for of in clinical_results(metrics)]
