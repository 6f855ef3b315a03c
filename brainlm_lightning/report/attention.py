"""Attention: tables, and the parcel-by-parcel matrices as figures (paper, section 4.4, figures 5 and 9).

Shapes: P parcels.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brainlm_lightning.evaluation.names import MetricName, parsed
from brainlm_lightning.report.brain import title_of
from brainlm_lightning.report.contrasts import ContrastPage
from brainlm_lightning.report.figures import plain_text
from brainlm_lightning.report.page import ReportFile
from brainlm_lightning.report.scene import Scene
from brainlm_lightning.report.scores import Arrays, Metrics

PAPER = (
    "The paper (figure 5): more attention on visual cortex at a task than at rest, and on frontal and limbic areas in "
    "severe than in mild depression; it gives no numbers."
)
MAPS = (
    "cls attention: share of CLS's attention that a parcel's patches receive; parcel attention: share that it receives "
    "from the average parcel. signal level, amplitude: mean and standard deviation of the recordings, without a model."
)
EDGES_SHOWN = 100
MATRIX = (
    "How much of its attention a parcel's patches (row) give to another parcel's (column), mean over layers, heads "
    "and the group's recordings, parcels sorted by network; right: the first group minus the second."
)
EDGES = (
    f"The {EDGES_SHOWN} largest differences between the two matrices, mean of both directions; red: more in the first "
    "group, blue: less. Turn it with the mouse or a finger."
)


class AttentionPage(ContrastPage):
    """Contrasts of attention, with the groups' matrices."""

    title = "Attention"
    heading = "Attention"
    place = 5
    wanted = "attention"
    paper_figure = "5, 9"
    map_suffix = "_cls_attention"

    def notes(self, metrics: Metrics, contrast: MetricName, maps: list[str]) -> list[str]:
        """What the maps are, and what the paper found."""
        return [MAPS, PAPER]

    def files(self, metrics: Metrics, arrays: Arrays) -> Iterator[ReportFile]:
        """The maps of the contrasts, and the matrices if the run kept them."""
        yield from super().files(metrics, arrays)
        for name in parsed(arrays):
            if name.score == "matrix_a_PP":
                prefix = name.by(name.method)
                yield ReportFile(
                    f"{name.condition}/{name.method}_matrix", partial(matrix_figure, arrays, prefix), MATRIX
                )
                if _difference(arrays, prefix).any():
                    yield ReportFile(
                        f"{name.condition}/{name.method}_edges", partial(edges_scene, arrays, prefix), EDGES
                    )


def matrix_figure(arrays: Arrays, prefix: MetricName) -> Figure:
    """The groups' matrices and their difference, parcels sorted by network."""
    a_PP, b_PP = (arrays[prefix.of(f"matrix_{group}_PP")] for group in "ab")
    groups = [str(name) for name in arrays[prefix.of("groups")]]
    networks_P = arrays["parcels/network"]
    order = np.argsort(networks_P, kind="stable")
    top = np.nanpercentile(np.stack([a_PP, b_PP]), 99)
    largest = np.nanpercentile(np.abs(a_PP - b_PP), 99) or 1.0
    panels: list[tuple[str, NDArray[Any], float, float, str]] = [
        (groups[0], a_PP, 0, top, "viridis"),
        (groups[1], b_PP, 0, top, "viridis"),
        ("difference", a_PP - b_PP, -largest, largest, "RdBu_r"),
    ]
    figure = Figure(figsize=(14, 4.8), layout="constrained")
    for axes, (name, matrix_PP, low, high, colours) in zip(figure.subplots(1, 3), panels, strict=True):
        image = axes.imshow(matrix_PP[np.ix_(order, order)], cmap=colours, vmin=low, vmax=high)
        extend = "both" if low else "max"
        figure.colorbar(image, ax=axes, shrink=0.75, label="attention (share of a row)", extend=extend)
        _mark_networks(axes, networks_P[order])
        axes.set_title(name, fontsize=10, parse_math=False)
        axes.set_xlabel("to parcel")
    figure.axes[0].set_ylabel("from parcel")
    figure.suptitle(title_of(prefix), fontsize=11, parse_math=False)
    return figure


def _mark_networks(axes: Axes, networks_P: NDArray[Any]) -> None:
    """Each network's name at the middle of its parcels, and lines between networks."""
    names, first, counts = np.unique(networks_P, return_index=True, return_counts=True)
    for edge in first[1:]:
        axes.axhline(edge - 0.5, color="0.5", linewidth=0.5)
        axes.axvline(edge - 0.5, color="0.5", linewidth=0.5)
    middle, labels = first + counts / 2 - 0.5, [plain_text(str(name)) for name in names]
    axes.set_yticks(middle, labels, fontsize=7)
    axes.set_xticks(middle, labels, fontsize=7, rotation=60, ha="right", rotation_mode="anchor")


def _difference(arrays: Arrays, prefix: MetricName) -> NDArray[np.floating]:
    """(P, P) difference of the groups' matrices, averaged over both directions; 0 on the diagonal."""
    change_PP: NDArray[np.floating] = np.nan_to_num(arrays[prefix.of("matrix_a_PP")] - arrays[prefix.of("matrix_b_PP")])
    change_PP = (change_PP + change_PP.T) / 2
    np.fill_diagonal(change_PP, 0)
    return change_PP


def edges_scene(arrays: Arrays, prefix: MetricName) -> Scene:
    """The largest differences between the matrices as edges in a rotatable brain."""
    change_PP = _difference(arrays, prefix)
    rows, columns = np.triu_indices(len(change_PP), 1)
    values = change_PP[rows, columns]
    kept = [edge for edge in np.argsort(-np.abs(values), kind="stable")[:EDGES_SHOWN] if values[edge]]
    edges = [(int(rows[edge]), int(columns[edge]), float(values[edge])) for edge in kept]
    labels = [
        f"{label} ({network})"
        for label, network in zip(arrays["parcels/label"], arrays["parcels/network"], strict=True)
    ]
    title = f"{title_of(prefix)}: the {len(edges)} largest differences of attention"
    return Scene(title, "difference of attention", arrays["parcels/xyz_mm"], labels, np.zeros(len(labels)), edges)
