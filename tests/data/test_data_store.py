import json
import pickle
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import RobustScaler

from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.shard import StoredRecording
from brainlm_lightning.data.split import assign_split
from brainlm_lightning.data.store import Store, store_root
from brainlm_lightning.data.verify import verify
from brainlm_lightning.data.write import Cohort, write_store

PLAN = {"key": "k", "val": 0.2, "test": 0.2}
PARCELS = 5
DEAD = {2: [3], 5: [0, 1]}  # recording -> unobserved parcels


def raw_recordings(poison=0.0):
    rng = np.random.default_rng(0)
    series = [rng.normal(1e4, 50, (40 + 3 * number, PARCELS)).astype(np.float32) for number in range(10)]
    for number, values in enumerate(series):
        if assign_split(f"s{number // 2}", **PLAN) != "train":
            values += np.float32(poison)
    return series


def write(folder, dtype="float16", poison=0.0):
    recordings = [
        StoredRecording.centred(series, ~np.isin(np.arange(PARCELS), DEAD.get(number, [])), dtype)
        for number, series in enumerate(raw_recordings(poison))
    ]
    table = pd.DataFrame(
        {
            "recording_id": [f"r{number:02d}" for number in range(10)],
            "subject_id": [f"s{number // 2}" for number in range(10)],
            **{"session": None, "task": "rest", "site": None, "tr_s": 1.0, "problems": None},
            "num_frames": [len(recording.series) for recording in recordings],
            "split": [assign_split(f"s{number // 2}", **PLAN) for number in range(10)],
            "sha256": [recording.sha256 for recording in recordings],
            "num_unobserved": [int((~recording.observed).sum()) for recording in recordings],
            "age": np.linspace(20, 80, 10),
        }
    )
    parcels = {"index": range(1, 6), "label": list("abcde"), "network": "none", "x_mm": 0.5, "y_mm": 1.0, "z_mm": 2.0}
    made_by = {"manifest": {"split": PLAN}, "manifest_sha256": "0"}
    cohort = Cohort("toy", Atlas("five", pd.DataFrame(parcels)), 1.0, dtype, made_by)
    folder.mkdir(parents=True)
    write_store(folder, cohort, table, recordings.__getitem__, shard_recordings=4)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("stores") / "toy")


@pytest.fixture
def damaged(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "damaged")


def test_raw_values_come_back_within_half_a_step_of_float16(folder):
    store = Store(folder)
    assert (store.name, store.tr_s, store.dtype, len(store)) == ("toy", 1.0, np.float16, 10)
    for row, series in enumerate(raw_recordings()):
        # Centred values stay below 256, where float16 has steps of 1/8; the mean adds half a step of float32 at 1e4.
        expected = np.where(np.isin(np.arange(PARCELS), DEAD.get(row, [])), np.nan, series)
        np.testing.assert_allclose(store.raw(row), expected, rtol=0, atol=1 / 16 + 1e-3)


def test_float32_keeps_every_digit_of_the_centred_values(tmp_path):
    store = Store(write(tmp_path / "toy", "float32"))
    for row, series in enumerate(raw_recordings()):
        centred = series.astype(np.float64) - store.mean(row)
        seen = store.observed(row)
        np.testing.assert_array_equal(store.series(row)[:, seen], centred.astype(np.float32)[:, seen])


def test_unobserved_parcels_are_zero_and_say_so(folder):
    store = Store(folder)
    assert store.observed(5).tolist() == [False, False, True, True, True]
    assert not store.series(5)[:, :2].any()
    assert store.mean(5)[:2].tolist() == store.std(5)[:2].tolist() == [0, 0]
    assert np.isnan(store.raw(5)[:, :2]).all()


def test_std_is_the_population_sd_of_what_is_stored(folder):
    store = Store(folder)
    for row in range(10):
        np.testing.assert_allclose(store.std(row), store.series(row).astype(np.float64).std(axis=0), rtol=1e-7)


def test_series_is_what_hdf5_reads_and_cannot_be_written(folder):
    store = Store(folder)
    entry = store.recordings.iloc[6]
    with h5py.File(folder / f"shard-{entry['shard']:05d}.h5") as file:
        dataset = file["series"]
        assert dataset.chunks is None
        assert dataset.compression is None
        expected = dataset[entry["first_frame"] : entry["first_frame"] + entry["num_frames"]]
        np.testing.assert_array_equal(store.mean(6), file["mean"][entry["shard_row"]])
    np.testing.assert_array_equal(store.series(6), expected)
    with pytest.raises(ValueError, match="read-only"):
        store.series(6)[0, 0] = 1


def test_statistics_are_the_robust_scaler_of_the_training_frames(folder):
    store = Store(folder)
    rows = np.flatnonzero(store.recordings["split"] == "train")
    assert 0 < len(rows) < 10
    for name, read in (("robust", store.raw), ("robust_centred", store.centred)):
        expected = RobustScaler().fit(np.concatenate([read(row) for row in rows]).astype(np.float64))
        found = getattr(store.statistics, name)
        np.testing.assert_array_equal(found.centre, expected.center_)
        np.testing.assert_array_equal(found.scale, expected.scale_)
    assert store.statistics.num_recordings == len(rows)
    assert store.statistics.num_subjects == len(rows) // 2


