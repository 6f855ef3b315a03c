"""Figures of clinical predictions: predicted against true values, or calibration of probabilities.

Shapes: n predictions, Q classes of the phenotype.
"""

from collections.abc import Collection, Iterator, Mapping
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brainlm_lightning.evaluation.names import MetricName, parsed
from brainlm_lightning.report.page import ReportFile
from brainlm_lightning.report.scores import Arrays

Floats = NDArray[np.floating]

COLUMNS = 4
PREDICTED = (
    "Each subject's predicted against true value, from the fold in which the subject was tested; grey: perfect; "
    "triangles: beyond the panel."
)
CALIBRATED = (
    "Observed share against predicted probability, in bins of about equal size, both classes weighted equally; grey: "
    "perfect."
)
BINS = 8


def clinical_files(arrays: Arrays, condition: MetricName) -> Iterator[ReportFile]:
    """The figure of one phenotype; none for more than two classes, or if the run kept no predictions.

    Args:
        arrays: `truth` and `classes` (names in the order of the columns, optional) of the condition, and `predicted` of
            each method.
        condition: cohort and phenotype.
    """
    predicted = {
        name.method: arrays[str(name)]
        for name in parsed(arrays)
        if name.by() == condition and name.method and name.score == "predicted"
    }
    truth_n, phenotype = arrays.get(condition.of("truth")), condition.condition
    if truth_n is None or not predicted:
        return
    if next(iter(predicted.values())).ndim == 1:
        draw_all = partial(prediction_figure, truth_n, predicted, phenotype)
        yield ReportFile(f"{phenotype}_predicted", draw_all, f"{condition.cohort}, {phenotype}. {PREDICTED}")
    elif any(map(_are_probabilities, predicted.values())):
        classes = arrays.get(condition.of("classes"))
        second = f"class 1 of {phenotype} (the run names no classes)" if classes is None else str(classes[1])
        draw = partial(calibration_figure, truth_n.astype(int), predicted, phenotype, second)
        yield ReportFile(f"{phenotype}_calibration", draw, f"{condition.cohort}, {phenotype}. {CALIBRATED}")


def _panels(methods: Collection[str]) -> tuple[Figure, list[Axes]]:
    """A figure with one titled panel per method."""
    count = len(methods)
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(3.1 * min(count, COLUMNS), 3.1 * rows), layout="constrained")
    panels = figure.subplots(rows, min(count, COLUMNS), sharex=True, sharey=True, squeeze=False).ravel()
    for spare in panels[count:]:
        spare.set_visible(False)
    for axes, method in zip(panels, methods, strict=False):
        axes.set_title(method.replace("_", " "), fontsize=9, parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(panels[:count])


def prediction_figure(truth_n: Floats, predicted_n: Mapping[str, Floats], phenotype: str) -> Figure:
    """One panel per method: its prediction for each held-out subject against the true value.

    A prediction further from the true values than their range stands as a triangle at the edge, so that a few do not
    press all others into a line.

    Args:
        truth_n: in the phenotype's own unit.
        predicted_n: method -> predictions in the same unit.
        phenotype: name on the axes.

    Raises:
        ValueError: there is no method.
    """
    if not predicted_n:
        raise ValueError("there are no predictions to draw; expected at least one method's")
    figure, panels = _panels(predicted_n)
    low, high = float(truth_n.min()), float(truth_n.max())
    span = (high - low) or 1.0
    drawn = [truth_n, *predicted_n.values()]
    lowest, highest = min(float(np.nanmin(each)) for each in drawn), max(float(np.nanmax(each)) for each in drawn)
    for axes, values in zip(panels, predicted_n.values(), strict=True):
        axes.plot([low, high], [low, high], color="0.6", linewidth=0.8)
        axes.scatter(truth_n, values, s=8, alpha=0.6, linewidths=0)
        for edge, marker in ((low - span, "v"), (high + span, "^")):
            beyond_n = (values < edge) if marker == "v" else (values > edge)
            axes.scatter(truth_n[beyond_n], np.full(beyond_n.sum(), edge), s=24, marker=marker, color="#a04000")
        axes.set_ylim(max(low - span, lowest) - 0.05 * span, min(high + span, highest) + 0.05 * span)
    figure.supxlabel(f"{phenotype}, true", parse_math=False)
    figure.supylabel(f"{phenotype}, predicted out of fold", parse_math=False)
    return figure


def calibration(truth_n: NDArray[np.intp], probability_n: Floats, bins: int = BINS) -> tuple[Floats, Floats]:
    """Calibration curve: mean probability and observed share of the class in column 1, in bins of about equal size.

    Probabilities that agree to two decimals share a bin. Both classes have the same total weight, as in training, so
    that a probability of 0.5 means that neither is more likely.
    """
    weight_n = np.where(truth_n == 1, 0.5 / max(1, (truth_n == 1).sum()), 0.5 / max(1, (truth_n == 0).sum()))
    rounded_n = probability_n.round(2)
    bin_n = np.searchsorted(np.quantile(rounded_n, np.linspace(0, 1, bins + 1)[1:-1]), rounded_n, side="right")
    parts = [np.flatnonzero(bin_n == number) for number in np.unique(bin_n)]
    mean_probability = [np.average(probability_n[part], weights=weight_n[part]) for part in parts]
    share = [np.average(truth_n[part] == 1, weights=weight_n[part]) for part in parts]
    return np.array(mean_probability), np.array(share)


def calibration_figure(
    truth_n: NDArray[np.intp], score_nQ: Mapping[str, Floats], phenotype: str, second: str
) -> Figure:
    """One calibration panel per method that predicts probabilities of two classes.

    Args:
        truth_n: 0 or 1.
        score_nQ: method -> scores of both classes; methods whose scores are not probabilities are left out.
        phenotype: name on the axes.
        second: name of the class in column 1.

    Raises:
        ValueError: no method gives probabilities.
    """
    shown = {name: scores[:, 1] for name, scores in score_nQ.items() if _are_probabilities(scores)}
    if not shown:
        raise ValueError("no method gives probabilities of two classes; expected (n, 2) that sum to 1")
    figure, panels = _panels(shown)
    for axes, probability_n in zip(panels, shown.values(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
        axes.plot(*calibration(truth_n, probability_n), marker="o", markersize=4)
    figure.supxlabel(f"{phenotype}: probability of {second}", parse_math=False)
    figure.supylabel(f"share of {second}, classes weighted equally", parse_math=False)
    return figure


def _are_probabilities(score_nQ: Floats) -> bool:
    return score_nQ.shape[1] == 2 and bool((score_nQ >= 0).all()) and bool(np.allclose(score_nQ.sum(1), 1, atol=1e-4))
