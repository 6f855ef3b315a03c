"""Scores of embeddings against naive loops and planted answers."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from brainlm_lightning.tasks.identity.compare import HalfEmbeddings, scored
from brainlm_lightning.tasks.identity.halves import Halves
from brainlm_lightning.tasks.identity.score import (
    LinearReading,
    r2_of,
    reidentified,
    reliability,
    shrinkage,
    squared_errors,
)

RANDOM = np.random.default_rng(0)


def test_reidentification_is_a_loop_over_all_pairs_of_subjects():
    first, second = RANDOM.standard_normal((2, 7, 3))
    second[:4] = first[:4] + 0.01 * second[:4]
    found = reidentified(first, second)
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    for u in range(7):
        there = max(range(7), key=lambda v: cosine(first[u], second[v])) == u
        back = max(range(7), key=lambda v: cosine(second[u], first[v])) == u
        assert found[u] == (there + back) / 2
    assert (found[:4] == 1).all()


def test_reidentification_of_noise_is_chance():
    found = [reidentified(*RANDOM.standard_normal((2, 20, 5))).mean() for _ in range(200)]
    assert np.mean(found) == pytest.approx(1 / 20, abs=4 * np.std(found) / np.sqrt(200))


def test_reliability_is_the_correlation_of_one_feature():
    first, second = RANDOM.standard_normal((2, 30, 1))
    assert reliability(first, second) == pytest.approx(np.corrcoef(first[:, 0], second[:, 0])[0, 1])
    assert reliability(first, first) == pytest.approx(1)


def test_a_linear_reading_is_ridge_on_features_of_unit_norm():
    features, values = RANDOM.standard_normal((40, 60)), RANDOM.standard_normal((40, 2))
    reading = LinearReading.fit(features, values)
    scale = np.sqrt(((features - features.mean(0)) ** 2).sum(1).mean())
    expected = Ridge(reading.ridge[-1].alpha_).fit((features - features.mean(0)) / scale, values)
    new = RANDOM.standard_normal((5, 60))
    np.testing.assert_allclose(reading.predict(new), expected.predict((new - features.mean(0)) / scale), atol=1e-6)


def test_r2_is_scikit_learns_about_the_group():
    truth, predicted = RANDOM.standard_normal((2, 30, 1))
    found = r2_of(squared_errors(truth, predicted, truth.mean(0)), "r2")
    assert found["r2"] == pytest.approx(r2_score(truth, predicted))
    assert found["r2_low"] < found["r2"] < found["r2_high"]


def test_shrinkage_is_the_reliability_of_a_half():
    """Signal of variance 1, noise of variance 3 in either half: a quarter of a departure is the person's."""
    person = RANDOM.standard_normal((400, 50))
    halves = [person + np.sqrt(3) * RANDOM.standard_normal((400, 50)) for _ in range(2)]
    assert shrinkage(*halves) == pytest.approx(0.25, abs=0.02)


def embeddings(subjects, names):
    person = RANDOM.standard_normal((subjects, 12))
    halves = Halves(np.array([f"s{u:03d}" for u in range(subjects)]), {}, np.ones(subjects, dtype=bool))
    connectivity = np.concatenate([person + 0.5 * RANDOM.standard_normal((subjects, 12)) for _ in range(2)])
    values = {
        "person": np.concatenate([person[:, :6]] * 2),  # half of what makes a person, without noise
        "noise": RANDOM.standard_normal((2 * subjects, 6)),
        "connectivity": connectivity,
    }
    return HalfEmbeddings(halves, {name: values[name] for name in names})


def test_what_is_planted_is_found_and_noise_is_at_zero():
    names = ("person", "noise", "connectivity")
    found = scored("c", embeddings(200, names), embeddings(240, names))
    at = lambda name, score: found[f"test/c/identity/{name}/{score}"]  # noqa: E731
    assert at("person", "reidentification") == 1
    assert at("noise", "reidentification") < 0.1
    assert at("person", "reads_r2") == pytest.approx(0.5 * 1 / 1.25, abs=0.05)  # half the entries, the person's share
    assert at("noise", "reads_r2") < 0.02
    assert at("connectivity", "other_half_r2") == pytest.approx(0.8 * 0.8, abs=0.06)  # shrunk by 0.8
    assert at("person", "other_half_r2") == pytest.approx(0.4, abs=0.06)
    assert abs(at("noise", "other_half_r2")) < 0.05
    assert found["test/c/identity/connectivity_minus_noise/p"] < 0.001
