import io
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.random import default_rng
from sklearn.metrics import r2_score

from brainlm_lightning.report.figures import parcel_map, plain_text, reconstruction_figure

P, T, TR_S = 12, 100, 0.8


@pytest.fixture
def window():
    rng = default_rng(0)
    truth = rng.normal(size=(P, T))
    prediction = truth + np.linspace(0.1, 2, P)[:, None] * rng.normal(size=(P, T))
    hidden = np.zeros((P, T), dtype=bool)
    hidden[:, 20:40] = hidden[:, 60:100] = True
    return truth, prediction, hidden, [f"parcel {i}" for i in range(P)], TR_S


def drawn(figure):
    figure.savefig(io.BytesIO(), format="png", dpi=50)  # warnings are errors
    return figure


def line(axes, color):
    (found,) = [line for line in axes.lines if to_rgba(line.get_color()) == to_rgba(color)]
    return found


def test_truth_is_black_over_all_frames_and_the_prediction_red_over_hidden_ones_in_seconds(window):
    truth, prediction, hidden, labels, _ = window
    for axes in drawn(reconstruction_figure(*window)).axes:
        parcel = labels.index(axes.get_title("left").split(":")[0])
        np.testing.assert_allclose(line(axes, "black").get_xdata(), np.arange(T) * TR_S)
        np.testing.assert_array_equal(line(axes, "black").get_ydata(), truth[parcel])
        red = line(axes, "red").get_ydata()
        np.testing.assert_array_equal(red[hidden[parcel]], prediction[parcel, hidden[parcel]])
        assert np.isnan(red[~hidden[parcel]]).all()
    assert axes.get_xlabel() == "time in the window (s)"


def test_every_hidden_stretch_is_shaded_from_half_a_frame_before_to_half_a_frame_after(window):
    axes = reconstruction_figure(*window).axes[0]
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]
    np.testing.assert_allclose(spans, np.array([(19.5, 39.5), (59.5, 99.5)]) * TR_S)


def test_of_many_parcels_those_from_best_to_worst_are_shown_with_their_r2(window):
    truth, prediction, hidden, labels, _ = window
    r2 = [r2_score(truth[p, hidden[p]], prediction[p, hidden[p]]) for p in range(P)]
    ranked = np.argsort(r2)[::-1][[0, 3, 6, 8, 11]]
    titles = [axes.get_title("left") for axes in reconstruction_figure(*window).axes]
    assert titles == [f"{labels[p]}: R² = {r2[p]:.2f} over hidden frames" for p in ranked]


def test_nothing_hidden_a_constant_truth_and_odd_labels_still_draw(window):
    truth, prediction, hidden, labels, tr_s = window
    nothing = drawn(reconstruction_figure(truth, prediction, np.zeros_like(hidden), labels, tr_s))
    assert all(axes.get_title("left").endswith("no R²") for axes in nothing.axes)
    one = drawn(reconstruction_figure(0 * truth[:1], prediction[:1], hidden[:1], ["a$_{$"], tr_s))
    assert one.axes[0].get_title("left") == "a$_{$: no R²"
    with pytest.raises(ValueError, match=r"hidden \(12, 99\) and 12 labels"):
        reconstruction_figure(truth, prediction, hidden[:, 1:], labels, tr_s)


def markers(figure):
    """View -> (offsets, colours) of the glass brain's markers, views by their order: left, coronal, right, axial."""
    found = [item for axes in figure.axes for item in axes.collections if isinstance(item, PathCollection)]
    return [(scatter.get_offsets(), scatter.get_facecolors()) for scatter in found]


def test_parcels_stand_at_their_coordinates_right_on_the_right_in_their_colours():
    xyz_mm = np.array([[-40.0, 10, 20], [35, -20, 30], [20, 50, -10]])
    figure = drawn(parcel_map(np.array([-1.0, 0.5, 1.0]), xyz_mm, "title", "change (sd)"))
    left, coronal, right, axial = markers(figure)
    assert [len(view[0]) for view in (left, coronal, right, axial)] == [1, 3, 2, 3]
    np.testing.assert_allclose(coronal[0], xyz_mm[:, [0, 2]])
    np.testing.assert_allclose(axial[0], xyz_mm[:, :2])
    assert coronal[1][0, 2] > coronal[1][0, 0]  # negative: blue
    assert coronal[1][2, 0] > coronal[1][2, 2]  # positive: red
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("L") == texts.count("R") == 2
    assert {"left hemisphere", "right hemisphere"} <= set(texts)


def test_the_colour_bar_has_its_label_and_is_symmetric_about_0_or_robust_to_one_outlier():
    values, xyz_mm = np.linspace(0.1, 0.5, 400), default_rng(0).uniform(-40, 40, size=(400, 3))
    values[3] = -50
    bar = parcel_map(values, xyz_mm, "title", "R² (no unit)").axes[-1]
    assert bar.get_ylabel() == "R² (no unit)"
    assert (0.1 < bar.get_ylim()[0] < 0.12, 0.48 < bar.get_ylim()[1] < 0.5) == (True, True)
    low, high = parcel_map(np.linspace(-1, 3, 400), xyz_mm, "title", "unit").axes[-1].get_ylim()
    assert low == -high


def test_parcels_without_a_value_are_left_out_and_counted():
    xyz_mm = default_rng(0).uniform(-40, 40, size=(10, 3))
    values = np.r_[np.arange(7.0), np.nan, np.nan, np.inf]
    figure = drawn(parcel_map(values, xyz_mm, "R²", "R²"))
    assert figure.get_suptitle() == "R² (3 of 10 parcels without a value left out)"
    assert len(markers(figure)[1][0]) == 7
    assert parcel_map(values[:7], xyz_mm[:7], "R²", "R²").get_suptitle() == "R²"
    with pytest.raises(ValueError, match="none of the 2 parcels has a finite value"):
        parcel_map(values[7:9], xyz_mm[:2], "R²", "R²")
    with pytest.raises(ValueError, match=r"values \(10,\) and coordinates \(9, 3\)"):
        parcel_map(values, xyz_mm[:9], "R²", "R²")


def test_one_parcel_one_hemisphere_and_equal_values_draw():
    xyz_mm = np.array([[10.0, 0, 0], [30, 20, 10]])
    for values, centres_mm in ((np.array([0.2, 0.2]), xyz_mm), (np.array([0.0]), 0 * xyz_mm[:1])):
        figure = drawn(parcel_map(values, centres_mm, "few", "unit"))
        assert len(markers(figure)[1][0]) == len(values)  # the coronal view shows all


def test_a_label_with_dollar_signs_is_drawn_as_it_is():
    figure = Figure()
    figure.text(0, 0, plain_text("a $_{$ b"))  # a broken formula
    figure.text(0, 1, plain_text("one $"))
    drawn(figure)


def test_figures_leave_nothing_in_pyplots_state(window):
    reconstruction_figure(*window)
    parcel_map(np.arange(3.0), np.eye(3) * 20, "title", "unit")
    assert plt.get_fignums() == []


def test_figures_and_tables_are_made_without_torch():
    code = "import sys, brainlm_lightning.report.files as f; f.found_pages(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
