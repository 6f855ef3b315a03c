"""What embeddings hold of a person, as a table: each beside connectivity of the same frames."""

from collections.abc import Iterator

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.evaluation.resampling import SIGNIFICANCE
from brainlm_lightning.report.finding import Finding, against_strongest, first_of
from brainlm_lightning.report.page import Page
from brainlm_lightning.report.report_table import ReportTable
from brainlm_lightning.report.scores import Estimate, Metrics, is_worse, methods_with, num_significant

CONDITION = "identity"
REFERENCE = "connectivity"
TESTED = "reidentification"
LEARNT = ("gram", "mean_std", "mean", "cls")  # second-order embeddings lead
SCORES = {
    "reidentification": "re-identified",
    "reliability": "reliability",
    "reads_r2": "connectivity read, R²",
    "other_half_r2": "other half predicted, R²",
}


class IdentityPage(Page):
    """One table per cohort: embeddings by score."""

    heading = "What embeddings hold of a person"
    place = 7

    def tables(self, metrics: Metrics) -> Iterator[ReportTable]:
        """Embeddings in rows; re-identification, which is tested, carries the mark."""
        for condition, methods in methods_with(metrics, "reads_r2").items():
            if condition.condition == CONDITION:
                rows = [["embedding", *SCORES.values()]]
                rows += [[method, *_cells(metrics, condition, method)] for method in methods]
                title = f"What embeddings hold of a person, {condition.cohort}"
                yield ReportTable(title, rows, _notes(metrics, condition), (condition,))

    def findings(self, metrics: Metrics) -> Iterator[Finding]:
        """Re-identification by the first learnt embedding, in the order of `LEARNT`, beside connectivity."""
        for condition, methods in methods_with(metrics, "reads_r2").items():
            own = first_of(LEARNT, methods)
            if condition.condition == CONDITION and own:
                found = Estimate.read(metrics, condition.by(own).of(TESTED))
                others = [name for name in methods if name.startswith(REFERENCE)]
                best, theirs, verdict = against_strongest(metrics, condition, own, others, (TESTED, TESTED, False))
                yield Finding(condition.cohort, "re-identification", "share", own, found, best, theirs, verdict)


def _cells(metrics: Metrics, condition: MetricName, method: str) -> list[str]:
    of, pair = condition.by(method), condition.by(REFERENCE).against(method)
    worse = {"reidentification": is_worse(metrics, pair, "reidentification")}
    return [str(Estimate.read(metrics, of.of(score), worse.get(score))) for score in SCORES]


def _notes(metrics: Metrics, condition: MetricName) -> list[str]:
    subjects, whole = (int(metrics[condition.of(f"num_subjects{end}")]) for end in ("", "_with_two_halves"))
    significant, tests = num_significant(metrics, [condition])
    chance = f"{1 / whole:.3f}" if whole else "undefined"
    return [
        f"{subjects} unseen subjects, {whole} of them with two halves [95 % interval from resampling subjects].",
        f"Re-identified: the share of halves that find the other half of their subject (chance {chance}). Reliability: "
        "correlation of the halves over subjects. Connectivity read: of the same half, predicted linearly from the "
        "embedding, about the training subjects' mean. Other half predicted: its connectivity; for connectivity itself "
        "by shrinking it towards the group.",
        f"* differs from {REFERENCE} in re-identification, ↓ worse or ↑ better: p < {SIGNIFICANCE}, Wilcoxon "
        f"signed-rank test, Benjamini–Hochberg over the whole test run; {significant} of the {tests} comparisons here.",
    ]
