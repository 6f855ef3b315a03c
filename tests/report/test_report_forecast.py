"""Table 3 and figure 4 from metrics and arrays alone."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.report.forecast import ForecastPage, conditions
from brainlm_lightning.report.forecast_figures import forecast_curves, forecast_figure, frames_better_than_all
from brainlm_lightning.report.tables import markdown, tables

CONDITION = MetricName("ukb", "horizon5")
PREFIX = str(CONDITION)
METHODS = ["var", "mae", "zero", "optimum"]


def metrics():
    found = {f"{PREFIX}/horizon_s": 3.6, f"{PREFIX}/num_windows": 40.0, f"{PREFIX}/num_recordings_too_short": 2.0}
    for number, method in enumerate(METHODS):
        found[f"{PREFIX}/{method}/num_subjects"] = 31.0
        for score in ("r2", "pearson_r", "mse"):
            for end, shift in (("", 0.0), ("_low", -0.01), ("_high", 0.01)):
                found[f"{PREFIX}/{method}/{score}_pooled{end}"] = 0.1 * number + shift
        if method != "mae":
            pair = f"{PREFIX}/mae_minus_{method}"
            found |= {f"{pair}/p_corrected": 0.01 if method == "zero" else 0.2, f"{pair}/r2_subject": 0.3}
            found |= {f"{pair}/num_frames_better": 4.0, f"{pair}/num_frames_worse": 1.0}
    return found


def arrays(seed=0):
    random = np.random.default_rng(seed)
    found = {f"{PREFIX}/time_s_H": np.arange(1, 6) * 0.72}
    for method in METHODS:
        for score in ("mse", "r2", "pearson_r"):
            found[f"{PREFIX}/{method}/{score}_3H"] = np.stack([random.random(5), np.zeros(5), np.ones(5)])
        found[f"{PREFIX}/{method}/forecast_BPH"] = random.standard_normal((2, 4, 5))
    for method in ("var", "zero", "optimum"):
        found[f"{PREFIX}/mae_minus_{method}/mse_3H"] = np.array([[-1, -1, -1, 1, -1.0]] * 3)
        found[f"{PREFIX}/mae_minus_{method}/p_corrected_H"] = np.array([0.01, 0.01, 0.2, 0.01, 0.01])
    found[f"{PREFIX}/mae_minus_var/p_corrected_H"][1] = 0.06
    found[f"{PREFIX}/mae_minus_optimum/p_corrected_H"][:] = 1
    found[f"{PREFIX}/context_BPC"] = random.standard_normal((2, 4, 12))
    found[f"{PREFIX}/context_BPC"][0, 2] = 0  # not observed
    found[f"{PREFIX}/future_BPH"] = random.standard_normal((2, 4, 5))
    return found


def test_the_forecaster_comes_first():
    assert conditions(metrics()) == {CONDITION: ["mae", "var", "zero", "optimum"]}
    assert conditions({"test/ukb/hidden0.75/mae/r2_pooled": 0.4, "val/loss": 1.0}) == {}


def test_the_table_shows_scores_intervals_marks_and_frames():
    (table,) = tables(metrics())
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    shown = console.file.getvalue()
    assert "Forecast, ukb, 5 frames (3.6 s)" in shown
    assert "40 windows of 31 subjects" in shown
    text = markdown(metrics())
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert rows["zero"] == r"| zero | 0.200 [0.190, 0.210] \*↓ | 0.200 [0.190, 0.210] | 0.200 [0.190, 0.210] | 4 / 1 |"
    assert rows["var"].startswith("| var | 0.000 [-0.010, 0.010] |")
    assert rows["mae"].endswith("| – |")
    assert text in markdown(metrics())


def test_a_star_stands_where_the_error_is_lower_than_that_of_all_but_the_optimum():
    assert frames_better_than_all(arrays(), CONDITION).tolist() == [True, False, False, False, True]


def test_the_figure_is_over_seconds_and_has_the_stars():
    file = next(iter(ForecastPage().files(metrics(), arrays())))
    assert file.name == "forecast_by_frame"
    figure = file.make()
    assert isinstance(figure, Figure)
    error = figure.axes[0]
    assert [line.get_label() for line in error.lines[:4]] == ["mae", "var", "zero", "optimum"]
    stars = error.lines[4]
    assert stars.get_xdata() == pytest.approx([0.72, 3.6])
    assert error.lines[0].get_ydata() == pytest.approx(arrays()[f"{PREFIX}/mae/mse_3H"][0])
    with pytest.raises(ValueError, match="no forecasts"):
        forecast_figure({}, {}, {})
    assert list(ForecastPage().files({"val/loss": 1.0}, {})) == []


def test_curves_show_parcels_with_data_from_best_to_worst():
    given = arrays()
    figure = forecast_curves(given, CONDITION, ["mae", "var"])
    error = ((given[f"{PREFIX}/mae/forecast_BPH"][0] - given[f"{PREFIX}/future_BPH"][0]) ** 2).mean(1)
    expected = [f"parcel {p + 1}: squared error {error[p]:.2f}" for p in np.argsort(error) if p != 2]
    assert [axes.get_title(loc="left") for axes in figure.axes] == expected
    assert figure.axes[0].lines[2].get_xdata() == pytest.approx(given[f"{PREFIX}/time_s_H"])
