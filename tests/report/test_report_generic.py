"""Results that no page knows are still shown."""

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.report.tables import markdown, report_tables, tables

GOLDEN = sorted((Path(__file__).parents[1] / "door" / "golden").glob("*.json"))
SPEED = MetricName("abide", "speed of gait", "mae")


def estimate(method, score, value, half):
    name = SPEED.by(method).of(score)
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def rows(metrics):
    return [table.rows for table in report_tables(metrics)]


def test_methods_stand_in_rows_and_scores_in_columns_with_their_intervals():
    metrics = estimate("mae", "r2", 0.391, 0.011) | estimate("zero", "r2", -1.0, 0.002)
    metrics |= {SPEED.of("num_subjects"): 38.0, SPEED.of("p"): 1e-5}
    (table,) = report_tables(metrics)
    assert table.title == "abide, speed of gait"
    assert table.rows == [
        ["method", "r2", "num_subjects", "p"],
        ["mae", "0.391 [0.380, 0.402]", "38", "1e-05"],
        ["zero", "-1.000 [-1.002, -0.998]", "–", "–"],
    ]
    assert table.notes == ["[95 % interval]"]


def test_comparisons_and_numbers_of_no_method_have_tables_of_their_own():
    pair = SPEED.against("zero")
    metrics = {SPEED.of("r2"): 0.5, pair.of("r2"): 0.25, pair.of("p_corrected"): 0.01, SPEED.by().of("num_windows"): 7}
    found = report_tables(metrics)
    assert [table.title.removeprefix("abide, speed of gait") for table in found] == [
        "", ": comparisons", ": numbers of no method"
    ]  # fmt: skip
    assert found[0].rows == [["method", "r2"], ["mae", "0.500"]]
    assert found[1].rows == [["first − second", "r2", "p_corrected"], ["mae − zero", "0.250", "0.010"]]
    assert found[2].rows == [["metric", "value"], ["num_windows", "7"]]


def test_every_cohort_and_condition_has_a_table_whatever_its_name():
    conditions = [MetricName(cohort, condition) for cohort in ("a/b", "c|d") for condition in ("x y", "%2F", "[red]")]
    metrics = {condition.by("my/method").of("score"): 0.5 for condition in conditions}
    found = report_tables(metrics)
    assert [table.title for table in found] == [f"{of.cohort}, {of.condition}" for of in conditions]
    assert {table.rows[1][0] for table in found} == {"my/method"}
    console = Console(file=io.StringIO(), width=80)
    console.print(*tables(metrics))
    assert "a/b, [red]" in console.file.getvalue()
    assert "### c\\|d, x y" in markdown(metrics)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (3.0, "3"), (-0.25, "-0.250"), (0.0005, "0.0005"), (2e6, "2e+06"), (math.inf, "inf"), (math.nan, "–")],
)
def test_numbers_are_shown_by_their_size(value, shown):
    assert rows({SPEED.of("score"): value}) == [[["method", "score"], ["mae", shown]]]


def test_the_end_of_an_interval_that_belongs_to_nothing_is_shown():
    assert rows({SPEED.of("cutoff_low"): 0.5}) == [[["method", "cutoff_low"], ["mae", "0.500"]]]


def test_a_run_without_test_results_is_a_plain_list():
    assert rows({"val/loss": 0.25, "lr": 0.0005}) == [[["metric", "value"], ["val/loss", "0.250"], ["lr", "0.0005"]]]
    assert rows({}) == []


def test_other_metrics_of_a_test_run_are_left_out():
    assert rows({"fitted/ar/order": 3.0, SPEED.of("score"): 0.5}) == [[["method", "score"], ["mae", "0.500"]]]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_a_page_has_shown_gets_no_generic_table(path):
    metrics = {name: float(value) for name, value in json.loads(path.read_text()).items() if value is not None}
    titles = [table.title for table in report_tables(metrics)]
    known = (
        "Reconstruction, ",
        "Forecast, ",
        "Prediction of ",
        "Functional networks, ",
        "Attention, ",
        "Perturbation, ",
    )
    assert titles == ["Metrics"] if path.stem.endswith("_fit") else all(title.startswith(known) for title in titles)
