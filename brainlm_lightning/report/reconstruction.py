"""Reconstruction: R² of each method by what is hidden, and by distance to what is visible, as tables and figures."""

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from brainlm_lightning.evaluation.names import ENDS, MetricName
from brainlm_lightning.evaluation.resampling import SIGNIFICANCE
from brainlm_lightning.report.completed import completed_table
from brainlm_lightning.report.finding import OPTIMUM, Finding, Truth, absent, against_strongest
from brainlm_lightning.report.page import Page, ReportFile
from brainlm_lightning.report.reconstruction_figures import (
    r2_by_distance_figure,
    r2_by_ratio_figure,
    reconstruction_files,
)
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
KNOWN = ("linear_smoother",)  # the strongest known; a test without it shows no merit
MODEL = "mae"  # the reference if a run has no comparisons
RANDOM = "hidden"  # conditions in which single patches are hidden at random
# First word of a condition -> head of its column, by percentage.
COLUMNS = {RANDOM: "{:g} % hidden", "parcels": "{:g} % of parcels", "networks": "{:g} % of networks",
           "future": "last {:g} %"}  # fmt: skip
DISTANCE = "r2_distance_"  # first part of the scores by distance
SHOWN_RATIO = 0.5  # distances are tabulated at the hidden ratio next to this one

BY_RATIO = (
    "R² of every method against the share of patches hidden at random, pooled over all hidden values of the unseen "
    "subjects' windows, with 95 % intervals from resampling subjects. All methods see the same windows and masks."
)
BY_DISTANCE = (
    "R² of every method against the frames from a hidden value to the nearest visible frame of its parcel: what is "
    "near can be interpolated."
)

R2 = dict[MetricName, Estimate]
Methods = dict[str, R2]
Conditions = dict[MetricName, list[str]]


class ReconstructionPage(Page):
    """Tables by what is hidden (random patches, or parcels, networks and the future) and by distance, and figures."""

    heading = "Reconstruction"
    place = 1
    paper_table = 1
    wanted = "demo"

    def tables(self, metrics: Metrics) -> Iterator[ReportTable]:
        """Methods in rows, `0.391 [0.380, 0.402]`."""
        for cohort, conditions in _conditions(metrics, [RANDOM]).items():
            notes = [*_notes(metrics, conditions), _papers_table()]
            rows, paper = _rows(metrics, conditions), _paper_rows(conditions)
            yield ReportTable(f"Reconstruction, {cohort}", rows, notes, tuple(conditions), paper)
        for cohort, conditions in _conditions(metrics, set(COLUMNS) - {RANDOM}).items():
            title = f"Reconstruction, {cohort}, whole parcels, networks or the end of a window hidden"
            yield ReportTable(title, _rows(metrics, conditions), _notes(metrics, conditions), tuple(conditions))
        for conditions in _conditions(metrics, [RANDOM]).values():
            yield from _by_distance(metrics, conditions)
        for word in (RANDOM, "parcels"):
            for conditions in _conditions(metrics, [word]).values():
                yield from _completed(metrics, conditions, word)

    def files(self, metrics: Metrics, arrays: Arrays) -> Iterator[ReportFile]:
        """Reconstructed windows and R² on the brain of each cohort, and R² by what is hidden and by distance."""
        for conditions in _conditions(metrics, [RANDOM]).values():
            yield from reconstruction_files(arrays, _shown_condition(conditions), _reference(metrics, conditions))
        if _conditions(metrics, [RANDOM]):
            yield ReportFile("r2_by_ratio", partial(r2_by_ratio_figure, reconstruction_scores(metrics)), BY_RATIO)
        distances = _distances(metrics)
        if distances:
            yield ReportFile("r2_by_distance", partial(r2_by_distance_figure, distances), BY_DISTANCE)

    def findings(self, metrics: Metrics) -> Iterator[Finding]:
        """R² at each share hidden at random beside the strongest opponent's."""
        for condition, own, others in _random_conditions(metrics):
            ours = Estimate.read(metrics, condition.by(own).of(SCORE))
            rivals = [name for name in others if not name.startswith(f"{own}_and_")]  # a mean with itself is no rival
            best, theirs, verdict = against_strongest(metrics, condition, own, rivals, (SCORE, "r2_subject", False))
            ratio = condition.level(RANDOM) or 0.0
            numbers = (f"{of[ratio]:.3f} ({name})" for name, of in PAPER_R2.items() if ratio in of)
            what = f"{100 * ratio:g} % hidden"
            told = (condition.cohort, what, "R²", own, ours, best, theirs, verdict, ", ".join(numbers))
            yield Finding(*told, absent=absent(KNOWN, others))

    def truths(self, metrics: Metrics) -> Iterator[Truth]:
        """The reconstruction that knows the simulation's true model."""
        for condition, own, others in _random_conditions(metrics):
            if OPTIMUM in others:
                planted, found = (Estimate.read(metrics, condition.by(name).of(SCORE)) for name in (OPTIMUM, own))
                percent = f"{100 * (condition.level(RANDOM) or 0):g} % hidden"
                what = f"Best possible reconstruction, {condition.cohort}, {percent}"
                yield Truth(what, f"R² {planted.text()}", f"R² {found.text()} by {own}")


