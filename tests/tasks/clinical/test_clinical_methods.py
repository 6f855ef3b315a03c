import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from brainlm_lightning.embedding.tangent import TangentSpace
from brainlm_lightning.tasks.clinical.features import confound_columns, correlations
from brainlm_lightning.tasks.clinical.fold_learning import FoldLearning
from brainlm_lightning.tasks.clinical.methods import SklearnMethod, default_baselines
from brainlm_lightning.tasks.clinical.pipelines import MeanSquaredNorm, pipeline, scores

GENERATOR = np.random.default_rng(0)
WIDE = GENERATOR.standard_normal((60, 300))  # more features than recordings
WEIGHTS = GENERATOR.standard_normal(300) / 10
NUMBER = WIDE @ WEIGHTS + GENERATOR.normal(0, 0.3, 60)
CLASS = (NUMBER > 0).astype(float)
GROUPS = np.repeat([f"s{number}" for number in range(30)], 2)


def training(labels=NUMBER, classes=0, rows=slice(None)):
    numbers = np.arange(60)[rows]
    return FoldLearning(numbers, labels[rows], GROUPS[rows], classes, 0, lambda name, rows: None, lambda name: {})


def test_ridge_on_components_is_ridge_on_the_features():
    fitted = pipeline("raw", "linear", training()).fit(WIDE, NUMBER)
    alpha = fitted[-1].best_params_["alpha"]
    scaled = WIDE / np.sqrt(((WIDE - WIDE.mean(0)) ** 2).sum(1).mean())
    expected = Ridge(alpha=alpha).fit(scaled, NUMBER)
    unseen = GENERATOR.standard_normal((5, 300))
    norm = np.sqrt(((WIDE - WIDE.mean(0)) ** 2).sum(1).mean())
    assert scores(fitted, unseen, 0)[:, 0] == pytest.approx(expected.predict(unseen / norm), rel=1e-6)


@pytest.mark.parametrize("labels", [NUMBER, CLASS])
def test_inner_folds_keep_a_subjects_recordings_together(labels):
    fitted = pipeline("embedding", "linear", training(labels, 2 * (labels is CLASS)))
    for fit, held_out in fitted[-1].cv:
        assert set(GROUPS[fit]) & set(GROUPS[held_out]) == set()


METHODS = default_baselines(confounds=True)


