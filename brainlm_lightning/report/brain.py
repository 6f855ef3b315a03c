"""Contrasts on the brain, from the arrays of a run folder: glass brains, networks, loss curves, pages to turn around.

Arrays are named `test/<cohort>/<contrast>/<map>/<statistic>_P`, with a `unit`, and `parcels/{label, network, xyz_mm}`.

Shapes: P parcels, K networks, I steps.
"""

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from nilearn.plotting import view_markers
from numpy.typing import NDArray

from brainlm_lightning.report.contrasts import FALSE_DISCOVERY_RATE, contrasts
from brainlm_lightning.report.figures import parcel_map

Arrays = Mapping[str, NDArray[Any]]
Metrics = Mapping[str, float]

STATISTICS = ("mean_a", "mean_b", "difference", "low", "high", "effect_size", "z", "p", "p_fdr", "p_max")
NEAR_MIDLINE_MM, BILATERAL_SHARE = 5.0, 0.2  # an atlas with so many centres so near has parcels of both hemispheres
Z_LABEL = "z of the difference\n(permutation standard deviations)"
ICON = re.compile(r"<link rel=\"icon\"[^>]*>")  # nilearn's would be fetched from the network


def map_names(metrics: Metrics) -> list[str]:
    """Every map of every contrast, `test/<cohort>/<contrast>/<map>`."""
    return [f"test/{cohort}/{name}/{of}" for (cohort, name), maps in contrasts(metrics, "").items() for of in maps]


def shown_maps(metrics: Metrics) -> list[str]:
    """The maps to draw: those of the pretrained model; controls are in the tables."""
    return [place for place in map_names(metrics) if "_untrained_" not in place and "/signal_" not in place]


def parcel_table(arrays: Arrays, place: str) -> pd.DataFrame:
    """A map as a table, a row a parcel, the largest |z| first."""
    table = pd.DataFrame({name: arrays[f"parcels/{name}"] for name in ("label", "network")})
    table[["x_mm", "y_mm", "z_mm"]] = arrays["parcels/xyz_mm"]
    for name in STATISTICS:
        if f"{place}/{name}_P" in arrays:
            table[name] = arrays[f"{place}/{name}_P"]
    return table.sort_values("z", key=lambda z: -np.abs(z), kind="stable")


def parcel_tables(arrays: Arrays, metrics: Metrics) -> Iterator[tuple[str, pd.DataFrame]]:
    """The table of every map of a run's contrasts with its name, `<contrast>/<map>`."""
    for place in map_names(metrics):
        yield "/".join(place.split("/")[2:]), parcel_table(arrays, place)


def brain_pages(arrays: Arrays, metrics: Metrics) -> Iterator[tuple[str, str]]:
    """The page of every map that is drawn, with its name."""
    for place in shown_maps(metrics):
        if np.isfinite(arrays[f"{place}/z_P"]).any():
            title = ", ".join(place.split("/")[1:]).replace("_", " ")
            page = brain_page(arrays[f"{place}/z_P"], arrays, title, Z_LABEL.replace("\n", " "))
            yield "/".join(place.split("/")[2:]), page


def brain_figures(arrays: Arrays, metrics: Metrics) -> Iterator[tuple[str, Figure]]:
    """Every figure of a run's contrasts with its name, `<contrast>/<map>_<what>`."""
    for place in shown_maps(metrics):
        _, cohort, contrast, name = place.split("/")
        title = f"{cohort}, {contrast}: {name}".replace("_", " ")
        for group in ("a", "b"):
            yield f"{contrast}/{name}_mean_{group}", mean_figure(arrays, place, group, title)
        if np.isfinite(arrays[f"{place}/z_P"]).any():
            yield f"{contrast}/{name}_difference", difference_figure(arrays, place, title)
        if any(key.startswith(f"{place}/network/") for key in metrics):
            yield f"{contrast}/{name}_networks", network_figure(metrics, place, title, str(arrays[f"{place}/unit"]))
    for place in sorted(key.removesuffix("/loss_I") for key in arrays if key.endswith("/loss_I")):
        _, cohort, contrast, name = place.split("/")
        yield f"{contrast}/{name}_loss", loss_figure(arrays, place, f"{cohort}, {contrast}: {name}".replace("_", " "))


def mean_figure(arrays: Arrays, place: str, group: str, title: str) -> Figure:
    """The map of group ``a`` or ``b`` itself, both in one scale of colours (paper, figures 5A, 7 and 8)."""
    values = {name: arrays[f"{place}/mean_{name}_P"] for name in "ab"}
    text = f"{title}, {dict(zip('ab', arrays[f'{place}/groups'], strict=True))[group]}"
    return _on_brain(arrays, values[group], text, str(arrays[f"{place}/unit"]), np.concatenate(list(values.values())))