def _random_conditions(metrics: Metrics) -> Iterator[tuple[MetricName, str, list[str]]]:
    """Conditions with patches hidden at random by rising share, each with the model under test and all others."""
    for conditions in _conditions(metrics, [RANDOM]).values():
        own = _reference(metrics, conditions)
        for condition in sorted(conditions, key=lambda name: name.level(RANDOM) or 0.0):
            if own in conditions[condition]:
                yield condition, own, [name for name in conditions[condition] if name != own]


def _shown_condition(conditions: Conditions) -> MetricName:
    """The condition whose hidden share is next to `SHOWN_RATIO`."""
    return min(conditions, key=lambda name: abs((name.level(RANDOM) or 0.0) - SHOWN_RATIO))


def _paper_rows(conditions: Conditions) -> list[list[str]]:
    """The paper's best model, by cohort, in the columns of a table of these conditions."""
    columns = [condition.level(RANDOM) for condition, _ in _columns(conditions, RANDOM)]
    return [
        [f"paper, {cohort}", *(f"{of[ratio]:.3f}" if ratio in of else MISSING for ratio in columns)]
        for cohort, of in PAPER_R2.items()
    ]


def _conditions(metrics: Metrics, words: Iterable[str]) -> dict[str, Conditions]:
    """Cohort -> conditions whose first word is one of these, such as `test/<cohort>/hidden<ratio>` -> methods."""
    found: dict[str, Conditions] = {}
    for condition, methods in methods_with(metrics, SCORE).items():
        if any(condition.level(word) is not None for word in words):
            found.setdefault(condition.cohort, {})[condition] = methods
    return found


def reconstruction_scores(metrics: Metrics) -> dict[str, dict[str, dict[float, Estimate]]]:
    """Cohort -> method -> ratio hidden at random -> R², pooled over all hidden values.

    The reference method comes first, the others follow in the order of the metrics.
    """
    return {
        cohort: {
            method: {condition.level(RANDOM) or 0.0: r2 for condition, r2 in by_condition.items()}
            for method, by_condition in _methods(metrics, conditions).items()
        }
        for cohort, conditions in _conditions(metrics, [RANDOM]).items()
    }


def _methods(metrics: Metrics, conditions: Conditions) -> Methods:
    """Method -> condition -> R² in one cohort, marked by the paired test of R² per subject."""
    reference = _reference(metrics, conditions)
    found: Methods = {}
    for method in _ordered(conditions, reference):
        for condition in (condition for condition, methods in conditions.items() if method in methods):
            worse = is_worse(metrics, condition.by(reference).against(method), "r2_subject")
            estimate = Estimate.read(metrics, condition.by(method).of(SCORE), worse)
            found.setdefault(method, {})[condition] = estimate
    return found


def _reference(metrics: Metrics, conditions: Conditions) -> str:
    """The model under test."""
    return reference_method(metrics, conditions, MODEL)


def _ordered(conditions: Conditions, reference: str) -> list[str]:
    """All methods, the reference first."""
    methods = dict.fromkeys(method for methods in conditions.values() for method in methods)
    return sorted(methods, key=lambda method: method != reference)


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
    return notes


