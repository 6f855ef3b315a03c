"""Functional networks: accuracy of classifying parcels, as a table beside the paper's Table 4, and figures."""

from collections.abc import Iterator, Sequence
from functools import partial

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.evaluation.resampling import SIGNIFICANCE
from brainlm_lightning.report.figures import parcel_map
from brainlm_lightning.report.finding import Finding, Truth, against_strongest
from brainlm_lightning.report.network_figures import accuracy_figure, confusion_figure, missed, network_map
from brainlm_lightning.report.page import Page, ReportFile
from brainlm_lightning.report.report_table import ReportTable
from brainlm_lightning.report.scores import (
    MISSING,
    Arrays,
    Estimate,
    Metrics,
    is_worse,
    methods_with,
    num_significant,
    reference_method,
)

# Table 4 of the paper: accuracy in per cent over parcels of 1,000 UK Biobank recordings, by this package's names.
PAPER_ACCURACY = {"attention": 58.8, "vae": 49.4, "raw_series": 39.2, "gcn": 25.9}
CONDITION = "networks"
CONTROLS = ("_untrained", "_random_start", "_without_signal")  # of a reading; its other names are further readings
ACCURACY = (
    "Share of the test parcels that each method puts into the right network, mean over recordings, with 95 % "
    "intervals from resampling subjects; diamonds: the paper's numbers."
)
CONFUSION = (
    "Test parcels of each network (row) by the network they were put into, summed over recordings and divisions."
)
MISSED = "How often each parcel was put into a wrong network, over recordings and divisions in which it was tested."
MAP = "Top: the atlas's networks. Bottom: the network that most recordings and divisions put each parcel into."
SCORES = {"accuracy": "accuracy (%)", "balanced_accuracy": "balanced accuracy (%)"}
NAMES = {
    "attention_untrained": "attention, before pretraining",
    "attention_random_start": "attention, random start",
    "attention_without_signal": "attention on a window of zeros",
    "attention_rollout": "attention rollout",
    "embedding": "model's embedding",
    "vae": "VAE's embedding",
    "gcn": "GCN's embedding",
    "raw_series": "raw series",
    "group_connectivity": "training subjects' connectivity",
    "position": "position (x, y, z)",
    "position_mirrored": "position (|x|, y, z)",
    "most_frequent": "most frequent network",
}


class NetworkPage(Page):
    """One table per cohort; figures of all accuracies, and of the reference method's confusions."""

    heading = "Functional networks"
    place = 4
    paper_table = 4
    wanted = "network"

    def tables(self, metrics: Metrics) -> Iterator[ReportTable]:
        """Methods by score, in per cent."""
        for condition, methods in _conditions(metrics).items():
            rows = [["method", *SCORES.values()]]
            for method, scores in network_scores(metrics, condition, methods).items():
                rows.append([shown_name(method), *(scores[score].text(digits=1, scale=100) for score in SCORES)])
            notes = network_notes(metrics, condition, _reference(metrics, condition, methods))
            title = f"Functional networks, {condition.cohort}"
            yield ReportTable(title, rows, notes, (condition,), _paper_rows())

    def files(self, metrics: Metrics, arrays: Arrays) -> Iterator[ReportFile]:
        """Four figures per cohort."""
        for condition, methods in _conditions(metrics).items():
            prefix = f"networks_{condition.cohort}"
            accuracy = {name: of["accuracy"] for name, of in network_scores(metrics, condition, methods).items()}
            labels = {method: shown_name(method) for method in methods}
            draw = partial(accuracy_figure, accuracy, PAPER_ACCURACY, labels, condition.cohort)
            yield ReportFile(f"{prefix}_accuracy", draw, f"{condition.cohort}. {ACCURACY}")
            yield from _reference_files(arrays, condition.by(_reference(metrics, condition, methods)), prefix)

    def findings(self, metrics: Metrics) -> Iterator[Finding]:
        """Accuracy of the attention beside the strongest method that is no reading of the same attention."""
        for condition, methods in _conditions(metrics).items():
            own = _reference(metrics, condition, methods)
            others = [name for name in methods if not name.startswith(own) or name.endswith(CONTROLS)]
            ours = Estimate.read(metrics, condition.by(own).of("accuracy"))
            best, theirs, verdict = against_strongest(metrics, condition, own, others, ("accuracy",) * 2 + (False,))
            paper, names = f"{PAPER_ACCURACY['attention']:g} (UKB)", (shown_name(own), shown_name(best))
            what, score = "parcels in the right network", "accuracy (%)"
            told = (condition.cohort, what, score, names[0], ours, names[1], theirs, verdict)
            yield Finding(*told, paper=paper, digits=1, scale=100)

    def truths(self, metrics: Metrics) -> Iterator[Truth]:
        """Planted networks are the atlas's own."""
        for finding in self.findings(metrics):
            yield Truth(
                f"Networks of the parcels, {finding.cohort}",
                "every parcel belongs to one planted network (100 %)",
                f"{finding.ours.text(1, 100)} % put into it by {finding.method}",
            )


