"""Sorting a recording's parcels into networks: planted ones are found, and labels of test parcels are not looked at."""

import numpy as np
import pytest

from brainlm_lightning.tasks.networks import classify as module
from brainlm_lightning.tasks.networks.classify import CHANCE, YEO7, Networks, Tally, classify_recording
from brainlm_lightning.tasks.networks.neighbours import NeighbourPlan, divisions

PLAN = NeighbourPlan(repeats=6)
LABELS = ["b"] * 12 + ["none"] * 5 + ["a"] * 20 + ["c"] * 10
EVERYTHING = np.ones(len(LABELS), dtype=bool)


def networks():
    return Networks.of("toy", LABELS, "none", PLAN)


def planted(seed=0):
    """Series that share their network's, relations that follow from them, and numbers that know nothing."""
    generator = np.random.default_rng(seed)
    shared = {name: generator.standard_normal(40) for name in (*sorted(set(LABELS)),)}
    series = np.array([shared[name] for name in LABELS]) + 0.8 * generator.standard_normal((len(LABELS), 40))
    return {"series": series, "relation": np.corrcoef(series), "nothing": generator.standard_normal((len(LABELS), 5))}


def accuracy(guesses, number_P):
    votes_PC = guesses.votes_PQ[number_P >= 0]
    return votes_PC[np.arange(len(votes_PC)), number_P[number_P >= 0]].sum() / votes_PC.sum()


def test_networks_are_numbered_in_yeos_order_or_sorted():
    assert networks().names == ("a", "b", "c")
    assert networks().number_P.tolist() == [1] * 12 + [-1] * 5 + [0] * 20 + [2] * 10
    assert Networks.of("yeo", sorted(YEO7) * 5, "none", PLAN).names == YEO7


def test_planted_networks_are_found_and_noise_finds_none():
    found = classify_recording(planted(), {"relation"}, EVERYTHING, networks(), PLAN, seed=0)
    number_P = networks().number_P
    assert accuracy(found["series"], number_P) > 0.95
    assert accuracy(found["relation"], number_P) > 0.95
    assert accuracy(found["nothing"], number_P) < 0.65
    assert accuracy(found[CHANCE], number_P) == pytest.approx(20 / 42, abs=0.05)


def test_every_method_guesses_the_same_parcels_and_none_without_a_network():
    found = classify_recording(planted(), {"relation"}, EVERYTHING, networks(), PLAN, seed=1)
    tested_P = found[CHANCE].votes_PQ.sum(1)
    assert tested_P.sum() == 6 * 9  # divisions × a fifth of 42 parcels, rounded up
    assert not tested_P[networks().number_P < 0].any()
    assert all(np.array_equal(guesses.votes_PQ.sum(1), tested_P) for guesses in found.values())
    again = classify_recording(planted(), {"relation"}, EVERYTHING, networks(), PLAN, seed=2)
    assert not np.array_equal(again[CHANCE].votes_PQ.sum(1), tested_P)


def test_labels_of_test_parcels_change_neither_choice_nor_guess(monkeypatch):
    """The divisions are held fast, for they are stratified; then every test parcel's label is a lie."""
    known, features = networks(), planted()
    fixed = divisions(known.number_P[known.number_P >= 0], PLAN, 3)[:1]
    monkeypatch.setattr(module, "divisions", lambda labels, plan, seed: fixed)
    honest = classify_recording(features, {"relation"}, EVERYTHING, known, PLAN, seed=3)
    poisoned = known.number_P.copy()
    place = np.flatnonzero(known.number_P >= 0)[fixed[0][1]]
    poisoned[place] = (poisoned[place] + 1) % 3
    lied = classify_recording(features, {"relation"}, EVERYTHING, Networks(known.names, poisoned), PLAN, seed=3)
    for name, guesses in honest.items():
        assert lied[name].choices == guesses.choices
        np.testing.assert_array_equal(lied[name].votes_PQ, guesses.votes_PQ)
    train = np.flatnonzero(known.number_P >= 0)[fixed[0][0]]
    poisoned[train] = (poisoned[train] + 1) % 3  # while labels of training parcels matter
    lied = classify_recording(features, {"relation"}, EVERYTHING, Networks(known.names, poisoned), PLAN, seed=3)
    assert not np.array_equal(lied["series"].votes_PQ, honest["series"].votes_PQ)


def test_unobserved_parcels_are_no_feature_no_neighbour_and_no_test():
    observed_P, features = EVERYTHING.copy(), planted()
    features["noise"] = np.random.default_rng(5).standard_normal((len(LABELS), len(LABELS)))  # every column matters
    observed_P[[0, 14, 25]] = False
    clean = classify_recording(features, {"relation", "noise"}, observed_P, networks(), PLAN, seed=0)
    for name, values in features.items():
        values[~observed_P] = np.nan
        if name in ("relation", "noise"):
            values[:, ~observed_P] = np.nan
    poisoned = classify_recording(features, {"relation", "noise"}, observed_P, networks(), PLAN, seed=0)
    for name, guesses in clean.items():
        np.testing.assert_array_equal(poisoned[name].votes_PQ, guesses.votes_PQ)
        assert not guesses.votes_PQ[~observed_P].any()


def test_what_a_parcel_is_to_itself_does_not_matter():
    features = planted()
    other = {"relation": features["relation"] + np.diag(np.random.default_rng(1).uniform(-9, 9, len(LABELS)))}
    one, two = (
        classify_recording(given, {"relation"}, EVERYTHING, networks(), PLAN, seed=0)["relation"].votes_PQ
        for given in (features, other)
    )
    np.testing.assert_array_equal(one, two)


def test_a_recording_with_too_few_observed_parcels_of_a_network_is_left_out_and_counted():
    observed_P = EVERYTHING.copy()
    observed_P[np.flatnonzero(networks().number_P == 2)[4:]] = False
    tally = Tally(networks())
    tally.add(7, classify_recording(planted(), {"relation"}, observed_P, networks(), PLAN, seed=0))
    tally.add(9, classify_recording(planted(), {"relation"}, EVERYTHING, networks(), PLAN, seed=0))
    assert (tally.left_out, tally.rows) == (1, [9])
    assert tally.confusions["series"][0].sum(1).tolist() == [24, 18, 12]  # tested: 4, 3 and 2 of each in 6 divisions
    assert tally.chosen("series", PLAN.metrics, PLAN.ks).sum() == 6


def test_an_atlas_without_networks_or_with_small_ones_is_an_error():
    with pytest.raises(ValueError, match="'toy' names 0 networks, expected at least 2; give the manifest's atlas"):
        Networks.of("toy", ["none"] * 9, "none", PLAN)
    with pytest.raises(ValueError, match=r"too small to divide: \{'b': 4\} parcels, expected at least 5"):
        Networks.of("toy", ["a"] * 9 + ["b"] * 4, "none", PLAN)