def _papers_table() -> str:
    numbers = "; ".join(
        f"{cohort} " + ", ".join(f"{r2:.3f} at {100 * ratio:g} %" for ratio, r2 in by_ratio.items())
        for cohort, by_ratio in PAPER_R2.items()
    )
    return f"The paper's Table 1: {numbers} hidden."


def _rows(metrics: Metrics, conditions: Conditions) -> list[list[str]]:
    """The header, and one row per method; a dash where a score is missing."""
    columns = {column: head for word in COLUMNS for column, head in _columns(conditions, word)}
    rows = [
        [method, *(str(row.get(column, MISSING)) for column in columns)]
        for method, row in _methods(metrics, conditions).items()
    ]
    return [["method", *columns.values()], *rows]


def _columns(conditions: Conditions, word: str) -> list[tuple[MetricName, str]]:
    """The conditions with this word by rising share, each with the head of its column."""
    shares = {name: share for name in conditions if (share := name.level(word)) is not None}
    return [
        (name, COLUMNS[word].format(100 * share)) for name, share in sorted(shares.items(), key=lambda item: item[1])
    ]


def _by_distance(metrics: Metrics, conditions: Conditions) -> Iterator[ReportTable]:
    """R² by distance to the nearest visible frame of the same parcel, at the hidden ratio next to `SHOWN_RATIO`."""
    condition = _shown_condition(conditions)
    by_method = _distances(metrics).get(condition)
    if by_method:
        labels = next(iter(by_method.values()))
        rows = [[method, *(str(r2) for r2 in row.values())] for method, row in by_method.items()]
        percent = f"{100 * (condition.level(RANDOM) or 0.0):g} %"
        note = ("Frames to the nearest visible frame of the same parcel: what is near can be interpolated. none: the "
                "window shows no frame of the parcel. [95 % interval from resampling subjects]")  # fmt: skip
        title = f"Reconstruction, {condition.cohort}, R² by distance at {percent} hidden"
        yield ReportTable(title, [["method", *labels], *rows], [note])


def _completed(metrics: Metrics, conditions: Conditions, word: str) -> Iterator[ReportTable]:
    """What completed windows keep, at the share hidden next to `SHOWN_RATIO`."""
    condition, heading = min(
        _columns(conditions, word), key=lambda column: abs((column[0].level(word) or 0.0) - SHOWN_RATIO)
    )
    table = completed_table(metrics, condition, heading, _ordered(conditions, _reference(metrics, conditions)))
    if table:
        yield table


def _distances(metrics: Metrics) -> dict[MetricName, dict[str, dict[str, Estimate]]]:
    """Condition -> method -> class of distance -> R²; classes in which nothing was hidden are left out."""
    found: dict[MetricName, dict[str, dict[str, Estimate]]] = {}
    for conditions in _conditions(metrics, [RANDOM]).values():
        scored = {name: _classes(metrics, name) for name in names_under(metrics, conditions) if name.score == SCORE}
        order = _ordered(conditions, _reference(metrics, conditions))
        for name in sorted(scored, key=lambda name: order.index(name.method)):
            if scored[name]:
                found.setdefault(name.by(), {})[name.method] = scored[name]
    return found


def _classes(metrics: Metrics, method: MetricName) -> dict[str, Estimate]:
    """Class of distance -> R² of one method in one condition."""
    prefix = method.of(DISTANCE)
    scores = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
    found = {label: Estimate.read(metrics, prefix + label) for label in scores if not label.endswith(ENDS[1:])}
    return {label: r2 for label, r2 in found.items() if not math.isnan(r2.value)}


def side_by_side(runs: Mapping[str, Metrics]) -> ReportTable:
    """The models of several runs side by side, like the paper's Table 1: one column per run, one row per condition."""
    found: dict[tuple[str, float], dict[str, Estimate]] = {}
    for run, metrics in runs.items():
        for cohort, methods in reconstruction_scores(metrics).items():
            for ratio, r2 in next(iter(methods.values())).items():
                found.setdefault((cohort, ratio), {})[run] = r2
    rows = [
        [f"{cohort}, {100 * ratio:g} % hidden", *(str(r2.get(run, MISSING)) for run in runs)]
        for (cohort, ratio), r2 in sorted(found.items())
    ]
    title = "R² of each run's model [95 % interval from resampling subjects]"
    return ReportTable(title, [["tested on", *runs], *rows])