def _paper_rows() -> list[list[str]]:
    return [[f"paper, UKB: {shown_name(name)}", f"{accuracy:g}", MISSING] for name, accuracy in PAPER_ACCURACY.items()]


def _reference_files(arrays: Arrays, prefix: MetricName, name: str) -> Iterator[ReportFile]:
    """The reference method's confusion matrix, misclassified parcels and predicted networks."""
    names = [str(network) for network in arrays["networks/names"]]
    number_P, xyz_mm = arrays["networks/number_P"], arrays["networks/xyz_mm"]
    votes_PQ, confusion_QQ = arrays[prefix.of("votes_PC")], arrays[prefix.of("confusion_RCC")].sum(0)
    by = shown_name(prefix.method)
    title = f"Functional networks, {prefix.cohort}, by {by}"
    yield ReportFile(
        f"{name}_confusion", partial(confusion_figure, confusion_QQ, names, title), f"{title}. {CONFUSION}"
    )
    missed_P, of_missed = (
        100 * missed(votes_PQ, number_P),
        f"Parcels put into the wrong network, {prefix.cohort}, by {by}",
    )
    draw = partial(parcel_map, missed_P, xyz_mm, of_missed, "times when tested (%)")
    yield ReportFile(f"{name}_missed", draw, f"{of_missed}. {MISSED}")
    yield ReportFile(
        f"{name}_map", partial(network_map, votes_PQ, number_P, xyz_mm, names, title), f"{title}. {MAP}", "5B"
    )


def _conditions(metrics: Metrics) -> dict[MetricName, list[str]]:
    """`test/<cohort>/networks` -> its methods."""
    found = methods_with(metrics, "accuracy")
    return {condition: methods for condition, methods in found.items() if condition.condition == CONDITION}


def _reference(metrics: Metrics, condition: MetricName, methods: Sequence[str]) -> str:
    return reference_method(metrics, {condition: methods}, "attention")


def network_scores(metrics: Metrics, condition: MetricName, methods: Sequence[str]) -> dict[str, dict[str, Estimate]]:
    """Method -> score -> mean over recordings, as shares; accuracy, the score that is tested, has the mark."""
    reference = condition.by(_reference(metrics, condition, methods))
    found = {}
    for method in methods:
        worse = {"accuracy": is_worse(metrics, reference.against(method), "accuracy")}
        prefix = condition.by(method)
        found[method] = {score: Estimate.read(metrics, prefix.of(score), worse.get(score)) for score in SCORES}
    return found


def shown_name(method: str) -> str:
    """A method's name in words."""
    return NAMES.get(method, method.replace("_", " "))


def network_notes(metrics: Metrics, condition: MetricName, reference: str) -> list[str]:
    """The lines below a cohort's table."""
    scores = condition.by(reference)
    subjects, recordings = (int(metrics.get(scores.of(f"num_{of}"), 0)) for of in ("subjects", "recordings"))
    parcels_out, recordings_out = (
        int(metrics.get(condition.of(f"num_{of}_left_out"), 0)) for of in ("parcels", "recordings")
    )
    significant, tests = num_significant(metrics, [condition])
    paper = ", ".join(f"{shown_name(method)} {accuracy:g}" for method, accuracy in PAPER_ACCURACY.items())
    return [
        f"Test parcels put into the right network, mean over {recordings} recordings [95 % interval from resampling "
        f"{subjects} subjects; all share one atlas, so it covers other subjects, not other atlases]; balanced: mean "
        "over networks. k and metric are chosen among the training parcels.",
        f"Left out: {parcels_out} parcels without a network and {recordings_out} recordings with too few observed "
        "parcels.",
        f"* differs from {shown_name(reference)} in accuracy per subject, ↓ worse or ↑ better: p < {SIGNIFICANCE}, "
        f"Wilcoxon signed-rank test, Benjamini–Hochberg over the whole test run; {significant} of the {tests} "
        "comparisons here.",
        f"The paper's Table 4 (UK Biobank, accuracy in %): {paper}.",
    ]
