"""Prediction of clinical variables: scores of each method as a table, like the paper's Table 2, and the figures."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.evaluation.resampling import SIGNIFICANCE
from brainlm_lightning.report.clinical_figures import clinical_files
from brainlm_lightning.report.finding import Finding, Truth, absent, against_strongest, first_of
from brainlm_lightning.report.page import Page, ReportFile
from brainlm_lightning.report.report_table import ReportTable
from brainlm_lightning.report.scores import (
    MARKS,
    MISSING,
    Arrays,
    Estimate,
    Metrics,
    is_worse,
    methods_with,
    names_under,
    reference_method,
)

# Table 2 of the paper, MSE of the scaled variable, mean ± std: SVM on raw data, SVM on embeddings, the tuned model.
PAPER_MSE = {
    "age": ("2.000 ± 0.222", "0.857 ± 0.114", "0.485 ± 0.025"),
    "PCL": ("0.034 ± 0.003", "0.022 ± 0.002", "0.018 ± 0.001"),
    "GAD-7": ("0.172 ± 0.007", "0.094 ± 0.008", "0.074 ± 0.005"),
    "neuroticism": ("0.160 ± 0.014", "0.086 ± 0.005", "0.072 ± 0.005"),
}
PAPER_METHODS = ("SVM on raw data", "SVM on embeddings", "BrainLM, fine-tuned")
# What a simulated cohort's variables depend on (`simulation.simulate`).
ON_NETWORKS = "depends on the strengths of the networks (r 0.7, unless the simulation says otherwise)"
PLANTED = {**dict.fromkeys(("age", "symptoms", "sex"), ON_NETWORKS), "noise_score": "depends on nothing"}
KNOWN = ("connectivity_linear",)  # the strongest known; a test without it shows no merit
# Methods of the pretrained model; the first that was tested stands for it in summaries.
OURS = ("tuned", "gram_linear", "frozen", "embedding_linear", "embedding_svm", "embedding")
# Column -> score. Scores that end in `_fold` are shown as mean ± std over folds, others with their interval.
NUMBER_COLUMNS = {"MSE, scaled": "mse_scaled_fold", "R²": "r2", "r within folds": "pearson_r", "MAE, own unit": "mae"}
CLASS_COLUMNS = {"AUC by fold": "auc_fold", "AUC within folds": "auc", "balanced accuracy": "balanced_accuracy"}


class ClinicalPage(Page):
    """One table and one figure per phenotype."""

    heading = "Clinical variables"
    place = 2
    paper_table = 2
    wanted = "clinical_age"

    def tables(self, metrics: Metrics) -> Iterator[ReportTable]:
        """Methods by score."""
        for result in clinical_results(metrics):
            notes = _notes(metrics, result)
            yield ReportTable(result.title, _rows(metrics, result), notes, (result.condition,), _paper_rows(result))

    def files(self, metrics: Metrics, arrays: Arrays) -> Iterator[ReportFile]:
        """Predictions against true values, or calibration."""
        for result in clinical_results(metrics):
            yield from clinical_files(arrays, result.condition)

    def findings(self, metrics: Metrics) -> Iterator[Finding]:
        """The tuned network, or what comes nearest to it, beside the strongest method that is not pretrained."""
        for result in clinical_results(metrics):
            own = first_of(OURS, result.methods)
            if own is None:
                continue
            numbers = result.tested == "squared_error"
            shown = "mse_scaled" if numbers else "auc"
            others = [name for name in result.methods if not name.startswith(OURS)]
            score = (shown, result.tested, numbers)
            best, theirs, verdict = against_strongest(metrics, result.condition, own, others, score)
            ours = Estimate.read(metrics, result.condition.by(own).of(shown))
            phenotype, name = result.condition.condition, "MSE, scaled" if numbers else "AUC"
            paper = PAPER_MSE.get(phenotype)
            told = f"{paper[-1]} (UKB, tuned)" if paper else ""
            what = phenotype.replace("_", " ")
            shown_as = (result.condition.cohort, what, name, own, ours, best, theirs, verdict, told)
            yield Finding(*shown_as, absent=absent(KNOWN, others))

    def truths(self, metrics: Metrics) -> Iterator[Truth]:
        """What the simulation made a variable of, beside what the model and its strongest opponent made of it."""
        for finding in self.findings(metrics):
            phenotype = finding.what.replace(" ", "_")
            if phenotype in PLANTED:
                score, name = ("auc", "AUC") if finding.score == "AUC" else ("pearson_r", "r")
                condition = MetricName(finding.cohort, phenotype)
                methods = [method for method in (finding.method, finding.opponent) if method]
                found = [Estimate.read(metrics, condition.by(method).of(score)).text() for method in methods]
                told = [f"{name} {of} by {method}" for of, method in zip(found, methods, strict=True)]
                yield Truth(f"Prediction of {finding.what}, {finding.cohort}", PLANTED[phenotype], "; ".join(told))


def _paper_rows(result: "ClinicalResult") -> list[list[str]]:
    """The paper's three methods, where it has this phenotype."""
    numbers = PAPER_MSE.get(result.condition.condition, ()) if result.tested == "squared_error" else ()
    dashes = [MISSING] * (len(NUMBER_COLUMNS) - 1)
    return [[f"paper, UKB: {name}", mse, *dashes] for name, mse in zip(PAPER_METHODS, numbers, strict=False)]


