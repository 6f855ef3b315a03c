"""Figures shared by several questions: a window's parcels over time, and one value per parcel on a glass brain.

All are plain `matplotlib.figure.Figure`s, without pyplot's global state. Shapes: P parcels, T frames.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from nilearn.plotting import plot_markers
from numpy.typing import NDArray

Floats = NDArray[np.floating]

PARCELS_SHOWN = 5
# R² per parcel is not clipped and has a long lower tail; a single parcel must not dominate the colour scale.
COLOUR_PERCENTILES = (2, 98)


def plain_text(label: str) -> str:
    """Escapes dollar signs, which would start a formula in a legend or tick label."""
    return label.replace("$", r"\$")


def legend_handles(panels: Iterable[Axes]) -> dict[str, Artist]:
    """Label -> handle over all panels, each label once, for a figure's legend."""
    return {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}


def marker_size(num_parcels: int) -> float:
    """Size of parcel markers on a glass brain: the more parcels, the smaller."""
    return float(np.clip(6000 / num_parcels, 8, 60))


def name_hemispheres(display: Any) -> None:
    """Writes the hemisphere below the side views of a nilearn display."""
    for side, name in (("l", "left hemisphere"), ("r", "right hemisphere")):
        panel = display.axes[side].ax
        panel.text(0.5, -0.02, name, transform=panel.transAxes, ha="center", va="top", fontsize=9)


def _hidden_r2(truth_PT: Floats, prediction_PT: Floats, hidden_PT: NDArray[np.bool_]) -> Floats:
    """R² over each parcel's hidden frames, (P,); NaN where it is undefined."""
    r2_P = np.full(len(truth_PT), np.nan)
    for parcel, hidden_T in enumerate(hidden_PT):
        y, y_hat = truth_PT[parcel, hidden_T].astype(np.float64), prediction_PT[parcel, hidden_T]
        if y.size and np.ptp(y) > 0:
            r2_P[parcel] = 1 - ((y - y_hat) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    return r2_P


def _shown(r2_P: Floats) -> NDArray[np.intp]:
    """Parcels to draw: evenly spaced ranks from the best to the worst R², so that none are hand-picked."""
    order = np.argsort(-r2_P)  # NaN last
    scored = order[: int(np.isfinite(r2_P).sum())]
    ranked = scored if len(scored) else order
    chosen: NDArray[np.intp] = ranked[np.unique(np.linspace(0, len(ranked) - 1, PARCELS_SHOWN).round().astype(int))]
    return chosen


def _runs(hidden_T: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end (exclusive) of each run of hidden frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hidden_T, [False]])))
    return [(int(first), int(after)) for first, after in edges.reshape(-1, 2)]


def _draw_parcel(axes: Axes, truth_T: Floats, prediction_T: Floats, hidden_T: NDArray[np.bool_], tr_s: float) -> None:
    """Truth in black, prediction in red where hidden; hidden stretches shaded, tr_s / 2 around their frames."""
    seconds_T = np.arange(len(truth_T)) * tr_s
    for number, (first, after) in enumerate(_runs(hidden_T)):
        label = "hidden" if number == 0 else None
        axes.axvspan((first - 0.5) * tr_s, (after - 0.5) * tr_s, color="0.88", linewidth=0, label=label)
    axes.plot(seconds_T, truth_T, color="black", linewidth=0.9, label="truth")
    axes.plot(seconds_T, np.where(hidden_T, prediction_T, np.nan), color="red", linewidth=1.2, label="prediction")
    axes.set_xlim(-0.5 * tr_s, (len(truth_T) - 0.5) * tr_s)
    axes.spines[["top", "right"]].set_visible(False)


