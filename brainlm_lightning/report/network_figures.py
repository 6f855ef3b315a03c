"""Functional networks in figures: methods side by side, what is taken for what, and which parcels are missed.

Shapes: P parcels, C networks, R recordings.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from nilearn.plotting import plot_markers
from numpy.typing import NDArray

from brainlm_lightning.report.figures import parcel_map
from brainlm_lightning.report.network import PAPER_ACCURACY, network_rows, reference_of, shown_name

Floats = NDArray[np.floating]
# The colours of Yeo et al. 2011, cream made darker to be seen on white; others for networks that are not theirs.
YEO_COLOURS = {
    "Vis": "#781286",
    "SomMot": "#4682b4",
    "DorsAttn": "#00760e",
    "SalVentAttn": "#c43afa",
    "Limbic": "#b8b05a",
    "Cont": "#e69422",
    "Default": "#cd3e4e",
}


def network_figures(metrics: Mapping[str, float], arrays: Mapping[str, NDArray]) -> dict[str, Figure]:
    """All figures of a test of networks, by the name of their file; {} where there was none."""
    found = {}
    for cohort in network_rows(metrics):
        place, reference = f"test/{cohort}/networks", reference_of(metrics, cohort)
        names = [str(name) for name in arrays["networks/names"]]
        number_P, xyz_mm = arrays["networks/number_P"], arrays["networks/xyz_mm"]
        votes_PC = arrays[f"{place}/{reference}/votes_PC"]
        title = f"Functional networks, {cohort}, by {shown_name(reference)}"
        found[f"networks_{cohort}_accuracy"] = accuracy_figure(metrics, cohort)
        confusion_CC = arrays[f"{place}/{reference}/confusion_RCC"].sum(0)
        found[f"networks_{cohort}_confusion"] = confusion_figure(confusion_CC, names, title)
        missed_P = 100 * missed(votes_PC, number_P)
        text = f"Parcels sorted into the wrong network, {cohort}, by {shown_name(reference)}"
        found[f"networks_{cohort}_missed"] = parcel_map(missed_P, xyz_mm, text, "times when tested (%)")
        found[f"networks_{cohort}_map"] = network_map(votes_PC, number_P, xyz_mm, names, title)
    return found


def missed(votes_PC: NDArray, number_P: NDArray) -> Floats:
    """How often a parcel, when it was tested, was said to be of another network, (P,); NaN where it never was."""
    total_P = votes_PC.sum(1)
    right_P = votes_PC[np.arange(len(number_P)), np.maximum(number_P, 0)]
    tested_P = (total_P > 0) & (number_P >= 0)
    return np.where(tested_P, 1 - right_P / np.maximum(total_P, 1), np.nan)


def accuracy_figure(metrics: Mapping[str, float], cohort: str) -> Figure:
    """Accuracy of every method with its interval over subjects, and the paper's where it has one."""
    rows = network_rows(metrics)[cohort]
    figure = Figure(figsize=(8, 1.4 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (method, row) in enumerate(rows.items()):
        accuracy, low, high = (100 * value for value in row.scores["accuracy"])
        axes.hlines(place, low, high, color="black", linewidth=1.6)
        axes.plot(accuracy, place, "o", color="black", markersize=5, label="here, 95 % interval over subjects")
        if method in PAPER_ACCURACY:
            axes.plot(PAPER_ACCURACY[method], place, "D", color="tab:red", fillstyle="none", label="paper, UK Biobank")
    axes.set_yticks(range(len(rows)), [shown_name(method) for method in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 102)
    axes.grid(axis="x", color="0.9")
    axes.set_xlabel("test parcels in the right network (%)")
    axes.set_title(f"Functional networks, {cohort}", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def confusion_figure(confusion_CC: NDArray, names: Sequence[str], title: str) -> Figure:
    """Which network is taken for which, in per cent of the parcels of each true network (row)."""
    share_CC = 100 * confusion_CC / np.maximum(confusion_CC.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share_CC, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(share_CC.shape):
        colour = "white" if share_CC[row, column] > 60 else "black"
        axes.text(column, row, f"{share_CC[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("network said")
    axes.set_ylabel("network in the atlas")
    axes.set_title(title, fontsize=11, parse_math=False)
    figure.colorbar(image, label="test parcels of the true network (%)")
    return figure


def network_map(votes_PC: NDArray, number_P: NDArray, xyz_mm: Floats, names: Sequence[str], title: str) -> Figure:
    """The atlas's networks above, below those that most divisions and recordings say (paper, figure 5B)."""
    said_P = np.where(votes_PC.sum(1) > 0, votes_PC.argmax(1), -1)
    colours = [YEO_COLOURS.get(name, f"C{number}") for number, name in enumerate(names)]
    figure = Figure(figsize=(12, 6.6))
    for place, (values_P, text) in enumerate(((number_P, "atlas"), (said_P, "said by most votes"))):
        _draw_networks(figure, 0.5 - 0.45 * place, values_P, xyz_mm, colours)
        figure.text(0.01, 0.9 - 0.45 * place, text, fontsize=10)
    points: list[Any] = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in colours]
    figure.legend(points, names, loc="center right", frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_networks(figure: Figure, bottom: float, values_P: NDArray, xyz_mm: Floats, colours: Sequence[str]) -> None:
    """One row of glass brains, at the parcels' centres; parcels below 0 are left out."""
    drawn = values_P >= 0
    display = plot_markers(
        values_P[drawn].astype(float),
        xyz_mm[drawn],
        node_size=float(np.clip(6000 / drawn.sum(), 8, 60)),
        node_cmap=ListedColormap(list(colours)),
        node_vmin=-0.5,
        node_vmax=len(colours) - 0.5,
        alpha=0.9,
        display_mode="lyrz",
        axes=figure.add_axes((0.01, bottom, 0.86, 0.38)),
        colorbar=False,
    )
    for side, name in (("l", "left hemisphere"), ("r", "right hemisphere")):
        panel = display.axes[side].ax
        panel.text(0.5, -0.02, name, transform=panel.transAxes, ha="center", va="top", fontsize=9)
