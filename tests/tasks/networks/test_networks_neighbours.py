"""Nearest neighbours: scikit-learn's own search, and labels of test parcels that nobody looks at."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from brainlm_lightning.tasks.networks.neighbours import (
    METRICS,
    UNKNOWN,
    NeighbourPlan,
    classify,
    distances,
    divisions,
    most_frequent,
    pair_distances,
    ranked,
)
from brainlm_lightning.tasks.networks.score import compare_methods, network_scores, recording_scores

PLAN = NeighbourPlan(repeats=4)


@pytest.fixture
def parcels():
    """70 parcels of 4 networks whose features overlap."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [10, 30, 12, 18])
    return generator.standard_normal((4, 9))[labels] + 1.5 * generator.standard_normal((70, 9)), labels


def orders(features):
    return {metric: ranked(distances(features, metric)) for metric in METRICS}


def known(labels, train):
    only = np.full_like(labels, UNKNOWN)
    only[train] = labels[train]
    return only


@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_scipys(metric, parcels):
    np.testing.assert_allclose(distances(parcels[0], metric), squareform(pdist(parcels[0], metric)), atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_pair_distances_leave_out_the_two_parcels_own_columns(metric):
    values = np.random.default_rng(1).standard_normal((8, 8)) + 5 * np.eye(8)
    found = pair_distances(values, metric)
    for p in range(8):
        for q in range(8):
            others = [c for c in range(8) if c not in (p, q)]
            if p != q:
                (expected,) = pdist(values[[p, q]][:, others], metric)
                assert found[p, q] == pytest.approx(expected)
    poisoned = values + np.diag(1e3 * np.arange(8))
    np.testing.assert_allclose(pair_distances(poisoned, metric), found, atol=1e-4)


def test_predictions_and_choices_are_those_of_scikit_learns_grid_search(parcels):
    features, labels = parcels
    chosen = set()
    for number, (train, test) in enumerate(divisions(labels, PLAN, seed=3)):
        found, choice = classify(orders(features), known(labels, train), test, PLAN, seed=number)
        train = np.sort(train)  # the folds go by the order of the parcels
        folds = StratifiedKFold(PLAN.folds, shuffle=True, random_state=number)
        grid = {"metric": list(METRICS), "n_neighbors": list(PLAN.ks)}
        search = GridSearchCV(KNeighborsClassifier(algorithm="brute"), grid, cv=folds).fit(
            features[train], labels[train]
        )
        place = search.cv_results_["params"].index({"metric": choice[0], "n_neighbors": choice[1]})
        accuracy = search.cv_results_["mean_test_score"]
        assert accuracy[place] == pytest.approx(search.best_score_, abs=1e-9)
        assert accuracy[:place].max(initial=0) < accuracy[place] - 1e-9  # the first of equals
        single = KNeighborsClassifier(choice[1], metric=choice[0]).fit(features[train], labels[train])
        np.testing.assert_array_equal(found, single.predict(features[test]))
        chosen.add(choice)
    assert len(chosen) > 1  # it does depend on the training parcels


def test_divisions_are_stratified_and_a_function_of_the_seed(parcels):
    labels = parcels[1]
    found = divisions(labels, PLAN, seed=5)
    assert len(found) == 4
    for train, test in found:
        assert sorted([*train, *test]) == list(range(70))
        assert np.bincount(labels[test]).tolist() == [2, 6, 2, 4]
    assert all(np.array_equal(a, b) for one, two in zip(found, divisions(labels, PLAN, 5), strict=True)
               for a, b in zip(one, two, strict=True))  # fmt: skip
    assert not np.array_equal(found[0][1], divisions(labels, PLAN, 6)[0][1])


def test_labels_of_parcels_of_unknown_network_reach_neither_choice_nor_prediction(parcels):
    """Only `known_P` carries labels; test parcels, wherever they lie, neither vote nor choose."""
    features, labels = parcels
    train, test = divisions(labels, PLAN, seed=0)[0]
    before = classify(orders(features), known(labels, train), test, PLAN, seed=0)
    far = features.copy()
    far[test] += 1e6 * np.random.default_rng(2).standard_normal((len(test), 9))  # to each other they are near no more
    moved = {metric: ranked(distances(far, metric)) for metric in METRICS}
    assert classify(moved, known(labels, train), test, PLAN, seed=0)[1] == before[1]
    assert set(before[0]) <= set(labels)
    shuffled = np.random.default_rng(0).permutation(labels)  # while labels of training parcels do reach it
    assert not np.array_equal(classify(orders(features), known(shuffled, train), test, PLAN, 0)[0], before[0])


def test_permuting_parcels_permutes_predictions(parcels):
    features, labels = parcels
    train, test = divisions(labels, PLAN, seed=0)[0]
    order = np.random.default_rng(3).permutation(70)
    place = np.argsort(order)  # of each old parcel
    plan = NeighbourPlan(ks=(5,), metrics=("euclidean",))  # folds would differ, so nothing to choose
    one = {"euclidean": ranked(distances(features, "euclidean"))}
    other = {"euclidean": ranked(distances(features[order], "euclidean"))}
    straight, _ = classify(one, known(labels, train), test, plan, 0)
    moved, _ = classify(other, known(labels[order], place[train]), place[test], plan, 0)
    np.testing.assert_array_equal(moved, straight)


def test_knowing_nothing_is_the_most_frequent_training_network():
    known_P = np.array([UNKNOWN, 2, 2, 1, UNKNOWN])
    assert most_frequent(known_P, np.array([0, 4])).tolist() == [2, 2]


def test_scores_are_scikit_learns_and_intervals_and_tests_are_over_subjects():
    generator = np.random.default_rng(4)
    truth, guess = generator.integers(0, 3, (6, 50)), generator.integers(0, 3, (6, 50))
    better = np.where(generator.random((6, 50)) < 0.5, truth, guess)
    confusions = {}
    for name, predicted in {"a": better, "b": guess}.items():
        confusions[name] = np.zeros((6, 3, 3))
        for recording in range(6):
            np.add.at(confusions[name][recording], (truth[recording], predicted[recording]), 1)
    for recording, (accuracy, balanced) in enumerate(recording_scores(confusions["a"])):
        assert accuracy == accuracy_score(truth[recording], better[recording])
        assert balanced == pytest.approx(balanced_accuracy_score(truth[recording], better[recording]))
    subjects = np.array(["s1", "s1", "s2", "s2", "s3", "s3"])
    found = network_scores(confusions["a"], subjects)
    assert found["accuracy"] == pytest.approx((truth == better).mean())
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    assert (found["num_subjects"], found["num_recordings"]) == (3, 6)
    by_subject = (truth == better).reshape(3, 100).mean(1)
    assert found["accuracy_high"] <= by_subject.max()
    compared = compare_methods(confusions, subjects, "a")
    assert compared["a_minus_b/accuracy"] == pytest.approx((truth == better).mean() - (truth == guess).mean())
    assert compared["a_minus_b/num_subjects"] == 3
    assert compared["a_minus_b/p"] == 0.25  # the smallest that three subjects can give


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ks": (3, 1)}, "in rising order"),
        ({"ks": ()}, "in rising order"),
        ({"metrics": ("hamming",)}, "expected some of"),
        ({"test_share": 1.0}, "a share between 0 and 1"),
        ({"folds": 1}, "at least 2 folds"),
    ],
)
def test_a_plan_that_cannot_be_is_an_error(wrong, message):
    with pytest.raises(ValueError, match=message):
        NeighbourPlan(**wrong)


def test_a_network_needs_parcels_for_every_fold_and_the_test():
    assert NeighbourPlan().fewest == 5
    assert NeighbourPlan(folds=6).fewest == 7


def test_a_method_that_gives_every_recording_the_same_features_has_no_test():
    generator = np.random.default_rng(0)
    confusions = {name: generator.integers(1, 9, (12, 3, 3)) for name in ("attention", "position", "connectivity")}
    compared = compare_methods(confusions, [f"s{number}" for number in range(12)], "attention", fixed={"position"})
    assert "attention_minus_connectivity/p" in compared
    assert "attention_minus_position/p" not in compared
    assert compared["attention_minus_position/num_subjects"] == 12
