import io
import json
import re

import numpy as np
import pytest
from numpy.random import default_rng
from rich.console import Console

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.report.attention import AttentionPage
from brainlm_lightning.report.brain import brain_scene, midline_note, parcel_table
from brainlm_lightning.report.perturbation import PerturbationPage
from brainlm_lightning.report.scene import scene_page
from brainlm_lightning.report.tables import markdown, tables

P, CONTRAST = 12, MetricName("sim", "task_minus_rest")
PREFIX = str(CONTRAST)
EVIL = "</script><script>alert(1)</script>"


def numbers(name, **changed):
    counts = {"num_subjects": 10, "num_subjects_seen": 4, "num_subjects_a": 7, "num_subjects_b": 8}
    counts |= {"num_subjects_both": 5, "num_parcels": P, "num_parcels_fdr": 3, "num_parcels_fdr_above": 2}
    networks = {
        f"network/{network}/{key}": value
        for network, d in (("Vis", 0.9), ("Limbic", -1.2))
        for key, value in {
            "effect_size": d,
            "difference": d / 9,
            "difference_low": d / 9 - 0.1,
            "p_corrected": d,
        }.items()
    } | {f"network/{network}/difference_high": 0.4 for network in ("Vis", "Limbic")}
    return {f"{PREFIX}/{name}/{key}": value for key, value in (counts | {"auc": 0.875} | networks | changed).items()}


def arrays(*names, label="parcel"):
    rng = default_rng(0)
    found = {"parcels/label": np.array([f"{label} {i}" for i in range(P)]), "parcels/network": np.repeat(["A", "B"], 6)}
    found["parcels/xyz_mm"] = rng.uniform(20, 60, (P, 3)).astype(np.float32) * rng.choice([-1, 1], (P, 1))
    for name in names:
        found |= {f"{PREFIX}/{name}/{key}_P": rng.normal(size=P) for key in ("z", "mean_a", "mean_b", "difference")}
        found |= {f"{PREFIX}/{name}/p_fdr_P": np.linspace(0, 1, P), f"{PREFIX}/{name}/unit": np.array("share")}
        found |= {f"{PREFIX}/{name}/groups": np.array(["task equals b$_{$", "task equals rest"])}
        found |= {f"{PREFIX}/{name}/matrix_{group}_PP": rng.uniform(size=(P, P)) for group in "ab"}
    return found


def texts(figure):
    figure.savefig(io.BytesIO(), format="png", dpi=40)  # warnings are errors
    shown = [text.get_text() for axes in figure.axes for text in axes.texts] + [
        text.get_text() for text in figure.texts
    ]
    return [*shown, figure.get_suptitle(), *(axes.get_ylabel() for axes in figure.axes)]


def files(metrics, found):
    return {file.name: file.make for file in AttentionPage().files(metrics, found)}


def shown(tables):
    with io.StringIO() as stream:
        Console(file=stream, width=120).print(*tables)
        return stream.getvalue()


def test_a_contrast_is_a_row_with_its_parcels_auc_and_largest_networks():
    metrics = numbers("mae_cls_attention") | numbers("signal_level", num_parcels_fdr=0)
    text = markdown(metrics)
    assert "| mae_cls_attention | 3 of 12 (2 more, 1 less) | 0.875 | Limbic d = -1.20 \\*, Vis d = +0.90 |" in text
    assert "| signal_level | 0 of 12 |" in text
    assert "7 subjects against 8, 5 of them in both groups (paired); 4 of 10 were seen in pretraining." in text
    assert "Attention, sim: task_minus_rest" in shown(tables(metrics))
    assert list(PerturbationPage().tables(metrics)) == []
    assert list(AttentionPage().tables({"test/a/hidden0.5/mae/r2_pooled": 0.3})) == []


def test_distances_to_targets_and_null_targets_stand_below_perturbations():
    distances = {"before": 0.5, "after": 0.1, "before_null": 0.4, "after_null": 0.05}
    metrics = numbers("mae_theta_size") | {f"{PREFIX}/mae/distance_{name}": value for name, value in distances.items()}
    metrics[f"{PREFIX}/mae/num_pairs"] = 42
    text = markdown(metrics)
    assert "mae, 42 pairs: mean squared distance to the target's state 0.5 before, 0.1 after;" in text
    assert "to the null target's 0.4 and 0.05." in text
    assert list(AttentionPage().tables(metrics)) == []


