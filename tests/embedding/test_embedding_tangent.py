"""The tangent space at the mean of training recordings, against nilearn on series and against matrix functions."""

import numpy as np
import pytest
from nilearn.connectome import ConnectivityMeasure
from scipy.linalg import expm, logm, sqrtm
from sklearn.covariance import EmpiricalCovariance

from brainlm_lightning.embedding.definitions import Covariance, Gram
from brainlm_lightning.embedding.spaces import FittedSpaces
from brainlm_lightning.embedding.tangent import TangentSpace

PARCELS, LOWER = 5, np.tril_indices(5, -1)


def correlations(count=12):
    """Of mixed noise; the second has a parcel without data, the third fewer values than parcels."""
    random = np.random.default_rng(0)
    mixing = random.standard_normal((PARCELS, PARCELS)) + 2 * np.eye(PARCELS)
    found = []
    for number in range(count):
        noise = random.standard_normal((3 if number == 2 else 40, PARCELS)) @ (mixing + 0.5 * random.standard_normal())
        found.append(np.corrcoef(noise.T))
    found[1][3, :3] = found[1][:3, 3] = found[1][4, 3] = found[1][3, 4] = 0
    return np.array(found)


def below(matrices):
    return matrices[:, *LOWER].astype(np.float32)


def test_tangent_vectors_are_nilearns_of_series_with_these_covariances():
    matrices = correlations()
    shrunk = 0.9 * matrices + 0.1 * np.eye(PARCELS)
    series = [np.sqrt(PARCELS) * np.linalg.cholesky(matrix).T for matrix in shrunk]  # covariance X'X / 5
    theirs = ConnectivityMeasure(EmpiricalCovariance(assume_centered=True), kind="tangent", vectorize=True)
    theirs.fit(series[:8])
    own = TangentSpace().fit(below(matrices[:8]))
    np.testing.assert_allclose(own.transform(below(matrices[8:])), theirs.transform(series[8:]), atol=1e-5)
    assert own.transform(below(matrices[8:9])).shape == (1, 15)  # one recording alone, too


def test_tangent_vectors_are_logarithms_about_the_geometric_mean():
    """The mean is where the logarithms of the training recordings add to 0, found by plain steps along geodesics."""
    matrices = correlations()
    shrunk = 0.9 * matrices + 0.1 * np.eye(PARCELS)
    mean = shrunk[:8].mean(0)
    for _ in range(50):
        root = sqrtm(mean).real
        inverse = np.linalg.inv(root)
        mean = root @ expm(np.mean([logm(inverse @ each @ inverse) for each in shrunk[:8]], axis=0)) @ root
    inverse = np.linalg.inv(sqrtm(mean).real)
    found = TangentSpace().fit(below(matrices[:8])).transform(below(matrices))
    full = np.zeros((12, PARCELS, PARCELS))
    full[:, *np.tril_indices(PARCELS)] = found
    full += full.transpose(0, 2, 1) * (1 - np.eye(PARCELS))
    full[:, range(PARCELS), range(PARCELS)] *= np.sqrt(2)
    np.testing.assert_allclose(full, [logm(inverse @ each @ inverse).real for each in shrunk], atol=1e-4)
    np.testing.assert_allclose(found[:8].mean(0), 0, atol=1e-4)


def test_embeddings_with_a_space_are_placed_by_the_training_subjects_and_others_stay():
    rows = below(correlations())
    training = rows[:9].copy()
    training[4] = np.nan  # a subject without a second half
    embeddings = {"gram": Gram(), "covariance": Covariance()}
    spaces = FittedSpaces.fit(embeddings, {"gram": training, "covariance": training})
    found = spaces.place({"gram": rows[9:], "covariance": np.concatenate([rows[9:], training[4:5]])})
    np.testing.assert_array_equal(found["gram"], rows[9:])
    expected = TangentSpace().fit(np.delete(training, 4, axis=0)).transform(rows[9:])
    np.testing.assert_array_equal(found["covariance"][:3], expected)
    assert np.isnan(found["covariance"][3]).all()


def test_what_is_no_number_of_pairs_is_refused():
    with pytest.raises(ValueError, match="got 9 correlations a recording, expected P"):
        TangentSpace().fit(np.zeros((4, 9)))