def named(features, table):
    """The same numbers as every part of joined features; confounds are a table."""
    parts = features.split("+")
    if len(parts) == 1:
        return table
    return {
        part: pd.DataFrame(table, columns=[f"c{k}" for k in range(20)]) if part == "confounds" else table
        for part in parts
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("classes", [0, 3])
def test_nothing_of_a_test_recording_reaches_what_is_fitted(method, classes):
    features, estimator = METHODS[method].features, METHODS[method].estimator
    labels = {0: NUMBER, 3: np.digitize(NUMBER, [-0.5, 0.5]).astype(float)}[classes]
    given, poisoned = WIDE[:, :20].copy(), WIDE[:, :20].copy()
    poisoned[-1] = 1e6
    if features == "confounds":
        given, poisoned = (pd.DataFrame(x[:, :2], columns=["fd", "age"]) for x in (given, poisoned))
        given, poisoned = (table.assign(site="a", smoker=True) for table in (given, poisoned))
        poisoned.loc[59, "site"] = "never seen"
    rows = slice(0, 50)
    found = []
    for table in (given, poisoned):
        fitted = pipeline(features, estimator, training(labels, classes, rows))
        fitted.fit(named(features, table[rows]), labels[rows])
        found.append(scores(fitted, named(features, table[50:]), classes))
    assert np.array_equal(found[0][:-1], found[1][:-1])
    assert found[0].shape == (10, classes or 1)
    assert np.isfinite(found[1]).all()


@pytest.mark.parametrize("estimator", ["linear", "svm"])
def test_a_planted_dependence_is_found(estimator):
    rows = slice(0, 40)
    fitted = pipeline("embedding", estimator, training(rows=rows)).fit(WIDE[rows, :5], WIDE[rows, 0])
    assert np.corrcoef(scores(fitted, WIDE[40:, :5], 0)[:, 0], WIDE[40:, 0])[0, 1] > 0.95


BESIDE = GENERATOR.standard_normal((60, 200))


def joined(labels):
    """A method of two blocks, fitted on 40 recordings."""
    blocks = {"connectivity": WIDE, "gram": BESIDE}
    method = SklearnMethod("connectivity+gram", "linear")
    rows = np.arange(40)
    features = lambda name, rows: {part: blocks[part][rows] for part in name.split("+")}  # noqa: E731
    method.fit(FoldLearning(rows, labels[:40], GROUPS[:40], 0, 0, features, lambda name: {}))
    return method


def test_joined_features_are_ridge_with_the_sum_of_their_kernels():
    method = joined(NUMBER)
    union, _, search = method._fitted
    share, alpha = union.transformer_weights["gram"], search.best_params_["alpha"]
    norm = np.sqrt(1 + share**2)
    blocks = []
    for block, weight in ((WIDE, 1), (BESIDE, share)):
        about = block - block[:40].mean(0)
        blocks.append(about * weight / np.sqrt((about[:40] ** 2).sum(1).mean()) / norm)
    kernel = sum(block @ block[:40].T for block in blocks)
    mean = NUMBER[:40].mean()
    expected = kernel[40:] @ np.linalg.solve(kernel[:40] + alpha * np.eye(40), NUMBER[:40] - mean) + mean
    assert method.predict(np.arange(40, 60))[:, 0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("truth", "shares"),
    [(WIDE[:, :4].sum(1) + WIDE @ WEIGHTS, (0.03, 0.3)), (BESIDE[:, :4].sum(1) + BESIDE @ WEIGHTS[:200], (3.0,))],
)
def test_what_says_nothing_beside_the_other_is_turned_down(truth, shares):
    assert joined(truth)._fitted[0].transformer_weights["gram"] in shares


def test_all_features_are_divided_by_one_number():
    scaled = MeanSquaredNorm().fit(WIDE).transform(WIDE)
    assert (scaled**2).sum(1).mean() == pytest.approx(1)
    assert scaled / WIDE == pytest.approx(np.full(WIDE.shape, scaled[0, 0] / WIDE[0, 0]))
    assert MeanSquaredNorm().fit(np.zeros((3, 2))).transform(np.ones((1, 2))).tolist() == [[1, 1]]


def test_connectivity_is_the_correlation_between_parcels():
    series = GENERATOR.standard_normal((20000, 4)) @ GENERATOR.standard_normal((4, 4))
    lower = np.tril_indices(4, -1)
    assert np.tanh(correlations([series])[0]) == pytest.approx(np.corrcoef(series.T)[lower], abs=2e-3)


def test_a_parcel_without_data_is_connected_to_nothing():
    series = GENERATOR.standard_normal((50, 4))
    series[:, 2] = 0
    found = np.zeros((4, 4))
    found[np.tril_indices(4, -1)] = correlations([series])[0]
    assert found[2, :2].tolist() == [0, 0]
    assert found[3, 2] == 0
    assert found[1, 0] != 0


def test_tangent_connectivity_is_fitted_on_the_training_recordings():
    series = [GENERATOR.standard_normal((80, 6)) for _ in range(60)]
    fitted = pipeline("tangent", "linear", training(rows=slice(0, 50))).fit(series[:50], NUMBER[:50])
    assert fitted[0].mean_.shape == (6, 6)
    assert scores(fitted, series[50:], 0).shape == (10, 1)


@pytest.mark.parametrize("features", ["covariance", "untrained_covariance"])
def test_covariance_has_its_mean_from_the_training_recordings_alone(features):
    """Ridge on tangent vectors at the geometric mean of the first 50; a wild test recording moves nobody else."""
    series = GENERATOR.standard_normal((60, 40, 6)) @ GENERATOR.standard_normal((60, 6, 6))
    rows = np.array([np.corrcoef(values.T)[np.tril_indices(6, -1)] for values in series])
    wild = rows.copy()
    wild[-1] = 0.99
    found = []
    for given in (rows, wild):
        fitted = pipeline(features, "linear", training(rows=slice(0, 50))).fit(given[:50], NUMBER[:50])
        found.append(scores(fitted, given[50:], 0))
    assert np.array_equal(found[0][:-1], found[1][:-1])
    assert found[0][-1] != found[1][-1]
    space = TangentSpace().fit(rows[:50])
    known, unseen = space.transform(rows[:50]), space.transform(rows[50:])
    norm = np.sqrt(((known - known.mean(0)) ** 2).sum(1).mean())
    expected = Ridge(alpha=fitted[-1].best_params_["alpha"]).fit(known / norm, NUMBER[:50]).predict(unseen / norm)
    assert found[0][:, 0] == pytest.approx(expected, rel=1e-6)


def test_confounds_are_the_columns_that_are_there_and_vary():
    table = pd.DataFrame({"site": ["a", "b"], "mean_fd": [0.1, 0.1], "age": [20, 30]})
    assert confound_columns(table, ["site", "mean_fd", "age", "sex"], "age") == ["site"]
    assert confound_columns(table, ["site", "mean_fd", "age", "sex"], "sex") == ["site", "age"]
