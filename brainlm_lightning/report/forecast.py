"""Forecast scores as a table, like the paper's table 3, and error by frame as a figure, like its figure 4.

Shapes: P parcels, C context frames, H frames of the horizon.
"""

import math
import re
from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brainlm_lightning.report.figures import parcel_map
from brainlm_lightning.report.grid import Grid
from brainlm_lightning.report.reconstruction import SIGNIFICANT, Cell

# Table 3 of the paper: R², Pearson's R and MSE over 40 frames, in distribution (UKB) and out of it (HCP).
PAPER = {
    "BrainLM, fine-tuned": ((0.086, 0.280, 0.648), (0.028, 0.185, 0.568)),
    "BrainLM without pretraining": ((0.012, 0.112, 0.695), (0.007, 0.090, 0.583)),
    "LSTM": ((-0.001, 0.151, 0.704), (-0.020, 0.049, 0.598)),
    "Neural ODE": ((-0.577, 0.001, 1.083), (-0.469, 0.000, 0.857)),
    "Latent ODE": ((0.001, 0.023, 0.703), (-0.003, -0.000, 0.588)),
}
SCORES = {"r2_pooled": "R²", "pearson_r_pooled": "R", "mse_pooled": "MSE"}
CONDITION = re.compile(r"(test/([^/]+)/horizon(\d+))/([^/]+)/r2_pooled")
PAIR = re.compile(r"(test/[^/]+/horizon\d+)/([^/]+?)_minus_([^/]+)/num_frames_better")
KNOWS_THE_TRUTH = "optimum"
CURVES = ("ar", "var", "optimum")  # drawn beside the forecaster where they are there


def conditions(metrics: Mapping[str, float]) -> dict[str, list[str]]:
    """`test/<cohort>/horizon<frames>` -> its methods, the forecaster that the run is about first."""
    found: dict[str, list[str]] = {}
    for match in filter(None, map(CONDITION.fullmatch, metrics)):
        found.setdefault(match[1], []).append(match[4])
    first = {match[1]: match[2] for match in filter(None, map(PAIR.fullmatch, metrics))}
    return {place: sorted(methods, key=lambda name: name != first.get(place)) for place, methods in found.items()}


