"""Maps of parcels: glass brains, network means, rotatable brains; and the loss by optimiser step.

Arrays are named `test/<cohort>/<contrast>/<map>/<statistic>_P`, with a `unit`, and `parcels/{label, network, xyz_mm}`.

Shapes: P parcels, I optimiser steps.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.evaluation.resampling import SIGNIFICANCE
from brainlm_lightning.report.figures import parcel_map, plain_text
from brainlm_lightning.report.page import ReportFile
from brainlm_lightning.report.scene import Scene
from brainlm_lightning.report.scores import Arrays, Estimate, Metrics, names_under

STATISTICS = ("mean_a", "mean_b", "difference", "low", "high", "effect_size", "z", "p", "p_fdr", "p_max")
NEAR_MIDLINE_MM, BILATERAL_SHARE = 5.0, 0.2  # with this share of centres this near, an atlas has bilateral parcels
DIFFERENCE = (
    "The groups' difference in each parcel, divided by its standard deviation over permutations of the groups; red: "
    "more in the first group, blue: less."
)
MEAN = "The group's mean in each parcel, over the means of its subjects; both groups share a colour scale."
NETWORKS = "Differences of the means over each network's parcels, with 95 % intervals from resampling subjects."
TURN = "Turn it with the mouse or a finger; a parcel under the pointer shows its label, network and value."
Z_LABEL = "z of the difference\n(permutation standard deviations)"


def map_files(metrics: Metrics, arrays: Arrays, prefix: MetricName, paper: str = "") -> Iterator[ReportFile]:
    """The figures and the rotatable brain of one map, named `<contrast>/<map>…`."""
    name, named = f"{prefix.condition}/{prefix.method}", partial(_captioned, prefix, paper)
    if np.isfinite(arrays[prefix.of("z_P")]).any():
        yield named(f"{name}_difference", partial(difference_figure, arrays, prefix), DIFFERENCE)
        yield named(name, partial(difference_scene, arrays, prefix), f"{DIFFERENCE} {TURN}")
    for group in "ab":
        yield named(f"{name}_mean_{group}", partial(mean_figure, arrays, prefix, group), MEAN)
    differences = network_differences(metrics, prefix)
    if differences:
        label, title = f"difference of the groups, {arrays[prefix.of('unit')]}", title_of(prefix)
        yield named(f"{name}_networks", partial(network_differences_figure, differences, title, label), NETWORKS)


def _captioned(
    prefix: MetricName, paper: str, name: str, make: Callable[[], Figure | Scene], caption: str
) -> ReportFile:
    return ReportFile(name, make, f"{title_of(prefix)}. {caption}", paper)


def title_of(prefix: MetricName) -> str:
    """`abide, task minus rest: mae cls attention`."""
    return f"{prefix.cohort}, {prefix.condition}: {prefix.method}".replace("_", " ")


def parcel_table(arrays: Arrays, prefix: MetricName) -> pd.DataFrame:
    """A map as a table: one row per parcel, the largest |z| first."""
    table = pd.DataFrame({name: arrays[f"parcels/{name}"] for name in ("label", "network")})
    table[["x_mm", "y_mm", "z_mm"]] = arrays["parcels/xyz_mm"]
    for name in STATISTICS:
        if prefix.of(f"{name}_P") in arrays:
            table[name] = arrays[prefix.of(f"{name}_P")]
    return table.sort_values("z", key=lambda z: -np.abs(z), kind="stable")


def mean_figure(arrays: Arrays, prefix: MetricName, group: str) -> Figure:
    """The mean map of group ``a`` or ``b``; both share a colour scale (paper, figures 5A, 7 and 8)."""
    mean_P = {name: arrays[prefix.of(f"mean_{name}_P")] for name in "ab"}
    title = f"{title_of(prefix)}, {dict(zip('ab', arrays[prefix.of('groups')], strict=True))[group]}"
    unit = str(arrays[prefix.of("unit")])
    return _on_brain(arrays, mean_P[group], title, unit, np.concatenate(list(mean_P.values())))


def difference_figure(arrays: Arrays, prefix: MetricName) -> Figure:
    """The z-map of the difference between groups; the title gives the number of significant parcels."""
    p_P = arrays[prefix.of("p_fdr_P")]
    found = f"{(p_P < SIGNIFICANCE).sum()} of {len(p_P)} parcels significant"
    title = f"{title_of(prefix)}, difference; {found}, false discovery rate {SIGNIFICANCE:g}"
    return _on_brain(arrays, arrays[prefix.of("z_P")], title, Z_LABEL)


def _on_brain(
    arrays: Arrays, values_P: NDArray[Any], title: str, label: str, scale: NDArray[Any] | None = None
) -> Figure:
    figure = parcel_map(values_P, arrays["parcels/xyz_mm"], title, label, scale)
    note = midline_note(arrays["parcels/xyz_mm"])
    if note:
        figure.text(0.45, 0.005, note, ha="center", va="bottom", fontsize=8, color="0.3")
    return figure


def midline_note(xyz_mm: NDArray[Any]) -> str:
    """A caveat for an atlas with bilateral parcels; empty for others."""
    near = int((np.abs(xyz_mm[:, 0]) < NEAR_MIDLINE_MM).sum())
    if near < BILATERAL_SHARE * len(xyz_mm):
        return ""
    return (
        f"{near} of {len(xyz_mm)} parcels have their centre near the midline: most lie in both hemispheres, "
        "and the side views show each in one of them"
    )


def network_differences(metrics: Metrics, prefix: MetricName) -> dict[str, tuple[Estimate, float]]:
    """Network -> difference of the groups' means over its parcels, and its corrected p; in ascending order.

    The metrics are named `<prefix>/network/<network>/{difference, p_corrected}`.
    """
    found: dict[str, tuple[Estimate, float]] = {}
    for name in names_under(metrics, [prefix.by()]):
        match name.parts:
            case "network", *label, "difference" if name.method == prefix.method:
                p = metrics.get(name.of(name.score.removesuffix("difference") + "p_corrected"), math.nan)
                found["/".join(label)] = Estimate.read(metrics, str(name)), p
    return dict(sorted(found.items(), key=lambda item: item[1][0].value))


def network_differences_figure(differences: dict[str, tuple[Estimate, float]], title: str, label: str) -> Figure:
    """Difference of each network's mean with its 95 % interval; filled markers are significant after correction."""
    figure = Figure(figsize=(7.5, 1.3 + 0.33 * len(differences)), layout="constrained")
    axes = figure.subplots()
    for row, (difference, p) in enumerate(differences.values()):
        axes.hlines(row, difference.low, difference.high, color="C0")
        axes.plot(difference.value, row, "o", color="C0", markerfacecolor="C0" if p < SIGNIFICANCE else "white")
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(differences)), [plain_text(name) for name in differences])
    axes.set_xlabel(f"{label}\n(95 % interval over subjects; filled: p < {SIGNIFICANCE:g}, corrected)")
    _finish(axes, title)
    return figure