def test_figures_state_the_side_the_unit_the_group_and_what_is_significant():
    metrics = numbers("mae_cls_attention") | numbers("mae_untrained_cls_attention")
    found = arrays("mae_cls_attention", "mae_untrained_cls_attention")
    what = ("mean_a", "mean_b", "difference", "networks")
    made = {name: make() for name, make in files(metrics, found).items() if name.endswith(what)}
    figures = {name: figure for name, figure in made.items() if not name.startswith("task_minus_rest/mae_untrained")}
    assert figures == made  # controls are in the tables
    assert set(figures) == {f"task_minus_rest/mae_cls_attention_{name}" for name in what}
    first, second, difference, _ = (texts(figures[f"task_minus_rest/mae_cls_attention_{name}"]) for name in what)
    assert {"L", "R", "left hemisphere", "right hemisphere", "share"} <= set(first)
    assert any("task equals rest" in text for text in second)
    assert any("1 of 12 parcels significant, false discovery rate 0.05" in text for text in difference)
    assert any("z of the difference" in text for text in difference)
    limits = [figures[f"task_minus_rest/mae_cls_attention_mean_{group}"].axes[-1].get_ylim() for group in "ab"]
    assert limits[0] == limits[1]  # one scale of colours
    axes = figures["task_minus_rest/mae_cls_attention_networks"].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Limbic", "Vis"]
    assert "95 % interval over subjects" in axes.get_xlabel()


def test_bilateral_atlases_are_told_of():
    assert midline_note(np.array([[40.0, 0, 0]] * 10)) == ""
    assert midline_note(np.array([[1.0, 0, 0]] * 3 + [[40, 0, 0]] * 7)).startswith(
        "3 of 10 parcels have their centre near"
    )


def test_the_parcel_table_has_the_largest_difference_first():
    found = arrays("m_cls_attention")
    table = parcel_table(found, CONTRAST.by("m_cls_attention"))
    order = np.argsort(-np.abs(found[f"{PREFIX}/m_cls_attention/z_P"]))
    assert table["label"].tolist() == found["parcels/label"][order].tolist()


def outside(page):
    return re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)


def test_pages_load_without_network_and_run_no_label():
    found = arrays("mae_parcel_attention", label=EVIL)
    found["parcels/xyz_mm"][0] = 30
    values = np.r_[np.nan, np.linspace(-1, 1, P - 1)]
    edges = files({}, found)["task_minus_rest/mae_parcel_attention_edges"]()
    for page in (scene_page(brain_scene(values, found, EVIL, "share")), scene_page(edges)):
        assert not outside(page)
        assert "<script>alert" not in page
        labels = json.loads(re.search(r'id="scene">(.*?)</script>', page, re.DOTALL)[1])["labels"]
        assert "&lt;/script&gt;&lt;script&gt;alert(1)" in labels[0]  # plotly reads markup: escaped for it, too
        policy = re.search(r'content="(default-src[^"]*)"', page)[1]
        assert "default-src 'none'" in policy
        assert "script-src 'unsafe-eval' 'sha256-" in policy  # no inline script but the page's own two runs
    assert outside('<link rel="icon" href="https://a.b/c.ico">')


def test_a_matrix_is_drawn_in_the_order_of_networks():
    found = arrays("mae_parcel_attention")
    found["parcels/network"] = np.tile(["B", "A"], 6)
    figure = files({}, found)["task_minus_rest/mae_parcel_attention_matrix"]()
    order = np.r_[1:12:2, 0:12:2]
    drawn = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(drawn, found[f"{PREFIX}/mae_parcel_attention/matrix_a_PP"][np.ix_(order, order)])
    assert "attention (share of a row)" in texts(figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["A", "B"]


@pytest.mark.parametrize("value", [np.zeros(P), np.full(P, 0.3)])
def test_equal_values_draw(value):
    assert "<html" in scene_page(brain_scene(value, arrays(), "title", "unit"))


def test_without_a_difference_there_is_no_page_of_edges():
    found = arrays("mae_parcel_attention")
    found[f"{PREFIX}/mae_parcel_attention/matrix_b_PP"] = found[f"{PREFIX}/mae_parcel_attention/matrix_a_PP"]
    assert list(files({}, found)) == ["task_minus_rest/mae_parcel_attention_matrix"]


@pytest.mark.parametrize("written", ["Hand/SM", "Hand%2FSM"])
def test_a_network_may_have_a_slash_in_its_name(written):
    metrics = {name.replace("/Vis/", f"/{written}/"): value for name, value in numbers("mae_cls_attention").items()}
    assert "| Limbic d = -1.20 \\*, Hand/SM d = +0.90 |" in markdown(metrics)
    figure = files(metrics, arrays("mae_cls_attention"))["task_minus_rest/mae_cls_attention_networks"]()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Limbic", "Hand/SM"]


def test_losses_are_drawn_for_each_model():
    nets = ("mae", "mae_untrained")
    found = {
        f"{PREFIX}/{net}/loss{of}_I": np.array([3.0, 1, 0.5]) + 10 * number
        for number, net in enumerate(nets)
        for of in ("", "_null")
    }
    figures = {file.name: file.make() for file in PerturbationPage().files({}, found)}
    assert list(figures) == [f"task_minus_rest/{net}_loss" for net in nets]
    curves = [[list(line.get_ydata()) for line in figure.axes[0].lines] for figure in figures.values()]
    assert curves == [[[3.0, 1, 0.5]] * 2, [[13.0, 11, 10.5]] * 2]
