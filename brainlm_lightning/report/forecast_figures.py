"""Figures of forecasts: error by frame, like the paper's Figure 4, and forecasts of a few parcels.

Shapes: P parcels, C context frames, H frames of the horizon, B windows; 3 is (estimate, low, high).
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brainlm_lightning.evaluation.names import MetricName, parsed
from brainlm_lightning.evaluation.resampling import SIGNIFICANCE
from brainlm_lightning.report.figures import plain_text
from brainlm_lightning.report.scores import Arrays

OPTIMUM = "optimum"  # knows the true model of a simulated cohort
LINE_STYLES = ("-", "--", "-.", ":")
R2_AXIS = (-0.15, 0.05)  # lowest lower limit and lowest upper limit of an R² axis


def frames_better_than_all(arrays: Arrays, condition: MetricName) -> NDArray[np.bool_]:
    """True at frames where the forecaster's error is significantly below that of all methods but the optimum, (H,)."""
    pairs = [
        name
        for name in parsed(arrays)
        if name.by() == condition and name.score == "p_corrected_H" and name.pair and name.pair[1] != OPTIMUM
    ]
    better = [(arrays[str(pair)] < SIGNIFICANCE) & (arrays[pair.of("mse_3H")][0] < 0) for pair in pairs]
    return np.all(better, axis=0) if better else np.zeros(arrays[condition.of("time_s_H")].shape, dtype=bool)


def forecast_figure(
    arrays: Arrays, methods: Mapping[MetricName, list[str]], titles: Mapping[MetricName, str]
) -> Figure:
    """Error and R² at each frame of the horizon, with the forecaster's 95 % interval; one row per cohort.

    A star marks a frame at which the forecaster's error is significantly lower than that of every other method. The
    optimum, which knows the true model of a simulated cohort, is not counted among them.

    Args:
        arrays: of a test run.
        methods: condition -> methods, the forecaster first; at least one condition.
        titles: of the rows, by condition.

    Raises:
        ValueError: there is no condition.
    """
    if not methods:
        raise ValueError("there are no forecasts to draw; expected at least one condition with its methods")
    figure = Figure(figsize=(12, 0.8 + 3.4 * len(methods)), layout="constrained")
    for row, (condition, names) in zip(figure.subplots(len(methods), 2, squeeze=False), methods.items(), strict=True):
        for axes, score, label in zip(row, ("mse", "r2"), ("mean squared error", "R²"), strict=True):
            _draw(axes, arrays, condition, names, score)
            axes.set_xlabel("time after the last frame seen (s)")
            axes.set_ylabel(label)
            axes.set_title(titles[condition], fontsize=9, loc="left", parse_math=False)
        _draw_stars(row[0], arrays, condition)
    handles, labels = row[0].get_legend_handles_labels()
    reference = plain_text(next(iter(methods.values()))[0])
    note = f"★ {reference} errs less than\nall but the optimum,\np < {SIGNIFICANCE}, corrected"
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9, title=note, title_fontsize=8)
    return figure


def _draw(axes: Axes, arrays: Arrays, condition: MetricName, methods: list[str], score: str) -> None:
    """One line per method: the forecaster in red with its interval, the optimum in black."""
    time_s_H = arrays[condition.of("time_s_H")]
    for number, method in enumerate(methods):
        estimate_H, low_H, high_H = arrays[condition.by(method).of(f"{score}_3H")]
        leading, optimum = number == 0, method == OPTIMUM
        colour = "red" if leading else "black" if optimum else f"C{(number - 1) % 10}"
        colour = "tab:cyan" if colour == "C3" else colour  # C3 is red
        style = "-" if leading or optimum else LINE_STYLES[(number - 1) % len(LINE_STYLES)]
        width, label = 2.0 if leading else 1.2, plain_text(method)
        (line,) = axes.plot(time_s_H, estimate_H, style, color=colour, linewidth=width, label=label)
        line.set_in_layout(False)  # some lines leave the panel
        if leading:
            axes.fill_between(time_s_H, low_H, high_H, color=colour, alpha=0.15, linewidth=0)
    axes.set_ylim(*_limits(arrays, condition, methods, score))
    axes.spines[["top", "right"]].set_visible(False)


def _limits(arrays: Arrays, condition: MetricName, methods: list[str], score: str) -> tuple[float, float]:
    """Limits of the y axis; persistence and diverged solvers may leave the panel, so that the others stay legible."""
    values = np.concatenate([arrays[condition.by(method).of(f"{score}_3H")][0] for method in methods])
    zero = arrays.get(condition.by("zero").of(f"{score}_3H"))
    if score == "mse":
        typical = float(np.nanmedian(values) if zero is None else np.nanmax(zero[0]))
        return float(np.nanmin(values)) * 0.92, typical * 1.12
    lowest, highest = R2_AXIS
    return min(-highest, max(lowest, float(np.nanmin(values)))), max(highest, float(np.nanmax(values)) * 1.08)


def _draw_stars(axes: Axes, arrays: Arrays, condition: MetricName) -> None:
    """Stars on the upper edge at the frames of `frames_better_than_all`."""
    starred_H = frames_better_than_all(arrays, condition)
    height = np.full(int(starred_H.sum()), axes.get_ylim()[1])
    (stars,) = axes.plot(arrays[condition.of("time_s_H")][starred_H], height, "k*", clip_on=False, markersize=7)
    stars.set_in_layout(False)  # they lie on the panel's edge


def forecast_curves(arrays: Arrays, condition: MetricName, methods: list[str], shown: int = 3) -> Figure:
    """Forecasts of a few parcels in one window: those with the best, middle and worst error of the first method.

    Args:
        arrays: of a test run.
        condition: cohort and horizon.
        methods: methods to draw.
        shown: number of parcels.
    """
    context_PC, future_PH = arrays[condition.of("context_BPC")][0], arrays[condition.of("future_BPH")][0]
    time_s_H = arrays[condition.of("time_s_H")]
    past = min(3 * len(time_s_H), context_PC.shape[1])
    past_s = np.arange(-past + 1, 1) * time_s_H[0]
    forecasts_PH = {method: arrays[condition.by(method).of("forecast_BPH")][0] for method in methods}
    error_P = ((forecasts_PH[methods[0]] - future_PH) ** 2).mean(axis=1)
    observed = np.flatnonzero(np.ptp(context_PC, axis=1) > 0)
    order = observed[np.argsort(error_P[observed])]
    parcels = order[np.unique(np.linspace(0, len(order) - 1, shown).round().astype(int))]
    figure = Figure(figsize=(9, 1 + 1.8 * len(parcels)), layout="constrained")
    for axes, parcel in zip(figure.subplots(len(parcels), 1, sharex=True, squeeze=False)[:, 0], parcels, strict=True):
        axes.plot(past_s, context_PC[parcel, -past:], color="0.5", linewidth=0.9, label="seen")
        axes.plot(time_s_H, future_PH[parcel], color="black", linewidth=1.2, label="truth")
        for number, (method, forecast_PH) in enumerate(forecasts_PH.items()):
            colour = "red" if number == 0 else f"C{number - 1}"
            axes.plot(time_s_H, forecast_PH[parcel], color=colour, label=plain_text(method))
        axes.axvline(0, color="0.7", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(f"parcel {parcel + 1}: squared error {error_P[parcel]:.2f}", fontsize=9, loc="left")
    axes.set_xlabel("time after the last frame seen (s)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    return figure