def loss_figure(arrays: Arrays, prefix: MetricName) -> Figure:
    """Mean loss at each step, towards the targets and towards the null targets."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(arrays[prefix.of("loss_I")], label="targets")
    axes.plot(arrays[prefix.of("loss_null_I")], label="null targets, from the sources' own group")
    axes.set_yscale("log")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("mean squared distance\n+ penalties")
    axes.legend(frameon=False)
    _finish(axes, title_of(prefix))
    return figure


def _finish(axes: Axes, title: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, parse_math=False)


def difference_scene(arrays: Arrays, prefix: MetricName) -> Scene:
    """A map's z on a brain that can be rotated."""
    title = f"{prefix.cohort}, {prefix.condition}, {prefix.method}".replace("_", " ")
    return brain_scene(arrays[prefix.of("z_P")], arrays, title, "z of the difference")


def brain_scene(values_P: NDArray[Any], arrays: Arrays, title: str, unit: str) -> Scene:
    """A rotatable brain with one marker per parcel, which shows its label on hover.

    Args:
        values_P: (P,); parcels with NaN are left out.
        arrays: with `parcels/label`, `parcels/network`, `parcels/xyz_mm`.
        title: of the page.
        unit: of the values.
    """
    drawn = np.flatnonzero(np.isfinite(values_P))
    labels = [
        f"{arrays['parcels/label'][parcel]} ({arrays['parcels/network'][parcel]}): {values_P[parcel]:.3g}"
        for parcel in drawn
    ]
    return Scene(title, unit, arrays["parcels/xyz_mm"][drawn], labels, values_P[drawn])