def reconstruction_figure(
    truth_PT: Floats, prediction_PT: Floats, hidden_PT: NDArray[np.bool_], parcel_labels: Sequence[str], tr_s: float
) -> Figure:
    """One window's truth and prediction for a few parcels, like the paper's Figure 3.

    If there are more than five parcels, those with the best, upper-quartile, median, lower-quartile and worst R² over
    the window's hidden frames are drawn.

    Args:
        truth_PT: (P, T) scaled signal.
        prediction_PT: (P, T), scaled alike; drawn only where hidden.
        hidden_PT: (P, T) bool, True = hidden.
        parcel_labels: (P,) names.
        tr_s: seconds between frames.

    Raises:
        ValueError: if the shapes disagree.
    """
    if not truth_PT.shape == prediction_PT.shape == hidden_PT.shape or len(parcel_labels) != len(truth_PT):
        raise ValueError(
            f"got truth {truth_PT.shape}, prediction {prediction_PT.shape}, hidden {hidden_PT.shape} and "
            f"{len(parcel_labels)} labels; expected (parcels, frames) three times and a label for each parcel"
        )
    r2_P = _hidden_r2(truth_PT, prediction_PT, hidden_PT)
    shown = _shown(r2_P)
    figure = Figure(figsize=(9, 1.2 + 1.35 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, parcel in zip(panels, shown, strict=True):
        _draw_parcel(axes, truth_PT[parcel], prediction_PT[parcel], hidden_PT[parcel], tr_s)
        score = "no R²" if np.isnan(r2_P[parcel]) else f"R² = {r2_P[parcel]:.2f} over hidden frames"
        axes.set_title(f"{parcel_labels[parcel]}: {score}", fontsize=9, loc="left", parse_math=False)
    panels[-1].set_xlabel("time in the window (s)")
    figure.supylabel("scaled signal", fontsize=10)
    handles = legend_handles(panels)
    figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    return figure


def _colours(values: Floats) -> tuple[Normalize, str, str]:
    """Norm, colour map and `extend`; red-blue and symmetric about 0 for values of both signs."""
    low, high = np.percentile(values, COLOUR_PERCENTILES)
    name = "viridis"
    if low < 0 < high:
        low, high, name = -max(-low, high), max(-low, high), "RdBu_r"
    if low == high:
        low, high = low - 0.5, high + 0.5
    beyond = (bool(values.min() < low), bool(values.max() > high))
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    return Normalize(low, high), name, extend


def parcel_map(
    values_P: Floats, xyz_mm: Floats, title: str, colour_bar_label: str, scale_values: Floats | None = None
) -> Figure:
    """One value per parcel on a glass brain, at the parcels' centres, left and right marked L and R.

    The colours span the 2nd to the 98th percentile, with arrows on the colour bar where values lie beyond; values of
    both signs get red and blue, symmetric about 0.

    Args:
        values_P: (P,); parcels with NaN are left out and counted in the title.
        xyz_mm: (P, 3) MNI coordinates.
        title: of the figure.
        colour_bar_label: quantity and unit.
        scale_values: values that set the colour scale instead; pass the same to two maps to make them comparable.

    Raises:
        ValueError: if the shapes disagree or nothing is left to draw.
    """
    values_P, xyz_mm = np.asarray(values_P, dtype=np.float64), np.asarray(xyz_mm, dtype=np.float64)
    if values_P.ndim != 1 or xyz_mm.shape != (len(values_P), 3):
        raise ValueError(f"got values {values_P.shape} and coordinates {xyz_mm.shape}; expected (P,) and (P, 3)")
    drawn = np.isfinite(values_P)
    if not drawn.any():
        raise ValueError(f"none of the {len(values_P)} parcels has a finite value; there is nothing to draw")
    spanned = values_P if scale_values is None else np.asarray(scale_values, dtype=np.float64)
    norm, colours, extend = _colours(spanned[np.isfinite(spanned)])
    figure = Figure(figsize=(12, 3.6))
    brain = figure.add_axes((0.01, 0.02, 0.88, 0.84))
    display = plot_markers(
        values_P[drawn],
        xyz_mm[drawn],
        node_size=marker_size(int(drawn.sum())),
        node_cmap=colours,
        node_vmin=norm.vmin,
        node_vmax=norm.vmax,
        node_kwargs={"edgecolors": "0.35", "linewidths": 0.3},  # the middle of red-blue is as white as the paper
        alpha=0.85,
        display_mode="lyrz",  # each hemisphere from its side: a view through both would mix their colours
        axes=brain,
        colorbar=False,
    )
    name_hemispheres(display)
    bar = figure.colorbar(ScalarMappable(norm, colours), cax=figure.add_axes((0.905, 0.14, 0.014, 0.62)), extend=extend)
    bar.set_label(colour_bar_label)
    left_out = int((~drawn).sum())
    counted = f" ({left_out} of {len(drawn)} parcels without a value left out)" if left_out else ""
    figure.suptitle(f"{title}{counted}", fontsize=11, parse_math=False)
    return figure