def test_poisoned_test_subjects_move_no_statistic(folder, tmp_path):
    poisoned = Store(write(tmp_path / "toy", poison=3e4))
    clean = Store(folder)
    assert poisoned.raw(int(np.flatnonzero(clean.recordings["split"] == "test")[0]))[0, 2] > 3e4
    assert poisoned.metadata["statistics"] == clean.metadata["statistics"]


def test_an_open_store_can_be_pickled(folder):
    store = Store(folder)
    before = store.series(3).copy()
    state = pickle.dumps(store)
    assert len(state) == len(pickle.dumps(Store(folder)))  # no series travels along
    np.testing.assert_array_equal(pickle.loads(state).series(3), before)


def test_the_same_recordings_give_the_same_bytes(folder, tmp_path):
    again = write(tmp_path / "toy")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["parcels.csv", "recordings.csv", *(f"shard-0000{k}.h5" for k in range(3)), "store.json"]
    for name in names:
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_a_sound_store_verifies(folder):
    assert verify(folder) == []


def test_one_flipped_bit_is_found_and_names_the_recording(damaged):
    store = Store(damaged)
    entry, start = store.recordings.iloc[6], store.metadata["shards"][1]["offsets"]["series"]
    place = start + (entry["first_frame"] + 7) * PARCELS * 2 + 3
    content = bytearray((damaged / "shard-00001.h5").read_bytes())
    content[place] ^= 0x10
    (damaged / "shard-00001.h5").write_bytes(content)
    problems = verify(damaged)
    assert any("'r06'" in problem and "bytes changed" in problem for problem in problems)
    assert not any("'r05'" in problem or "'r07'" in problem for problem in problems)


@pytest.mark.parametrize("array", ["mean", "std", "observed"])
def test_a_flipped_bit_beside_the_series_is_found(damaged, array):
    place = Store(damaged).metadata["shards"][0]["offsets"][array] + (8 if array == "observed" else 4 * 8)
    content = bytearray((damaged / "shard-00000.h5").read_bytes())
    content[place] ^= 0x80
    (damaged / "shard-00000.h5").write_bytes(content)
    assert any("'r01'" in problem for problem in verify(damaged))


def test_a_truncated_shard_names_its_first_damaged_recording(damaged):
    path = damaged / "shard-00001.h5"
    size = path.stat().st_size
    with path.open("rb+") as file:
        file.truncate(size - 100)
    with pytest.raises(ValueError, match=rf"{size - 100:,} bytes, expected {size:,}: 1 recordings.*'r07'"):
        Store(damaged)
    assert "'r07'" in verify(damaged)[0]


def test_a_lost_shard_names_all_its_recordings(damaged):
    (damaged / "shard-00002.h5").unlink()
    with pytest.raises(ValueError, match=r"0 bytes.*2 recordings.*'r08'"):
        Store(damaged)


def test_a_subject_moved_to_another_split_is_found(damaged):
    path = damaged / "recordings.csv"
    path.write_text(path.read_text().replace(",train,", ",test,", 1))
    problems = " ".join(verify(damaged))
    assert "recordings.csv: changed" in problems
    assert "its hash says train" in problems
    assert "not those of the training subjects" in problems


def test_a_store_that_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prepare --config data_manifests/ukb\.yaml"):
        Store(tmp_path / "ukb")


def test_another_format_version_is_refused(damaged):
    path = damaged / "store.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(ValueError, match="format version 99, this package reads 1"):
        Store(damaged)


def test_store_root_follows_the_environment(monkeypatch):
    monkeypatch.setenv("BRAINLM_DATA", "/data/brains")
    assert str(store_root()) == "/data/brains"
    monkeypatch.delenv("BRAINLM_DATA")
    assert str(store_root()) == "stores"


@pytest.mark.parametrize("offset", [-4096, 1 << 40])
def test_arrays_outside_of_their_file_are_refused(tiny_store, tmp_path, offset):
    folder = tmp_path / "forged"
    shutil.copytree(tiny_store, folder)
    metadata = json.loads((folder / "store.json").read_text())
    metadata["shards"][0]["offsets"]["series"] = offset
    (folder / "store.json").write_text(json.dumps(metadata))
    with pytest.raises(
        ValueError, match=r"series of shard-00000\.h5 would lie from byte|offsets.series is '-4096', expected an offset"
    ):
        Store(folder)


def test_a_store_made_before_families_and_missing_frames_opens(tiny_store, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(tiny_store, folder)
    table = pd.read_csv(folder / "recordings.csv", dtype=str, keep_default_na=False)
    further = ["family", "num_missing_frames", "missing_frames", "remarks"]
    table.drop(columns=further).to_csv(folder / "recordings.csv", index=False)
    store = Store(folder)
    np.testing.assert_array_equal(store.raw(3), Store(tiny_store).raw(3))
    assert not store.missing_frames(3).any()
    assert set(store.recordings["family"]) == {""}


@pytest.mark.parametrize(("column", "value"), [("first_frame", -1), ("num_frames", 10_000)])
def test_frames_that_are_in_no_shard_are_refused(column, value, damaged):
    path = damaged / "recordings.csv"
    table = pd.read_csv(path)
    table.loc[5, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"frames of shard-00001\.h5 that are not there"):
        Store(damaged)