@dataclass(frozen=True)
class ClinicalResult:
    """Results of one phenotype in one cohort.

    Attributes:
        condition: cohort and phenotype.
        methods: in the order of the metrics.
        reference: the method that the others are compared with.
        tested: the score that is compared: `squared_error` for numbers, `auc` for classes.
    """

    condition: MetricName
    methods: tuple[str, ...]
    reference: str
    tested: str

    @property
    def title(self) -> str:
        """`Prediction of age, abide_cc400`."""
        return f"Prediction of {self.condition.condition}, {self.condition.cohort}"

    @property
    def columns(self) -> dict[str, str]:
        """Heading -> score."""
        return CLASS_COLUMNS if self.tested == "auc" else NUMBER_COLUMNS


def clinical_results(metrics: Metrics) -> list[ClinicalResult]:
    """The phenotypes among the metrics of a run; [] where there are none."""
    results = []
    for score, tested in (("mse_scaled", "squared_error"), ("balanced_accuracy", "auc")):
        for condition, methods in methods_with(metrics, score).items():
            if condition.of("num_tested") in metrics:  # networks, too, have a balanced accuracy
                reference = reference_method(metrics, {condition: methods})
                results.append(ClinicalResult(condition, tuple(methods), reference, tested))
    return results


def _rows(metrics: Metrics, result: ClinicalResult) -> list[list[str]]:
    """The header, and one row per method."""
    rows = [["method", *result.columns]]
    for method in result.methods:
        prefix = result.condition.by(method)
        mark = MARKS[_is_worse(metrics, result, method)]
        rows.append([method + mark, *(_cell(metrics, prefix, score) for score in result.columns.values())])
    return rows


def _cell(metrics: Metrics, prefix: MetricName, score: str) -> str:
    """`0.857 ± 0.114` over folds, or `0.39 [0.31, 0.46]`; a dash where there is no score."""
    if not score.endswith("_fold"):
        return Estimate.read(metrics, prefix.of(score)).text()
    mean, std = (metrics.get(prefix.of(f"{score}_{part}"), math.nan) for part in ("mean", "std"))
    return MISSING if math.isnan(mean) else f"{mean:.3f}" + ("" if math.isnan(std) else f" ± {std:.3f}")


def _is_worse(metrics: Metrics, result: ClinicalResult, method: str) -> bool | None:
    """Whether a method is significantly worse or better than the reference."""
    less = is_worse(metrics, result.condition.by(result.reference).against(method), result.tested)
    return not less if less is not None and result.tested == "squared_error" else less


def _notes(metrics: Metrics, result: ClinicalResult) -> list[str]:
    """The lines below a table."""
    errors = result.tested == "squared_error"
    test = f"paired bootstrap of {'squared error' if errors else 'AUC'}"
    notes = [
        _who_was_tested(metrics, result.condition),
        "± is the standard deviation over folds; folds share training subjects, so it is not a confidence interval. "
        "[95 % interval from resampling subjects.]",
        f"* differs from {result.reference}, ↓ worse or ↑ better: p < {SIGNIFICANCE}, {test} over subjects, "
        "Benjamini–Hochberg over the whole test run.",
        *_pretraining(metrics, result),
    ]
    if errors:
        paper = "; ".join(f"{name} {', '.join(values)}" for name, values in PAPER_MSE.items())
        notes.append(f"The paper's Table 2, scaled MSE on UKB of raw SVM, embedding SVM, tuned: {paper}.")
    return notes


def _who_was_tested(metrics: Metrics, condition: MetricName) -> str:
    def count(name: str) -> int:
        return int(metrics.get(condition.of(name), 0))

    seen = count("num_tested_seen_in_pretraining")
    return (
        f"{count('num_tested')} of {count('num_subjects')} subjects in {count('num_folds')} test folds, the others in "
        f"training only; {count('num_without_label')} subjects without a label are left out. Pretraining has seen "
        + (f"{seen} of those tested (not their labels)." if seen else "none of those tested.")
    )


def _pretraining(metrics: Metrics, result: ClinicalResult) -> list[str]:
    """The effect of pretraining: comparisons with untrained twins, and those that do not involve the reference."""
    what = "squared error" if result.tested == "squared_error" else "AUC"
    lines = []
    for name in names_under(metrics, [result.condition]):
        if name.score == result.tested and name.pair:
            first, other = name.pair
            if first != result.reference or other == f"untrained_{first}":
                difference, p = metrics[str(name)], metrics.get(name.of("p_corrected"), math.nan)
                lines.append(f"Pretraining, {first}: {what} {difference:+.3f} against {other} (corrected p = {p:.2g}).")
    return lines
