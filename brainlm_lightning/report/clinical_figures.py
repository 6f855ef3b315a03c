"""Predicted against true values, and calibration: figures of a clinical test.

Shapes: n predictions, C classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Floats = NDArray[np.floating]

COLUMNS = 4
BINS = 8


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(3.1 * min(count, COLUMNS), 3.1 * rows), layout="constrained")
    panels = figure.subplots(rows, min(count, COLUMNS), sharex=True, sharey=True, squeeze=False).ravel()
    for spare in panels[count:]:
        spare.set_visible(False)
    return figure, list(panels[:count])


def prediction_figure(truth_n: Floats, predicted_n: Mapping[str, Floats], unit: str) -> Figure:
    """A panel for each method: what it predicted for each held-out subject against the truth.

    Args:
        truth_n: in own units.
        predicted_n: method -> predictions in own units.
        unit: name of the phenotype.

    Raises:
        ValueError: there is no method.
    """
    if not predicted_n:
        raise ValueError("there are no predictions to draw; expected at least one method's")
    figure, panels = _panels(len(predicted_n))
    low, high = float(truth_n.min()), float(truth_n.max())
    for axes, (method, values) in zip(panels, predicted_n.items(), strict=True):
        axes.plot([low, high], [low, high], color="0.6", linewidth=0.8)
        axes.scatter(truth_n, values, s=8, alpha=0.6, linewidths=0)
        axes.set_title(method.replace("_", " "), fontsize=9, parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(f"{unit}, true", parse_math=False)
    figure.supylabel(f"{unit}, predicted out of fold", parse_math=False)
    return figure


def calibration(truth_n: NDArray[np.intp], probability_n: Floats, bins: int = BINS) -> tuple[Floats, Floats]:
    """Mean probability of the second class and its share among subjects, in bins of about equally many subjects.

    Probabilities that are alike to a hundredth share a bin: their order would be chance. Classes are weighted to count
    the same, as they do in training, so that 0.5 is where neither is likelier.
    """
    weight_n = np.where(truth_n == 1, 0.5 / max(1, (truth_n == 1).sum()), 0.5 / max(1, (truth_n == 0).sum()))
    rounded_n = probability_n.round(2)
    bin_n = np.searchsorted(np.quantile(rounded_n, np.linspace(0, 1, bins + 1)[1:-1]), rounded_n, side="right")
    parts = [np.flatnonzero(bin_n == number) for number in np.unique(bin_n)]
    said = [np.average(probability_n[part], weights=weight_n[part]) for part in parts]
    share = [np.average(truth_n[part] == 1, weights=weight_n[part]) for part in parts]
    return np.array(said), np.array(share)


def calibration_figure(truth_n: NDArray[np.intp], score_nC: Mapping[str, Floats], phenotype: str) -> Figure:
    """A panel for each method that gives probabilities of two classes: how often it is right when it says so.

    Raises:
        ValueError: no method does.
    """
    shown = {name: scores[:, 1] for name, scores in score_nC.items() if _are_probabilities(scores)}
    if not shown:
        raise ValueError("no method gives probabilities of two classes; expected (n, 2) that sum to 1")
    figure, panels = _panels(len(shown))
    for axes, (method, probability_n) in zip(panels, shown.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
        axes.plot(*calibration(truth_n, probability_n), marker="o", markersize=4)
        axes.set_title(method.replace("_", " "), fontsize=9, parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(f"{phenotype}: probability of the second class", parse_math=False)
    figure.supylabel("its share, classes weighted alike", parse_math=False)
    return figure


def _are_probabilities(score_nC: Floats) -> bool:
    return score_nC.shape[1] == 2 and bool((score_nC >= 0).all()) and bool(np.allclose(score_nC.sum(1), 1, atol=1e-4))


def clinical_figures(arrays: Mapping[str, NDArray], places: Sequence[str]) -> dict[str, Figure]:
    """Figures of a test's arrays by name; none for more than two classes.

    Args:
        arrays: ``test/<cohort>/<phenotype>/truth`` and ``…/<method>/predicted``.
        places: ``test/<cohort>/<phenotype>`` of each phenotype.
    """
    figures = {}
    for place in places:
        said = {name.split("/")[-2]: array for name, array in arrays.items() if _is_prediction(name, place)}
        truth_n, phenotype = arrays[f"{place}/truth"], place.split("/")[-1]
        if next(iter(said.values())).ndim == 1:
            figures[f"{phenotype}_predicted"] = prediction_figure(truth_n, said, phenotype)
        elif any(map(_are_probabilities, said.values())):
            figures[f"{phenotype}_calibration"] = calibration_figure(truth_n.astype(int), said, phenotype)
    return figures


def _is_prediction(name: str, place: str) -> bool:
    return name.startswith(f"{place}/") and name.endswith("/predicted")
