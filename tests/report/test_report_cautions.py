"""Notes that stand under every table of scores."""

from brainlm_lightning.evaluation.names import MetricName, data_name, fitted_name
from brainlm_lightning.report.tables import report_tables

FREE = {data_name("a/b", "effective_dimensions"): 34.0, data_name("a/b", "dimensions_of_frames"): 200.0}


def scores(condition):
    names = [MetricName(cohort, condition, method) for cohort in ("a/b", "c") for method in ("mae", "smoother", "zero")]
    return {name.of("r2_pooled"): 0.5 for name in names}


def notes(metrics):
    return {table.title: " ".join(table.notes) for table in report_tables(metrics)}


def test_a_table_says_how_many_frames_of_its_own_cohort_are_free():
    found = notes(scores("hidden0.5") | FREE)
    assert "a/b: 34 of 200 frames of a window are free in time" in found["Reconstruction, a/b"]
    assert "free in time" not in found["Reconstruction, c"]


def test_generic_tables_say_it_too_and_a_run_without_the_numbers_says_nothing():
    assert "34 of 200" in notes(scores("odd") | FREE)["a/b, odd"]
    assert "free" not in "".join(notes(scores("odd")).values())


def test_only_methods_of_the_table_that_were_chosen_at_an_edge_are_named():
    chosen = {"smoother": 1.0, "zero": 0.0, "ar": 1.0}
    metrics = scores("hidden0.5") | {fitted_name(method, "at_edge"): value for method, value in chosen.items()}
    assert notes(metrics)["Reconstruction, c"].endswith("another setting may be better: smoother.")