def difference_figure(arrays: Arrays, place: str, title: str) -> Figure:
    """Where the groups differ, in standard deviations under permutation, and in how many parcels significantly."""
    p_P = arrays[f"{place}/p_fdr_P"]
    found = f"{(p_P < FALSE_DISCOVERY_RATE).sum()} of {len(p_P)} parcels significant"
    text = f"{title}, difference; {found}, false discovery rate {FALSE_DISCOVERY_RATE:g}"
    return _on_brain(arrays, arrays[f"{place}/z_P"], text, Z_LABEL)


def _on_brain(
    arrays: Arrays, values_P: NDArray[Any], title: str, label: str, scale: NDArray[Any] | None = None
) -> Figure:
    figure = parcel_map(values_P, arrays["parcels/xyz_mm"], title, label, scale)
    note = midline_note(arrays["parcels/xyz_mm"])
    if note:
        figure.text(0.45, 0.005, note, ha="center", va="bottom", fontsize=8, color="0.3")
    return figure


def midline_note(xyz_mm: NDArray[Any]) -> str:
    """What to know of an atlas whose parcels reach into both hemispheres; empty for others."""
    near = int((np.abs(xyz_mm[:, 0]) < NEAR_MIDLINE_MM).sum())
    if near < BILATERAL_SHARE * len(xyz_mm):
        return ""
    return (
        f"{near} of {len(xyz_mm)} parcels have their centre near the midline: most lie in both hemispheres, "
        "and the side views show each in one of them"
    )


def network_figure(metrics: Metrics, place: str, title: str, unit: str) -> Figure:
    """Difference of each network's mean with its 95 % interval; filled where significant after correction."""
    names = [key.split("/")[-2] for key in metrics if re.fullmatch(re.escape(place) + "/network/.+/difference", key)]
    names.sort(key=lambda name: metrics[f"{place}/network/{name}/difference"])
    figure = Figure(figsize=(7.5, 1.3 + 0.33 * len(names)), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(names):
        value, low, high, p = (
            metrics[f"{place}/network/{name}/{end}"]
            for end in ("difference", "difference_low", "difference_high", "p_corrected")
        )
        axes.hlines(row, low, high, color="C0")
        axes.plot(value, row, "o", color="C0", markerfacecolor="C0" if p < FALSE_DISCOVERY_RATE else "white")
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(f"difference of the groups, {unit}\n(95 % interval over subjects; filled: p < 0.05, corrected)")
    _finish(axes, title)
    return figure


def loss_figure(arrays: Arrays, place: str, title: str) -> Figure:
    """Mean loss at each step, towards the targets and towards the null targets."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(arrays[f"{place}/loss_I"], label="targets")
    axes.plot(arrays[f"{place}/loss_null_I"], label="null targets, of the sources' own group")
    axes.set_yscale("log")
    axes.set_xlabel("step of the optimiser")
    axes.set_ylabel("mean squared distance\n+ penalties")
    axes.legend(frameon=False)
    _finish(axes, title)
    return figure


def _finish(axes: Axes, title: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, parse_math=False)


def brain_page(values_P: NDArray[Any], arrays: Arrays, title: str, unit: str) -> str:
    """A brain to turn around in a browser, offline: a marker a parcel; labels show on hovering.

    Args:
        values_P: NaN parcels are left out.
        arrays: with `parcels/label`, `parcels/network`, `parcels/xyz_mm`.
        title: of the page.
        unit: of the values.
    """
    drawn = np.flatnonzero(np.isfinite(values_P))
    values, largest = values_P[drawn], float(np.abs(values_P[drawn]).max(initial=0)) or 1.0
    both_signs = bool((values < 0).any() and (values > 0).any())
    shade = 0.5 + values / largest / 2 if both_signs else np.abs(values) / largest
    colours = colormaps["RdBu_r" if both_signs else "viridis"](shade)
    labels = [
        f"{arrays['parcels/label'][parcel]} ({arrays['parcels/network'][parcel]}): {values_P[parcel]:.3g}"
        for parcel in drawn
    ]
    meaning = "red above 0, blue below" if both_signs else "yellow is largest"
    page = view_markers(
        arrays["parcels/xyz_mm"][drawn],
        marker_color=[to_hex(colour) for colour in colours],
        marker_size=list(4 + 8 * np.abs(values) / largest),
        marker_labels=[html.escape(label) for label in labels],  # a label could hold markup
        title=html.escape(f"{title}, {unit}; {meaning}; left hemisphere: x < 0"),
        title_fontsize=14,
    )
    return ICON.sub("", page.html)
