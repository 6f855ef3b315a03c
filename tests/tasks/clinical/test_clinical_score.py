import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, mean_squared_error, r2_score, roc_auc_score

from brainlm_lightning.evaluation.resampling import subject_weights
from brainlm_lightning.tasks.clinical.score import (
    Layout,
    class_scores,
    compare_auc,
    compare_errors,
    regression_scores,
)

GENERATOR = np.random.default_rng(0)
SUBJECTS = 120


def layout(folds=1, repeats=1):
    """Every subject once in each repeat, in folds by turns."""
    subject_n = np.tile(np.arange(SUBJECTS), repeats)
    fold_n = np.concatenate([GENERATOR.permutation(SUBJECTS) % folds + folds * q for q in range(repeats)])
    return Layout(subject_n, fold_n, np.repeat(np.arange(repeats), folds))


def numbers(where):
    truth = np.random.default_rng(1).normal(50, 10, SUBJECTS)[where.subject_n]
    return truth, 0.5 * truth + GENERATOR.normal(25, 8, len(truth))


def test_scores_of_a_number_are_those_of_scikit_learn():
    where = layout()
    truth, said = numbers(where)
    found = regression_scores(where, truth, said, (truth / 10, said / 10), 10).estimates
    assert found["r2"] == pytest.approx(r2_score(truth, said), rel=1e-9)
    assert found["pearson_r"] == pytest.approx(pearsonr(truth, said).statistic, rel=1e-9)
    assert found["mae"] == pytest.approx(mean_absolute_error(truth, said), rel=1e-9)
    assert found["mse"] == pytest.approx(mean_squared_error(truth, said), rel=1e-9)
    assert found["mse_scaled"] == pytest.approx(mean_squared_error(truth, said) / 100, rel=1e-9)


def test_repeats_are_averaged_and_folds_give_mean_and_standard_deviation():
    where = layout(folds=4, repeats=3)
    truth, said = numbers(where)
    found = regression_scores(where, truth, said, (truth, said), 10).estimates
    repeat = where.repeat_X[where.fold_n]
    assert found["r2"] == pytest.approx(np.mean([r2_score(truth[repeat == q], said[repeat == q]) for q in range(3)]))
    by_fold = [mean_squared_error(truth[where.fold_n == f], said[where.fold_n == f]) for f in range(12)]
    assert found["mse_scaled_fold_mean"] == pytest.approx(np.mean(by_fold))
    assert found["mse_scaled_fold_std"] == pytest.approx(np.std(by_fold, ddof=1))


def test_r_within_folds_takes_each_folds_means_out():
    where = layout(folds=5)
    truth, said = numbers(where)
    shift = 100 * where.fold_n  # what a method learns of its fold, and not of its subjects
    found = regression_scores(where, truth, said + shift, (truth, said), 10).estimates["pearson_r"]
    centred = [
        np.concatenate([x[where.fold_n == f] - x[where.fold_n == f].mean() for f in range(5)]) for x in (truth, said)
    ]
    assert found == pytest.approx(pearsonr(*centred).statistic, rel=1e-6)


def test_the_mean_of_each_folds_training_subjects_knows_nothing():
    where = layout(folds=5)
    truth, _ = numbers(where)
    said = np.array([truth[where.fold_n != fold].mean() for fold in where.fold_n])
    assert pearsonr(truth, said).statistic < -0.05  # what pooling over folds would say of it
    found = regression_scores(where, truth, said, (truth, said), 10)
    assert np.isnan(found.estimates["pearson_r"])
    assert -0.1 < found.estimates["r2"] < 0
    sick = (truth > 50).astype(int)
    share = np.array([sick[where.fold_n != fold].mean() for fold in where.fold_n])
    assert roc_auc_score(sick, share) < 0.5
    assert class_scores(where, sick, np.stack([1 - share, share], axis=1), 10).estimates["auc"] == 0.5


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_of_classes_are_those_of_scikit_learn(classes):
    where = layout()
    truth = GENERATOR.integers(0, classes, SUBJECTS)
    score = np.round(GENERATOR.random((SUBJECTS, classes)) + np.eye(classes)[truth] * 0.4, 1)  # with ties
    score /= score.sum(1, keepdims=True)
    found = class_scores(where, truth, score, 10).estimates
    expected = roc_auc_score(truth, score[:, 1] if classes == 2 else score, multi_class="ovr", average="macro")
    assert found["auc"] == pytest.approx(expected)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, score.argmax(1)))


