"""Figures of functional networks: accuracy of the methods, confusions, and misclassified parcels.

Shapes: P parcels, Q networks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from nilearn.plotting import plot_markers
from numpy.typing import NDArray

from brainlm_lightning.report.figures import marker_size, name_hemispheres, plain_text
from brainlm_lightning.report.scores import Estimate

Floats = NDArray[np.floating]
# The colours of Yeo et al. 2011, with a darker cream that is visible on white.
YEO_COLOURS = {
    "Vis": "#781286",
    "SomMot": "#4682b4",
    "DorsAttn": "#00760e",
    "SalVentAttn": "#c43afa",
    "Limbic": "#b8b05a",
    "Cont": "#e69422",
    "Default": "#cd3e4e",
}


def missed(votes_PQ: NDArray[Any], number_P: NDArray[Any]) -> Floats:
    """Share of each parcel's tests in which it was misclassified, (P,); NaN if it was never tested."""
    total_P = votes_PQ.sum(1)
    right_P = votes_PQ[np.arange(len(number_P)), np.maximum(number_P, 0)]
    tested_P = (total_P > 0) & (number_P >= 0)
    return np.where(tested_P, 1 - right_P / np.maximum(total_P, 1), np.nan)


def accuracy_figure(
    accuracy: Mapping[str, Estimate], paper: Mapping[str, float], labels: Mapping[str, str], cohort: str
) -> Figure:
    """Accuracy of every method with its interval over subjects, beside the paper's.

    Args:
        accuracy: method -> share of the test parcels.
        paper: method -> the paper's accuracy in per cent, of some methods.
        labels: method -> its name on the axis.
        cohort: in the title.
    """
    figure = Figure(figsize=(8, 1.4 + 0.32 * len(accuracy)), layout="constrained")
    axes = figure.subplots()
    for row, (method, share) in enumerate(accuracy.items()):
        axes.hlines(row, 100 * share.low, 100 * share.high, color="black", linewidth=1.6)
        axes.plot(100 * share.value, row, "o", color="black", markersize=5, label="here, 95 % interval over subjects")
        if method in paper:
            axes.plot(paper[method], row, "D", color="tab:red", fillstyle="none", label="paper, UK Biobank")
    axes.set_yticks(range(len(accuracy)), [plain_text(labels[method]) for method in accuracy])
    axes.invert_yaxis()
    axes.set_xlim(0, 102)
    axes.grid(axis="x", color="0.9")
    axes.set_xlabel("test parcels put into the right network (%)")
    axes.set_title(f"Functional networks, {cohort}", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def confusion_figure(confusion_QQ: NDArray[Any], names: Sequence[str], title: str) -> Figure:
    """Confusion matrix, in per cent of the test parcels of each true network (row)."""
    share_QQ = 100 * confusion_QQ / np.maximum(confusion_QQ.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share_QQ, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(share_QQ.shape):
        colour = "white" if share_QQ[row, column] > 60 else "black"
        axes.text(column, row, f"{share_QQ[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=9)
    labels = [plain_text(name) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), labels)
    axes.set_xlabel("predicted network")
    axes.set_ylabel("network in the atlas")
    axes.set_title(title, fontsize=11, parse_math=False)
    figure.colorbar(image, label="test parcels of the true network (%)")
    return figure


def network_map(
    votes_PQ: NDArray[Any], number_P: NDArray[Any], xyz_mm: Floats, names: Sequence[str], title: str
) -> Figure:
    """Networks of the atlas (top) and those predicted by most divisions and recordings (bottom; paper, figure 5B)."""
    predicted_P = np.where(votes_PQ.sum(1) > 0, votes_PQ.argmax(1), -1)
    colours = [YEO_COLOURS.get(name, f"C{number}") for number, name in enumerate(names)]
    figure = Figure(figsize=(12, 6.6))
    for row, (values_P, text) in enumerate(((number_P, "atlas"), (predicted_P, "predicted by most votes"))):
        _draw_networks(figure, 0.5 - 0.45 * row, values_P, xyz_mm, colours)
        figure.text(0.01, 0.9 - 0.45 * row, text, fontsize=10)
    points: list[Any] = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in colours]
    figure.legend(points, [plain_text(name) for name in names], loc="center right", frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _draw_networks(
    figure: Figure, bottom: float, values_P: NDArray[Any], xyz_mm: Floats, colours: Sequence[str]
) -> None:
    """One row of glass brains with a marker per parcel; parcels with a negative number are left out."""
    drawn = values_P >= 0
    display = plot_markers(
        values_P[drawn].astype(float),
        xyz_mm[drawn],
        node_size=marker_size(int(drawn.sum())),
        node_cmap=ListedColormap(list(colours)),
        node_vmin=-0.5,
        node_vmax=len(colours) - 0.5,
        alpha=0.9,
        display_mode="lyrz",
        axes=figure.add_axes((0.01, bottom, 0.86, 0.38)),
        colorbar=False,
    )
    name_hemispheres(display)