def _cell(metrics: Mapping[str, float], place: str, reference: str, method: str, score: str) -> Cell:
    """One score; R² with the mark of the paired test."""
    name, pair = f"{place}/{method}/{score}", f"{place}/{reference}_minus_{method}"
    worse = None
    if score == "r2_pooled" and metrics.get(f"{pair}/p_corrected", math.nan) < SIGNIFICANT:
        worse = metrics[f"{pair}/r2_subject"] > 0
    low, high = (metrics.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
    return Cell(metrics.get(name, math.nan), low, high, worse)


def _grid(metrics: Mapping[str, float], place: str, methods: list[str]) -> list[list[str]]:
    """The header and a row for each method; in how many frames the first is better and worse than it."""
    rows = [["method", *SCORES.values(), "frames better / worse"]]
    for method in methods:
        cells = [str(_cell(metrics, place, methods[0], method, score)) for score in SCORES]
        pair = f"{place}/{methods[0]}_minus_{method}"
        counts = [metrics.get(f"{pair}/num_frames_{which}") for which in ("better", "worse")]
        rows.append([method, *cells, "–" if None in counts else " / ".join(f"{count:g}" for count in counts)])
    return rows


def _title(metrics: Mapping[str, float], place: str) -> str:
    _, cohort, horizon = place.split("/")
    return f"Forecast, {cohort}, {horizon.removeprefix('horizon')} frames ({metrics[f'{place}/horizon_s']:g} s)"


def _notes(metrics: Mapping[str, float], place: str, reference: str) -> list[str]:
    """What stands below a condition's table."""
    subjects, windows = (int(metrics[f"{place}/{name}"]) for name in (f"{reference}/num_subjects", "num_windows"))
    paper = "; ".join(f"{name} " + " and ".join(map(_triple, numbers)) for name, numbers in PAPER.items())
    return [
        f"Pooled over {windows} windows of {subjects} subjects [95 % interval from resampling subjects]; "
        f"{int(metrics[f'{place}/num_recordings_too_short'])} recordings too short for a window.",
        f"* differs from {reference} in R² per subject, ↓ worse or ↑ better; last column: at how many frames the error "
        f"of {reference} is lower / higher: p < {SIGNIFICANT}, Wilcoxon's paired tests, Benjamini–Hochberg over all "
        "methods, frames and cohorts of the test run.",
        f"The paper's Table 3 (R² / R / MSE over 40 frames, UKB and HCP): {paper}.",
    ]


def _triple(numbers: tuple[float, float, float]) -> str:
    return " / ".join(f"{number:.3f}" for number in numbers)


def forecast_grids(metrics: Mapping[str, float]) -> list[Grid]:
    """A table for each cohort: methods by score; [] where there are no forecasts."""
    return [
        Grid(_title(metrics, place), _grid(metrics, place, methods), _notes(metrics, place, methods[0]))
        for place, methods in conditions(metrics).items()
    ]


# -- figure 4 -----------------------------------------------------------------------------------------------------


def frames_better_than_all(arrays: Mapping[str, NDArray], place: str) -> NDArray[np.bool_]:
    """(H,) True where the forecaster's error is significantly lower than that of every method but the optimum."""
    pairs = [
        name.removesuffix("/p_corrected_H")
        for name in arrays
        if name.startswith(f"{place}/") and name.endswith("/p_corrected_H") and f"_minus_{KNOWS_THE_TRUTH}" not in name
    ]
    better = [(arrays[f"{pair}/p_corrected_H"] < SIGNIFICANT) & (arrays[f"{pair}/mse_3H"][0] < 0) for pair in pairs]
    return np.all(better, axis=0) if better else np.zeros(arrays[f"{place}/time_s_H"].shape, dtype=bool)


def _limits(arrays: Mapping[str, NDArray], place: str, methods: list[str], score: str) -> tuple[float, float]:
    """Axis limits that persistence and solvers gone astray do not set: they leave the panel."""
    values = np.concatenate([arrays[f"{place}/{method}/{score}_3H"][0] for method in methods])
    zero = arrays.get(f"{place}/zero/{score}_3H")
    typical = float(np.nanmax(zero[0]) if zero is not None and score == "mse" else np.nanmedian(values))
    if score == "mse":
        return float(np.nanmin(values)) * 0.92, typical * 1.12
    return min(-0.05, max(-0.15, float(np.nanmin(values)))), max(0.05, float(np.nanmax(values)) * 1.08)


def _draw(axes: Axes, arrays: Mapping[str, NDArray], place: str, methods: list[str], score: str) -> None:
    time_s_H = arrays[f"{place}/time_s_H"]
    styles = ["-", "--", "-.", ":"]
    for number, method in enumerate(methods):
        estimate_H, low_H, high_H = arrays[f"{place}/{method}/{score}_3H"]
        leading, truth = number == 0, method == KNOWS_THE_TRUTH
        colour = "red" if leading else "black" if truth else f"C{(number - 1) % 10}"
        colour = "tab:cyan" if colour == "C3" else colour  # C3 is red
        style = "-" if leading or truth else styles[(number - 1) % len(styles)]
        (line,) = axes.plot(time_s_H, estimate_H, style, color=colour, linewidth=2.0 if leading else 1.2, label=method)
        line.set_in_layout(False)  # some leave the panel
        if leading:
            axes.fill_between(time_s_H, low_H, high_H, color=colour, alpha=0.15, linewidth=0)
    axes.set_ylim(*_limits(arrays, place, methods, score))
    axes.spines[["top", "right"]].set_visible(False)


def forecast_figures(metrics: Mapping[str, float], arrays: Mapping[str, NDArray]) -> Iterator[tuple[str, Figure]]:
    """All figures of a forecasting test with their names: error by frame, a few forecasts, R² on the brain."""
    places = conditions(metrics)
    if places:
        yield "forecast_by_frame", forecast_figure(metrics, arrays)
    for place, (name, *others) in places.items():
        cohort, shown = place.split("/")[1], [name, *(other for other in others if other in CURVES)]
        yield f"forecast_curves_{cohort}", forecast_curves(arrays, place, shown)
        title = f"R² of the forecast by {name}, {cohort}"
        yield f"forecast_r2_{cohort}", parcel_map(arrays[f"{place}/{name}/r2_P"], arrays["parcels/xyz_mm"], title, "R²")


def forecast_figure(metrics: Mapping[str, float], arrays: Mapping[str, NDArray]) -> Figure:
    """Error and R² at each frame of the horizon, with the forecaster's 95 % interval; a row for each cohort.

    Stars stand at frames where the forecaster's error is significantly lower than that of every other method, the
    optimum (which knows how a simulation was made) left out.

    Raises:
        ValueError: there are no forecasts among the metrics.
    """
    found = conditions(metrics)
    if not found:
        raise ValueError(f"none of {len(metrics)} metrics is named test/<cohort>/horizon<frames>/<method>/r2_pooled")
    figure = Figure(figsize=(12, 0.8 + 3.4 * len(found)), layout="constrained")
    for row, (place, methods) in zip(figure.subplots(len(found), 2, squeeze=False), found.items(), strict=True):
        for axes, score, label in zip(row, ("mse", "r2"), ("mean squared error", "R²"), strict=True):
            _draw(axes, arrays, place, methods, score)
            axes.set_xlabel("time after the last frame seen (s)")
            axes.set_ylabel(label)
            axes.set_title(_title(metrics, place), fontsize=9, loc="left", parse_math=False)
        starred = frames_better_than_all(arrays, place)
        height = np.full(int(starred.sum()), row[0].get_ylim()[1])
        (stars,) = row[0].plot(arrays[f"{place}/time_s_H"][starred], height, "k*", clip_on=False, markersize=7)
        stars.set_in_layout(False)  # they stand on the panel's edge
    handles, labels = row[0].get_legend_handles_labels()
    reference = next(iter(found.values()))[0]
    note = f"★ {reference} errs less than\nall but the optimum,\np < {SIGNIFICANT}, corrected"
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9, title=note, title_fontsize=8)
    return figure