def test_a_draw_is_the_score_of_the_subjects_it_draws():
    where = layout(folds=2, repeats=2)
    truth = GENERATOR.integers(0, 2, SUBJECTS)[where.subject_n]
    score = GENERATOR.random(len(truth)).round(1)
    found = class_scores(where, truth, np.stack([1 - score, score], axis=1), 3, seed=5).draws["auc"]
    for weight_S, draw in zip(next(subject_weights(SUBJECTS, 3, 5)), found, strict=True):
        aucs, pairs = [], []
        for fold in range(4):
            here = np.repeat(
                np.flatnonzero(where.fold_n == fold), weight_S[where.subject_n[where.fold_n == fold]].astype(int)
            )
            aucs.append(roc_auc_score(truth[here], score[here]))
            pairs.append(truth[here].sum() * (1 - truth[here]).sum())
        by_repeat = [np.average(aucs[q : q + 2], weights=pairs[q : q + 2]) for q in (0, 2)]
        assert draw == pytest.approx(np.mean(by_repeat))


def test_intervals_hold_the_truth_of_a_method_that_knows_and_chance_of_one_that_does_not():
    where = layout(folds=5)
    truth, said = numbers(where)
    noise = GENERATOR.normal(50, 1, len(truth))
    knows, guesses = (regression_scores(where, truth, x, (truth, x)).flat(SUBJECTS) for x in (said, noise))
    assert 0 < knows["pearson_r_low"] < knows["pearson_r"] < knows["pearson_r_high"] < 1
    assert guesses["pearson_r_low"] < 0 < guesses["pearson_r_high"]


def test_paired_tests_find_the_better_method():
    where = layout(folds=5)
    truth = GENERATOR.integers(0, 2, SUBJECTS)
    good, bad = (truth * weight + GENERATOR.normal(0, 1, SUBJECTS) for weight in (2, 0))
    scores = {name: class_scores(where, truth, np.stack([-s, s], axis=1)) for name, s in (("good", good), ("bad", bad))}
    found = compare_auc(scores, [("good", "bad"), ("good", "good")], SUBJECTS)
    assert found["good_minus_bad/p"] < 0.01
    assert found["good_minus_bad/auc_low"] > 0
    assert found["good_minus_good/p"] == 1
    errors = {"good": (truth - 0.5) ** 2, "bad": (truth + GENERATOR.normal(0, 1, SUBJECTS)) ** 2}
    assert compare_errors(errors, [("good", "bad")])["good_minus_bad/p"] < 0.01


def test_errors_of_one_mean_and_skewed_differences_are_called_different_no_more_often_than_chance():
    """A rank test finds a difference here: the median of the differences is not 0, their mean is."""
    random, trials = np.random.default_rng(4), 200
    found = []
    for _ in range(trials):
        skewed = random.exponential(1, SUBJECTS) - 1
        errors = {"a": 5 + skewed, "b": np.full(SUBJECTS, 5.0)}
        found.append(compare_errors(errors, [("a", "b")])["a_minus_b/p"] < 0.05)
    assert np.mean(found) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)  # three standard errors above the level


def paired(seed=0):
    """Two or three predictions of each subject, with a level of its own that says nothing."""
    generator = np.random.default_rng(seed)
    subject_n = np.repeat(np.arange(30), 3)
    truth = np.tile([0, 1, 1], 30)
    score = 10 * generator.standard_normal(30)[subject_n] + truth + generator.standard_normal(90)
    return Layout(subject_n, subject_n % 5, np.zeros(5, dtype=int), paired=True), truth, score


def test_paired_auc_counts_the_pairs_of_one_subject_alone():
    where, truth, score = paired()
    expected = np.mean([roc_auc_score(truth[where.subject_n == s], score[where.subject_n == s]) for s in range(30)])
    found = class_scores(where, truth, np.stack([-score, score], axis=1), 200)
    assert found.estimates["auc"] == pytest.approx(expected, rel=1e-12)
    assert found.estimates["auc"] > 0.6 > roc_auc_score(truth, score)
    assert class_scores(where, truth, np.zeros((90, 2)), 10).estimates["auc"] == 0.5
    draws = [
        weight @ own_shares(where, truth, score) / weight.sum() for weight in next(iter(subject_weights(30, 200, 0)))
    ]
    assert found.draws["auc"][: len(draws)] == pytest.approx(draws)


def own_shares(where, truth, score):
    return np.array([roc_auc_score(truth[where.subject_n == s], score[where.subject_n == s]) for s in range(30)])
