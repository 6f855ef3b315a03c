"""Batches beside a naive loop over the recordings as they came from their files."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from brainlm_lightning.data.scaling import RECIPES
from brainlm_lightning.data.schedule import WindowRequest
from brainlm_lightning.data.split import assign_split
from brainlm_lightning.data.store import Store
from brainlm_lightning.data.windows import Recordings, WindowDataset, scale_on_device, usable_parcels

T = 20
DEAD = {2: [3], 5: [0, 7]}  # recording -> parcels without signal
STILL = 9  # a parcel without signal in every training subject
REQUEST = WindowRequest(
    np.array([5, 0, 2, 7]), np.array([11, 40, 0, 25]), np.array([2**64 - 1, 0, 2**63, 7], np.uint64)
)


class Cohort:
    """A store of either precision and the recordings that it was made from."""

    def __init__(self, make_tiny_store, root, dtype):
        self.root = root
        self.store = Store(make_tiny_store(root, f"--dtype={dtype}", alter=self.alter))
        self.train = np.flatnonzero(self.store.recordings["split"] == "train")
        self.test = np.flatnonzero(self.store.recordings["split"] == "test")

    def alter(self, series, table):
        """Levels of scanners, dead parcels, and one that only subjects outside of the training set have."""
        for row, name in enumerate(table["recording"]):
            values = series[name]
            values += 1000 + 5 * row + np.arange(16)
            values[:, DEAD.get(row, [])] = 1000
            if assign_split(table["subject"][row], key="brainlm", val=0.2, test=0.2) == "train":
                values[:, STILL] = 1000
        self.source = [series[name].astype(np.float64) for name in table["recording"]]

    def dataset(self, recipe):
        return WindowDataset(Recordings.of([self.store]), recipe, [self.store.statistics], T)


@pytest.fixture(scope="module", params=["float32", "float16"])
def cohort(request, make_tiny_store, tmp_path_factory):
    return Cohort(make_tiny_store, tmp_path_factory.mktemp(request.param), request.param)


def reference(cohort, recipe, row, parcel):
    """Centre and scale of one parcel of one recording, from the files; none where it is not to be used."""
    values = cohort.source[row][:, parcel]
    still = parcel == STILL and recipe.startswith("robust")
    if values.std() == 0 or still:
        return None
    training = [cohort.source[other][:, parcel] for other in cohort.train if parcel not in DEAD.get(other, [])]
    centred = [of - of.mean() for of in training]
    if recipe == "recording_zscore":
        return values.mean(), values.std()
    if recipe == "none":
        return 0.0, 1.0
    pooled = np.concatenate(training if recipe == "robust" else centred)
    q25, median, q75 = np.quantile(pooled, [0.25, 0.5, 0.75])
    return median + (values.mean() if recipe == "robust_centred" else 0), q75 - q25


@pytest.mark.parametrize("recipe", RECIPES)
def test_batches_are_those_of_a_naive_loop(cohort, recipe):
    batch = cohort.dataset(recipe).__getitems__(REQUEST)
    assert batch["signal_BPT"].dtype == getattr(torch, cohort.store.dtype.name)
    scaled = scale_on_device(batch)["signal_BPT"]
    assert (scaled.shape, scaled.dtype) == ((4, 16, T), torch.float32)
    expected = np.zeros((4, 16, T))
    for window in range(4):
        row, start = REQUEST.rows[window], REQUEST.starts[window]
        for parcel in range(16):
            found = reference(cohort, recipe, row, parcel)
            assert bool(batch["observed_BP"][window, parcel]) == (found is not None)
            for frame in range(T if found else 0):
                centre, scale = found
                expected[window, parcel, frame] = (cohort.source[row][start + frame, parcel] - centre) / scale
    # Half a step of float16 at 8; of float32 at 1000.
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=4e-3 if cohort.store.dtype == np.float16 else 3e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_unobserved_parcels_are_zero_and_say_so(cohort, recipe):
    batch = scale_on_device(cohort.dataset(recipe).__getitems__(REQUEST))
    assert not batch["observed_BP"][0, [0, 7]].any()
    assert not batch["observed_BP"][2, 3]
    assert batch["signal_BPT"][~batch["observed_BP"]].abs().max() == 0
    assert batch["signal_BPT"][batch["observed_BP"]].std() > 0.1


def test_a_parcel_that_no_training_subject_has_is_unobserved_where_scaling_needs_it(cohort):
    rows = cohort.test
    for recipe in RECIPES:
        observed_BP = cohort.dataset(recipe).observed(rows)
        assert (observed_BP[:, STILL] == (not recipe.startswith("robust"))).all()
    assert usable_parcels("robust", cohort.store.statistics).tolist() == [parcel != STILL for parcel in range(16)]


def test_a_batch_says_which_windows_it_holds(cohort):
    batch = cohort.dataset("robust").__getitems__(REQUEST)
    assert batch["recording_index_B"].tolist() == REQUEST.rows.tolist()
    assert batch["start_B"].tolist() == REQUEST.starts.tolist()
    assert [key % 2**64 for key in batch["key_B"].tolist()] == REQUEST.keys.tolist()


@pytest.mark.parametrize("recipe", RECIPES)
def test_whole_recordings_are_scaled_as_their_windows_are(cohort, recipe):
    dataset = cohort.dataset(recipe)
    batch = scale_on_device(dataset.__getitems__(REQUEST))
    for window, (row, start) in enumerate(zip(REQUEST.rows, REQUEST.starts, strict=True)):
        scaled_PT, observed_P = dataset.scaled_recording(int(row))
        np.testing.assert_allclose(scaled_PT[:, start : start + T], batch["signal_BPT"][window], rtol=1e-5, atol=1e-5)
        assert observed_P.tolist() == batch["observed_BP"][window].tolist()


def test_a_dataset_travels_to_workers(cohort):
    dataset = cohort.dataset("robust")
    before = dataset.__getitems__(REQUEST)
    after = pickle.loads(pickle.dumps(dataset)).__getitems__(REQUEST)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_cohort_is_scaled_with_the_statistics_it_is_given(cohort, make_tiny_store):
    def alter(series, table):
        for values in series.values():
            values *= 3
            values += 500

    folder = cohort.root / "other"
    other = Store(folder if folder.exists() else make_tiny_store(cohort.root, alter=alter, name="other", seed=1))
    given = cohort.store.statistics
    dataset = WindowDataset(Recordings.of([cohort.store, other]), "robust", [given, given], T)
    mixed = replace(REQUEST, rows=np.array([24 + 3, 0, 24, 1]))
    batch = scale_on_device(dataset.__getitems__(mixed))["signal_BPT"]
    usable = np.arange(16) != STILL
    for window, (store, row) in enumerate([(other, 3), (cohort.store, 0), (other, 0), (cohort.store, 1)]):
        start = REQUEST.starts[window]
        expected = (store.raw(row)[start : start + T] - given.robust.centre) / given.robust.scale
        np.testing.assert_allclose(batch[window][usable], expected.T[usable], rtol=1e-4, atol=3e-4)


def test_recordings_of_one_name_in_two_cohorts_have_hashes_of_their_own(cohort):
    recordings = Recordings.of([cohort.store])
    table = recordings.table
    both = Recordings(recordings.stores, table.assign(cohort="other"))
    assert len(set(recordings.hashes) | set(both.hashes)) == 48
