import numpy as np
import pytest

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.report.clinical import PAPER_MSE, ClinicalPage, clinical_results
from brainlm_lightning.report.clinical_figures import calibration, calibration_figure, clinical_files, prediction_figure
from brainlm_lightning.report.tables import markdown

AGE = MetricName("abide", "age")
PREFIX = str(AGE)


def number(method, r2, mse=0.5, prefix=PREFIX):
    scores = {"mse_scaled": mse, "mse_scaled_fold_mean": mse, "mse_scaled_fold_std": 0.1, "r2": r2}
    scores |= {"r2_low": r2 - 0.1, "r2_high": r2 + 0.1, "pearson_r": np.nan, "mae": 3.0}
    return {f"{prefix}/{method}/{name}": value for name, value in scores.items()}


def compared(a, b, difference, p, score="squared_error", prefix=PREFIX):
    return {f"{prefix}/{a}_minus_{b}/{score}": difference, f"{prefix}/{a}_minus_{b}/p_corrected": p}


METRICS = (
    number("mean", -0.01, 1.0)
    | number("connectivity_linear", 0.4)
    | number("tuned", 0.2, 0.8)
    | compared("tuned", "mean", -5.0, 0.01)
    | compared("tuned", "connectivity_linear", 7.0, 0.001)
    | compared("tuned", "untrained_tuned", -0.5, 0.4)
    | {f"{PREFIX}/num_tested": 109, f"{PREFIX}/num_subjects": 543, f"{PREFIX}/num_tested_seen_in_pretraining": 3}
)


