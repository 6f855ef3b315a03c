"""Figures of reconstruction: windows, R² on the brain, by the share hidden, and by distance to what is visible."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.report.brain import TURN, brain_scene
from brainlm_lightning.report.figures import legend_handles, parcel_map, plain_text, reconstruction_figure
from brainlm_lightning.report.page import ReportFile
from brainlm_lightning.report.scores import Arrays, Estimate

MARKERS = "os^Dv<>P"
WINDOW = ("truth", "prediction", "hidden")
WINDOWS = (
    "One window of an unseen subject: truth (black) and what the model makes of the visible patches (red, where "
    "hidden, grey). Parcels with the best, middle and worst R² of the window, none picked by hand."
)
ON_BRAIN = "R² over the hidden values of each parcel, all unseen subjects' windows together."


def reconstruction_files(arrays: Arrays, condition: MetricName, method: str) -> Iterator[ReportFile]:
    """One reconstructed window of a condition, and R² on the brain, if the run kept them and its parcels."""
    of, percent = condition.by(method), f"{100 * (condition.level('hidden') or 0.0):g} % hidden"
    title = f"{condition.cohort}, {percent}, {method}"
    if "parcels/label" not in arrays:
        return
    if "windows/tr_s" in arrays and of.of("truth_BPT") in arrays:
        truth_PT, prediction_PT, hidden_PT = (arrays[of.of(f"{name}_BPT")][0] for name in WINDOW)
        labels, tr_s = arrays["parcels/label"].tolist(), float(arrays["windows/tr_s"])
        draw = partial(reconstruction_figure, truth_PT, prediction_PT, hidden_PT, labels, tr_s)
        yield ReportFile(f"reconstruction_{condition.cohort}", draw, f"{title}. {WINDOWS}", "3")
    r2_P = arrays.get(of.of("r2_P"))
    if r2_P is not None and np.isfinite(r2_P).any():
        draw = partial(parcel_map, r2_P, arrays["parcels/xyz_mm"], f"R² of hidden values, {title}", "R²")
        yield ReportFile(f"reconstruction_r2_{condition.cohort}", draw, f"{title}. {ON_BRAIN}")
        scene = partial(brain_scene, r2_P, arrays, f"R² of hidden values, {title}", "R²")
        yield ReportFile(f"reconstruction_r2_{condition.cohort}", scene, f"{title}. {ON_BRAIN} {TURN}")


def r2_by_ratio_figure(cohorts: Mapping[str, Mapping[str, Mapping[float, Estimate]]]) -> Figure:
    """Pooled R² of every method against the hidden ratio, with 95 % intervals over subjects; one panel per cohort.

    Args:
        cohorts: cohort -> method -> hidden ratio -> R².

    Raises:
        ValueError: there is no cohort.
    """
    if not cohorts:
        raise ValueError("there is nothing to draw; expected at least one cohort with scores by hidden ratio")
    figure = Figure(figsize=(1.9 + 4.6 * len(cohorts), 4), layout="constrained")
    panels = figure.subplots(1, len(cohorts), sharey=True, squeeze=False)[0]
    order = list(dict.fromkeys(method for methods in cohorts.values() for method in methods))
    for axes, (cohort, methods) in zip(panels, cohorts.items(), strict=True):
        for method, by_ratio in methods.items():
            _draw(axes, method, order, dict(sorted(by_ratio.items())), spread=0.008)
        ratios = sorted({ratio for by_ratio in methods.values() for ratio in by_ratio})
        axes.set_xticks(ratios, [f"{100 * ratio:g}" for ratio in ratios])
        axes.set_xlabel("hidden (%)")
        _finish(axes, cohort)
    panels[0].set_ylabel("R² over all hidden values\n(95 % interval over subjects)")
    _add_legend(figure, panels)
    return figure


def r2_by_distance_figure(conditions: Mapping[MetricName, Mapping[str, Mapping[str, Estimate]]]) -> Figure:
    """R² of every method against the distance to the nearest visible frame of the same parcel.

    One row per cohort, one panel per hidden ratio.

    Args:
        conditions: `test/<cohort>/hidden<ratio>` -> method -> class of distance -> R².

    Raises:
        ValueError: there is no condition.
    """
    if not conditions:
        raise ValueError("there is nothing to draw; expected at least one condition with R² by distance")
    cohorts = list(dict.fromkeys(condition.cohort for condition in conditions))
    rows = [[name for name in conditions if name.cohort == cohort] for cohort in cohorts]
    width = max(map(len, rows))
    figure = Figure(figsize=(1.9 + 3.4 * width, 0.4 + 3.4 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), width, sharey="row", squeeze=False)
    order = list(dict.fromkeys(method for methods in conditions.values() for method in methods))
    for line, names in zip(panels, rows, strict=True):
        for axes in line[len(names) :]:
            axes.set_visible(False)
        for axes, name in zip(line, names, strict=False):
            _draw_distances(axes, conditions[name], order)
            _finish(axes, f"{name.cohort}, {100 * (name.level('hidden') or 0.0):g} % hidden")
        line[0].set_ylabel("R² (95 % interval over subjects)")
    _add_legend(figure, panels.ravel().tolist())
    return figure


def _draw_distances(axes: Axes, methods: Mapping[str, Mapping[str, Estimate]], order: Sequence[str]) -> None:
    """One line per method over the classes of distance."""
    labels = list(dict.fromkeys(label for row in methods.values() for label in row))
    for method, row in methods.items():
        points: dict[float, Estimate] = {labels.index(label): r2 for label, r2 in row.items()}
        _draw(axes, method, order, points, spread=0.05)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("frames to the nearest visible frame")


def _draw(axes: Axes, method: str, order: Sequence[str], points: Mapping[float, Estimate], spread: float) -> None:
    """One method's line, in the same colour in all panels; offset sideways so that intervals do not overlap."""
    number = order.index(method)
    colour, shift = f"C{number % 10}", spread * (number - (len(order) - 1) / 2)
    x, r2, low, high = np.array([[x, y.value, y.low, y.high] for x, y in points.items()]).T
    # Not error bars: a percentile interval need not contain the estimate, and their lengths could be negative.
    axes.vlines(x + shift, low, high, color=colour, linewidth=1.4)
    label = plain_text(method)
    axes.plot(x + shift, r2, marker=MARKERS[number % len(MARKERS)], markersize=5, color=colour, label=label)


def _finish(axes: Axes, title: str) -> None:
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_title(title, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    handles = legend_handles(panels)
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=9)