def forecast_curves(arrays: Mapping[str, NDArray], place: str, methods: list[str], shown: int = 3) -> Figure:
    """Forecasts of a few parcels in one window: the parcels at the best, middle and worst rank of the first method.

    Args:
        arrays: of a test run.
        place: `test/<cohort>/horizon<frames>`.
        methods: whose forecasts are drawn.
        shown: how many parcels.
    """
    context_PC, future_PH = arrays[f"{place}/context_BPC"][0], arrays[f"{place}/future_BPH"][0]
    time_s_H = arrays[f"{place}/time_s_H"]
    past = min(3 * len(time_s_H), context_PC.shape[1])
    past_s = np.arange(-past + 1, 1) * (time_s_H[0])
    error_P = ((arrays[f"{place}/{methods[0]}/forecast_BPH"][0] - future_PH) ** 2).mean(axis=1)
    known = np.flatnonzero(np.ptp(context_PC, axis=1) > 0)
    order = known[np.argsort(error_P[known])]
    parcels = order[np.unique(np.linspace(0, len(order) - 1, shown).round().astype(int))]
    figure = Figure(figsize=(9, 1 + 1.8 * len(parcels)), layout="constrained")
    for axes, parcel in zip(figure.subplots(len(parcels), 1, sharex=True, squeeze=False)[:, 0], parcels, strict=True):
        axes.plot(past_s, context_PC[parcel, -past:], color="0.5", linewidth=0.9, label="seen")
        axes.plot(time_s_H, future_PH[parcel], color="black", linewidth=1.2, label="truth")
        for number, method in enumerate(methods):
            colour = "red" if number == 0 else f"C{number - 1}"
            axes.plot(time_s_H, arrays[f"{place}/{method}/forecast_BPH"][0, parcel], color=colour, label=method)
        axes.axvline(0, color="0.7", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(f"parcel {parcel + 1}: squared error {error_P[parcel]:.2f}", fontsize=9, loc="left")
    axes.set_xlabel("time after the last frame seen (s)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    return figure