def row(method, metrics=METRICS):
    (line,) = [line for line in markdown(metrics).splitlines() if line.startswith(f"| {method}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_has_the_papers_mean_over_folds_and_intervals_over_subjects():
    assert row("tuned") == ["tuned", "0.800 ± 0.100", "0.200 [0.100, 0.300]", "–", "3.000"]
    assert row("method") == ["method", "MSE, scaled", "R²", "r within folds", "MAE, own unit"]


def test_planted_variables_stand_beside_what_was_made_of_them_and_real_ones_do_not():
    prefix = "test/sim/age"
    known = {f"{prefix}/num_tested": 20}
    known |= number("gram_linear", 0.3, 0.7, prefix) | number("connectivity_linear", 0.4, 0.6, prefix)
    known |= {f"{prefix}/{name}/pearson_r": r for name, r in (("gram_linear", 0.5), ("connectivity_linear", 0.6))}
    (truth,) = ClinicalPage().truths(known)
    assert (truth.what, truth.found) == (
        "Prediction of age, sim",
        "r 0.500 by gram_linear; r 0.600 by connectivity_linear",
    )
    assert "strengths of the networks" in truth.planted
    other = {name.replace("/age/", "/GAD-7/"): value for name, value in known.items()}
    assert not [*ClinicalPage().truths(other)]


def test_marks_say_which_methods_are_better_or_worse_than_the_reference():
    assert row("connectivity_linear")[0] == r"connectivity_linear \*↑"
    assert row("mean")[0] == r"mean \*↓"


def test_marks_of_classes_follow_the_auc():
    prefix = "test/abide/dx"
    metrics = {f"{prefix}/{name}/{score}": 0.6 for name in ("frozen", "mean") for score in ("auc", "balanced_accuracy")}
    metrics |= compared("frozen", "mean", 0.1, 0.01, "auc", prefix) | {f"{prefix}/num_tested": 20}
    assert row("mean", metrics)[0] == r"mean \*↓"
    assert row("method", metrics)[1:] == ["AUC by fold", "AUC within folds", "balanced accuracy"]


def test_notes_say_who_was_seen_and_what_pretraining_and_the_paper_gave():
    text = markdown(METRICS)
    assert "109 of 543 subjects" in text
    assert "Pretraining has seen 3 of those tested" in text
    assert "Pretraining, tuned: squared error -0.500 against untrained_tuned (corrected p = 0.4)" in text
    assert PAPER_MSE["GAD-7"][2] in text


def test_each_phenotype_has_a_table_and_other_results_have_none():
    metrics = METRICS | number("mean", 0.0, prefix="test/abide/fiq") | {"test/abide/fiq/num_tested": 20}
    metrics["test/abide/networks/knn/balanced_accuracy"] = 0.5  # of another question
    assert [result.title for result in clinical_results(metrics)] == [
        "Prediction of age, abide",
        "Prediction of fiq, abide",
    ]
    assert len(list(ClinicalPage().tables(metrics))) == 2
    assert list(ClinicalPage().tables({"test/abide/hidden0.75/mae/r2_pooled": 0.4})) == []
    assert markdown({}) == ""


def test_a_calibrated_method_lies_on_the_diagonal_with_classes_weighted_alike():
    generator = np.random.default_rng(0)
    truth = (generator.random(20000) < 0.2).astype(int)
    evidence = generator.normal(2 * truth - 1, 1.5)
    said, share = calibration(truth, 1 / (1 + np.exp(-2 * evidence / 1.5**2)))  # Bayes' rule with equal classes
    assert share == pytest.approx(said, abs=0.05)
    assert said.min() < 0.15


def test_a_method_that_says_the_same_of_all_is_one_point():
    truth = np.arange(20) % 2
    said, share = calibration(truth, 0.8 + 1e-3 * (np.arange(20) % 5))  # each fold's own mean
    assert (said.tolist(), share.tolist()) == ([pytest.approx(0.802, abs=1e-3)], [pytest.approx(0.5)])


def figures(arrays, condition=AGE):
    return {file.name: file.make() for file in clinical_files(arrays, condition)}


def test_numbers_are_drawn_against_the_truth_with_a_panel_for_each_method():
    truth = np.arange(20.0)
    arrays = {f"{PREFIX}/truth": truth, f"{PREFIX}/mean/predicted": truth * 0, f"{PREFIX}/tuned/predicted": truth}
    assert [axes.get_title() for axes in figures(arrays)["age_predicted"].axes] == ["mean", "tuned"]
    assert figures({f"{PREFIX}/truth": truth}) == figures({}) == {}


HALF = np.full((20, 2), 0.5)
TWO = {f"{PREFIX}/truth": np.arange(20.0) % 2, f"{PREFIX}/mean/predicted": HALF, f"{PREFIX}/svm/predicted": HALF - 0.5}


def test_a_prediction_far_beyond_stands_at_the_edge_and_presses_no_other_into_a_line():
    truth_n = np.array([10.0, 20, 30, 60])
    far_n = np.array([12.0, 18, 900, -900])
    figure = prediction_figure(truth_n, {"near": truth_n, "far": far_n}, "age")
    near, far = figure.axes
    assert far.get_ylim() == near.get_ylim() == pytest.approx((10 - 50 - 2.5, 60 + 50 + 2.5))
    below, above = (far.collections[number].get_offsets().data.tolist() for number in (1, 2))
    assert (below, above) == ([[60.0, -40.0]], [[30.0, 110.0]])
    assert not any(len(near.collections[number].get_offsets()) for number in (1, 2))
    calm = prediction_figure(truth_n, {"near": truth_n}, "age").axes[0]
    assert calm.get_ylim() == pytest.approx((10 - 2.5, 60 + 2.5))


def test_only_probabilities_of_two_classes_have_a_calibration():
    assert [axes.get_title() for axes in figures(TWO)["age_calibration"].axes] == ["mean"]
    three = {f"{PREFIX}/truth": np.arange(20) % 3, f"{PREFIX}/mean/predicted": np.full((20, 3), 1 / 3)}
    assert figures(three) == {}
    with pytest.raises(ValueError, match="no method gives probabilities"):
        calibration_figure(np.arange(20) % 2, {"svm": HALF - 0.5}, "sex", "M")


@pytest.mark.parametrize(
    ("named", "shown"),
    [({}, "class 1 of age (the run names no classes)"), ({f"{PREFIX}/classes": np.array(["F", "M$"])}, "M$")],
)
def test_the_axes_of_a_calibration_name_the_class(named, shown):
    figure = figures(TWO | named)["age_calibration"]
    assert figure.get_supxlabel() == f"age: probability of {shown}"
    assert figure.get_supylabel() == f"share of {shown}, classes weighted equally"


def test_any_phenotype_and_method_has_a_table_and_a_figure():
    condition = MetricName("abide", "IQ / $full$ scale")
    metrics = number("my method/2", 0.4, prefix=str(condition)) | {condition.of("num_tested"): 20}
    metrics = {name.replace("my method/2", "my method%2F2"): value for name, value in metrics.items()}
    (table,) = ClinicalPage().tables(metrics)
    assert table.title == "Prediction of IQ / $full$ scale, abide"
    assert table.rows[1][0] == "my method/2"
    arrays = {condition.of("truth"): np.arange(20.0), condition.by("my method/2").of("predicted"): np.arange(20.0)}
    (file,) = ClinicalPage().files(metrics, arrays)
    assert file.name == "IQ / $full$ scale_predicted"
    assert file.make().axes[0].get_title() == "my method/2"
