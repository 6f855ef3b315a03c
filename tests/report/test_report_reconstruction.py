import io
import math
import re
from collections import Counter

import numpy as np
import pytest
from rich.console import Console

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.report.finding import Verdict
from brainlm_lightning.report.html.summary import Line
from brainlm_lightning.report.reconstruction import (
    PAPER_R2,
    ReconstructionPage,
    reconstruction_scores,
    side_by_side,
)
from brainlm_lightning.report.reconstruction_figures import r2_by_distance_figure, r2_by_ratio_figure
from brainlm_lightning.report.tables import markdown, report_tables, tables


def score(method, r2, ratio="0.75", cohort="abide", half=0.01):
    name = f"test/{cohort}/hidden{ratio}/{method}/r2_pooled"
    return {name: r2, f"{name}_low": r2 - half, f"{name}_high": r2 + half}


def compared(method, difference, p, ratio="0.75", cohort="abide"):
    name = f"test/{cohort}/hidden{ratio}/mae_minus_{method}"
    return {f"{name}/r2_subject": difference, f"{name}/p_corrected": p}


def printed(table, width=160):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def row(text, method):
    """The cells of a Markdown row."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {method} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_cells_have_the_estimate_and_its_interval_under_their_ratio():
    metrics = score("ar", 0.3914, "0.2", half=0.011) | score("ar", 0.25) | score("mae", -0.5)
    assert row(markdown(metrics), "method") == ["method", "20 % hidden", "75 % hidden"]
    assert row(markdown(metrics), "ar") == ["ar", "0.391 [0.380, 0.402]", "0.250 [0.240, 0.260]"]
    assert row(markdown(metrics), "mae") == ["mae", "–", "-0.500 [-0.510, -0.490]"]


def test_ratios_are_sorted_as_numbers_and_mae_comes_first():
    metrics = score("zero", 0.0, "1") | score("lstm", 0.1, ".5") | score("mae", 0.2, "0.75") | score("zero", 0.0, "0.2")
    assert list(reconstruction_scores(metrics)["abide"]) == ["mae", "zero", "lstm"]
    assert row(markdown(metrics), "method")[1:] == [
        "20 % hidden",
        "50 % hidden",
        "75 % hidden",
        "100 % hidden",
    ]


def test_stars_stand_at_significant_methods_with_their_direction():
    metrics = {}
    for method, difference, p in (("worse", 0.1, 0.01), ("better", -0.1, 0.049), ("alike", 0.2, 0.05)):
        metrics |= score(method, 0.3) | compared(method, difference, p)
    metrics |= (
        score("mae", 0.3) | score("untested", 0.3) | score("failed", 0.3) | compared("failed", math.nan, math.nan)
    )
    methods = ("worse", "better", "alike", "mae", "untested", "failed")
    cells = {method: row(markdown(metrics), method)[1].replace("\\", "") for method in methods}
    marks = {method: cell.removeprefix("0.300 [0.290, 0.310]") for method, cell in cells.items()}
    assert marks == {"worse": " *↓", "better": " *↑", "alike": "", "mae": "", "untested": "", "failed": ""}
    assert "2 of the 4 comparisons" in markdown(metrics)


def test_an_undefined_score_is_a_dash_and_an_undefined_interval_is_left_away():
    metrics = score("mae", math.nan) | score("ar", 0.3, half=math.nan) | {"test/abide/hidden0.75/zero/r2_pooled": 0.0}
    assert [row(markdown(metrics), method)[1] for method in ("mae", "ar", "zero")] == [
        "–",
        "0.300",
        "0.000",
    ]


def test_the_printed_table_holds_the_same_and_the_papers_numbers_below():
    metrics = score("mae", 0.343) | score("[red]ar", 0.25) | {"test/abide/hidden0.75/mae/num_subjects": 38.0}
    text = " ".join(printed(tables(metrics)[0]).split())  # the notes wrap at the table's width
    for part in (
        "abide",
        "0.343",
        "[0.333, 0.353]",
        "[red]ar",
        "38 subjects",
        "UKB 0.402 at 20 %",
        "HCP 0.316 at 20 %",
    ):
        assert part in text
    assert PAPER_R2["UKB"] == {0.2: 0.402, 0.5: 0.389, 0.75: 0.343}


def test_a_narrow_terminal_loses_no_digit():
    metrics = {}
    for ratio in ("0.2", "0.5", "0.75", "0.9"):
        metrics |= score("conditional_gaussian", -0.123, ratio) | compared("conditional_gaussian", 0.1, 0.01, ratio)
    text = printed(tables(metrics)[0], width=80)
    assert "…" not in text
    assert [text.count(part) for part in ("-0.123", "-0.133", "-0.113", "*↓")] == [4, 4, 4, 4]


def test_every_cohort_has_its_own_table_and_other_metrics_have_none():
    metrics = score("mae", 0.3) | score("mae", 0.2, cohort="hcp") | {"test/hcp/future/mae/r2_pooled": 0.1, "loss": 1.0}
    found = list(ReconstructionPage().tables(metrics))
    assert [table.title for table in found] == ["Reconstruction, abide", "Reconstruction, hcp"]
    assert list(ReconstructionPage().tables({"loss": 1.0})) == []


def test_a_bar_in_a_name_does_not_break_the_markdown():
    assert "a\\|b" in markdown(score("a|b", 0.3))


def test_another_model_than_mae_is_the_reference_where_it_is_what_others_are_compared_with():
    metrics = score("zero", 0.0) | score("vae", 0.3)
    metrics |= {name.replace("/mae_", "/vae_"): value for name, value in compared("zero", 0.3, 0.01).items()}
    assert list(reconstruction_scores(metrics)["abide"]) == ["vae", "zero"]
    assert row(markdown(metrics), "zero")[1].endswith("*↓")
    assert "differs from vae" in markdown(metrics)


def test_runs_stand_side_by_side_with_a_dash_where_one_was_not_tested():
    runs = {"small 1": score("mae", 0.1, "0.2") | score("zero", 0.7, "0.2"), "large 3": score("mae", 0.4, "0.75")}
    lines = printed(side_by_side(runs).rich()).splitlines()
    cells = {
        line.split("│")[1].strip(): re.findall(r"0\.\d{3}(?! *,)(?! *\])|–", line) for line in lines if "hidden" in line
    }
    assert cells == {"abide, 20 % hidden": ["0.100", "–"], "abide, 75 % hidden": ["–", "0.400"]}


def drawn(figure):
    figure.savefig(io.BytesIO(), format="png", dpi=50)  # warnings are errors
    return figure


def scored(cohort, ratio, method, r2, low, high):
    name = f"test/{cohort}/hidden{ratio}/{method}/r2_pooled"
    return {name: r2, f"{name}_low": low, f"{name}_high": high}


def test_each_method_is_a_line_of_r2_by_ratio_with_its_intervals():
    metrics = scored("a", 0.75, "mae", 0.3, 0.25, 0.32) | scored("a", 0.2, "mae", 0.4, 0.39, 0.45)
    axes = drawn(r2_by_ratio_figure(reconstruction_scores(metrics))).axes[0]
    (curve,) = [line for line in axes.lines if line.get_label() == "mae"]
    np.testing.assert_allclose(curve.get_xydata(), [[0.2, 0.4], [0.75, 0.3]])
    segments = axes.collections[0].get_segments()
    np.testing.assert_allclose(segments, [[[0.2, 0.39], [0.2, 0.45]], [[0.75, 0.25], [0.75, 0.32]]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["20", "75"]


def test_a_method_has_one_colour_in_every_cohorts_panel_whichever_are_there():
    nan = float("nan")
    metrics = scored("a", 0.2, "lstm", 0.3, 0.2, 0.4) | scored("a", 0.2, "mae", 0.4, 0.3, 0.5)
    metrics |= scored("b", 0.2, "optimum", 0.6, nan, nan) | scored("b", 0.2, "lstm", nan, nan, nan)
    figure = drawn(r2_by_ratio_figure(reconstruction_scores(metrics)))
    colours = [{line.get_label(): line.get_color() for line in axes.lines} for axes in figure.axes]
    assert colours[0]["lstm"] == colours[1]["lstm"]
    assert len({colours[0]["mae"], colours[0]["lstm"], colours[1]["optimum"]}) == 3
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mae", "lstm", "optimum"]
    with pytest.raises(ValueError, match="at least one cohort"):
        r2_by_ratio_figure({})


def test_odd_names_of_cohorts_and_methods_are_shown_and_drawn():
    metrics = {MetricName("a/b $_{$", "hidden0.5", "my $_{$ model/2").of("r2_pooled"): 0.25}
    (table,) = ReconstructionPage().tables(metrics)
    assert table.title == "Reconstruction, a/b $_{$"
    assert table.rows[1] == ["my $_{$ model/2", "0.250"]
    (file,) = ReconstructionPage().files(metrics, {})
    drawn(file.make())


def by_distance(method, ratio, **r2):
    name = f"test/a/hidden{ratio}/{method}/r2_distance_"
    scores = {name + label.strip("_").replace("_", "-"): value for label, value in r2.items()}
    return scored("a", ratio, method, 0.3, 0.2, 0.4) | {
        key + end: value + half
        for key, value in scores.items()
        for end, half in (("", 0), ("_low", -0.1), ("_high", 0.1))
    }


def test_other_ways_to_hide_have_a_table_of_their_own_with_marks():
    metrics = {}
    for condition, r2 in (("networks0.5", 0.1), ("future0.1", 0.2), ("parcels0.75", 0.3), ("parcels0.2", 0.4)):
        name = f"test/abide/{condition}/"
        metrics |= {f"{name}mae/r2_pooled": r2, f"{name}zero/r2_pooled": 0.0}
        metrics |= {f"{name}mae_minus_zero/r2_subject": r2, f"{name}mae_minus_zero/p_corrected": 0.01}
    (table,) = report_tables(metrics)
    assert table.rows == [
        ["method", "20 % of parcels", "75 % of parcels", "50 % of networks", "last 10 %"],
        ["mae", "0.400", "0.300", "0.100", "0.200"],
        ["zero", "0.000 *↓", "0.000 *↓", "0.000 *↓", "0.000 *↓"],
    ]
    assert "4 of the 4 comparisons" in " ".join(table.notes)


def test_distances_are_tabulated_at_the_ratio_next_to_a_half_without_empty_classes():
    metrics = by_distance("zero", 0.2, _1=0.9) | by_distance("zero", 0.6, _1=0.0, _2_3=0.1, none=math.nan)
    metrics |= by_distance("mae", 0.6, _1=0.8, _2_3=0.7, none=math.nan) | {
        "test/a/hidden0.6/mae_minus_zero/p_corrected": 0.5
    }
    table = list(ReconstructionPage().tables(metrics))[-1]
    assert table.title == "Reconstruction, a, R² by distance at 60 % hidden"
    assert table.rows == [
        ["method", "1", "2-3"],
        ["mae", "0.800 [0.700, 0.900]", "0.700 [0.600, 0.800]"],
        ["zero", "0.000 [-0.100, 0.100]", "0.100 [0.000, 0.200]"],
    ]


def test_distances_are_drawn_by_ratio_in_the_order_of_the_classes():
    metrics = by_distance("mae", 0.2, _1=0.9, _2_3=0.7) | by_distance("mae", 0.6, _1=0.8)
    figure = drawn({file.name: file for file in ReconstructionPage().files(metrics, {})}["r2_by_distance"].make())
    assert [axes.get_title() for axes in figure.axes] == ["a, 20 % hidden", "a, 60 % hidden"]
    (curve,) = [line for line in figure.axes[0].lines if line.get_label() == "mae"]
    np.testing.assert_allclose(curve.get_xydata(), [[0, 0.9], [1, 0.7]])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "2-3"]
    with pytest.raises(ValueError, match="at least one condition"):
        r2_by_distance_figure({})


def test_what_completed_windows_keep_stands_beside_r2_with_its_own_numbers():
    metrics = score("mae", 0.5, "0.5", "a") | score("zero", 0.1, "0.5", "a") | score("mae", 0.9, "0.2", "a")
    for method, values in {"mae": (0.8, 0.6, 0.4), "zero": (0.3, 0.2, -0.5)}.items():
        for kept, value in zip(("connectivity", "lagged_connectivity", "spectrum"), values, strict=True):
            name = f"test/a/hidden0.5/{method}/r2_{kept}"
            metrics |= {name: value, f"{name}_low": value - 0.01, f"{name}_high": value + 0.01}
    (table,) = [table for table in ReconstructionPage().tables(metrics) if "completed windows keep" in table.title]
    assert table.title == "Reconstruction, a, what completed windows keep, 50 % hidden"
    assert table.rows[0] == ["method", "R² of hidden values", "connectivity", "lagged connectivity", "spectrum"]
    assert [cell.split()[0] for cell in table.rows[1]] == ["mae", "0.500", "0.800", "0.600", "0.400"]
    assert [cell.split()[0] for cell in table.rows[2]] == ["zero", "0.100", "0.300", "0.200", "-0.500"]


def test_being_ahead_of_weak_methods_alone_is_no_merit():
    weak = score("mae", 0.4) | score("conditional_gaussian", 0.3) | compared("conditional_gaussian", 0.1, 0.001)
    (found,) = ReconstructionPage().findings(weak)
    assert (found.verdict, found.absent) == (Verdict.UNMET, ("linear_smoother",))
    told = Line("Reconstruction", found, Counter([found.verdict])).told
    assert told == "is ahead of conditional gaussian, but linear smoother was left out"
    (found,) = ReconstructionPage().findings(weak | score("linear_smoother", 0.2))
    assert (found.verdict, found.absent) == (Verdict.AHEAD, ())
    (found,) = ReconstructionPage().findings(weak | compared("conditional_gaussian", -0.1, 0.001))
    assert found.verdict is Verdict.BEHIND


def test_the_mean_of_the_model_and_a_smoother_is_no_opponent_of_the_model():
    both = score("mae", 0.4) | score("linear_smoother", 0.45) | score("mae_and_linear_smoother", 0.5)
    (found,) = ReconstructionPage().findings(both | compared("linear_smoother", -0.05, 0.001))
    assert (found.opponent, found.verdict) == ("linear_smoother", Verdict.BEHIND)
