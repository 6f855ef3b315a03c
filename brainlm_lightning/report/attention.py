"""Attention as tables, and the parcel-by-parcel matrices as figures (paper, section 4.4, figures 5 and 9).

Shapes: P parcels.
"""

import html
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from nilearn.plotting import view_connectome
from numpy.typing import NDArray

from brainlm_lightning.report.brain import ICON
from brainlm_lightning.report.contrasts import contrasts, grid_of
from brainlm_lightning.report.grid import Grid

Arrays = Mapping[str, NDArray[Any]]

CLS = "_cls_attention"
PAPER = (
    "The paper (figure 5): more attention on visual cortex at a task than at rest, and on frontal and limbic areas in "
    "severe than in mild depression; it gives no numbers."
)
MAPS = (
    "cls attention: share of CLS's attention that a parcel's patches get; parcel attention: share that it gets from "
    "the average parcel. signal level, amplitude: the recordings' own mean and standard deviation, without a model."
)
EDGES_SHOWN = 100


def attention_grids(metrics: Mapping[str, float]) -> list[Grid]:
    """A table for each contrast; [] where no attention was read."""
    found = contrasts(metrics, CLS)
    return [grid_of(metrics, "Attention", key, maps, [MAPS, PAPER]) for key, maps in found.items()]


def _matrices(arrays: Arrays) -> Iterator[tuple[str, str, NDArray[Any], NDArray[Any]]]:
    """Place, title, and the two groups' matrices."""
    for place in sorted(key.removesuffix("/matrix_a_PP") for key in arrays if key.endswith("/matrix_a_PP")):
        _, cohort, contrast, name = place.split("/")
        title = f"{cohort}, {contrast}: {name}".replace("_", " ")
        yield place, title, arrays[f"{place}/matrix_a_PP"], arrays[f"{place}/matrix_b_PP"]


def matrix_figures(arrays: Arrays) -> Iterator[tuple[str, Figure]]:
    """The groups' matrices and their difference, parcels in the order of their networks."""
    for place, title, a_PP, b_PP in _matrices(arrays):
        networks_P = arrays["parcels/network"]
        order = np.argsort(networks_P, kind="stable")
        figure = Figure(figsize=(14, 4.8), layout="constrained")
        groups = [str(name) for name in arrays[f"{place}/groups"]]
        top = np.nanpercentile(np.stack([a_PP, b_PP]), 99)
        far = np.nanpercentile(np.abs(a_PP - b_PP), 99) or 1.0
        shown = ((groups[0], a_PP, 0, top, "viridis"), (groups[1], b_PP, 0, top, "viridis"))
        for axes, (name, matrix_PP, low, high, colours) in zip(
            figure.subplots(1, 3), (*shown, ("difference", a_PP - b_PP, -far, far, "RdBu_r")), strict=True
        ):
            image = axes.imshow(matrix_PP[np.ix_(order, order)], cmap=colours, vmin=low, vmax=high)
            figure.colorbar(
                image, ax=axes, shrink=0.75, label="attention (share of a row)", extend="both" if low else "max"
            )
            _mark_networks(axes, networks_P[order])
            axes.set_title(name, fontsize=10, parse_math=False)
            axes.set_xlabel("to parcel")
        figure.axes[0].set_ylabel("from parcel")
        figure.suptitle(title, fontsize=11)
        yield "/".join(place.split("/")[2:]) + "_matrix", figure


def _mark_networks(axes: Any, networks_P: NDArray[Any]) -> None:
    """Names at the middle of each network's parcels, and lines between them."""
    names, first, counts = np.unique(networks_P, return_index=True, return_counts=True)
    for edge in first[1:]:
        axes.axhline(edge - 0.5, color="0.5", linewidth=0.5)
        axes.axvline(edge - 0.5, color="0.5", linewidth=0.5)
    middle = first + counts / 2 - 0.5
    axes.set_yticks(middle, names, fontsize=7)
    axes.set_xticks(middle, names, fontsize=7, rotation=60, ha="right", rotation_mode="anchor")


def matrix_pages(arrays: Arrays) -> Iterator[tuple[str, str]]:
    """The largest differences of the matrices as lines in a brain to turn around, offline."""
    for place, title, a_PP, b_PP in _matrices(arrays):
        change_PP = np.nan_to_num(a_PP - b_PP)
        change_PP = (change_PP + change_PP.T) / 2
        np.fill_diagonal(change_PP, 0)
        edges = np.sort(np.abs(change_PP[np.triu_indices(len(change_PP), 1)]))
        if not edges.any():
            continue
        page = view_connectome(
            change_PP,
            arrays["parcels/xyz_mm"],
            edge_threshold=float(edges[-EDGES_SHOWN:][0]) or None,
            title=html.escape(f"{title}: the {EDGES_SHOWN} largest differences of attention; left hemisphere: x < 0"),
            title_fontsize=14,
            colorbar_fontsize=14,
            node_labels=[html.escape(str(label)) for label in arrays["parcels/label"]],  # a label could hold markup
        )
        yield "/".join(place.split("/")[2:]) + "_edges", ICON.sub("", page.html)
