import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest

from brainlm_lightning.data.convert import dead_parcels
from brainlm_lightning.data.listing import list_recordings
from brainlm_lightning.data.manifest import Manifest, load_manifest
from brainlm_lightning.data.prepare import prepare
from brainlm_lightning.data.resample import resample
from brainlm_lightning.data.sources import AtlasSource, RecordingColumns, RecordingsSource, SplitPlan
from brainlm_lightning.data.store import Store
from brainlm_lightning.data.verify import verify

PARCELS = 6
MANIFESTS = Path(__file__).resolve().parents[2] / "data_manifests"


def cohort(folder, recordings=8, frames=120):
    """Writes a healthy cohort of one recording a subject at tr_s = 2; returns its manifest."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    parcels = {"index": range(PARCELS), "label": "x", "x": 1.0, "y": 2.0, "z": 3.0}
    pd.DataFrame(parcels).to_csv(folder / "parcels.csv", index=False)
    names = [f"run/{number:02d}" for number in range(recordings)]
    for number in range(recordings):
        np.save(folder / f"{number:02d}.npy", rng.normal(1000, 5, (frames, PARCELS)).astype(np.float32))
    table = {"run": names, "file": [name[-2:] for name in names], "person": [f"s{k}" for k in range(recordings)]}
    pd.DataFrame(table | {"site": "A", "age": 30.5}).to_csv(folder / "runs.csv", index=False)
    return Manifest(
        cohort="toy",
        root=str(folder),
        atlas=AtlasSource("six", "parcels.csv", "index", "label", ["x", "y", "z"]),
        recordings=RecordingsSource(
            "runs.csv", "{file}.npy", RecordingColumns("run", "person", site="site"), tr_s=2.0, phenotypes=["age"]
        ),
        split=SplitPlan("k", 0.2, 0.2),
    )


@pytest.fixture
def healthy(tmp_path):
    return cohort(tmp_path / "files")


@pytest.fixture
def ill(tmp_path):
    """One recording of every kind of trouble."""
    manifest = cohort(tmp_path / "files")
    folder = Path(manifest.root)
    series = [np.load(folder / f"{number:02d}.npy") for number in range(8)]
    series[0][:, 2] = 1000.1  # dead, and not exactly a binary fraction
    series[1][7, 4] = np.nan
    series[2] = series[2][:80]  # 159 frames at 1 s
    series[3][:] = 5.0
    series[5] = series[4]
    series[6] = series[6].T
    for number, values in enumerate(series):
        np.save(folder / f"{number:02d}.npy", values)
    (folder / "07.npy").write_bytes((folder / "07.npy").read_bytes()[:500])
    return manifest


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_healthy_cohort_becomes_a_sound_store(healthy, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINLM_DATA", str(tmp_path / "stores"))
    folder = prepare(healthy, shard_recordings=3)
    assert folder == tmp_path / "stores" / "toy"
    assert verify(folder) == []
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]  # nothing is left beside it
    store = Store(folder)
    assert store.recordings["recording_id"].tolist() == [f"run/{number:02d}" for number in range(8)]
    assert store.recordings["problems"].tolist() == [""] * 8
    assert store.recordings["age"].tolist() == [30.5] * 8
    for row in range(8):
        expected = resample(np.load(Path(healthy.root) / f"{row:02d}.npy"), 2.0, 1.0)
        np.testing.assert_allclose(store.raw(row), expected, atol=2**-7)  # half of float16's step between 16 and 32


def test_marked_trouble_stays_in_the_store(ill, tmp_path):
    folder = prepare(ill, output=tmp_path / "toy")
    store = Store(folder)
    assert verify(folder) == []
    problems = store.recordings.set_index("recording_id")["problems"].to_dict()
    assert problems == {
        "run/00": "dead_parcels=1",
        "run/01": "non_finite_parcels=1",
        "run/02": "too_few_frames=159",
        "run/03": "dead_parcels=6;all_unobserved",
        "run/04": "",
        "run/05": "duplicate_of=run/04",
    }
    assert store.observed(0).tolist() == [True, True, False, True, True, True]
    assert store.observed(1).tolist() == [True, True, True, True, False, True]
    assert np.isfinite(store.raw(1)[:, store.observed(1)]).all()
    dropped = pd.read_csv(folder / "dropped.csv").set_index("recording_id")["problems"]
    assert dropped.index.tolist() == ["run/06", "run/07"]
    assert "got shape (6, 120), expected (frames, 6)" in dropped["run/06"]
    assert dropped["run/07"].startswith(f"unreadable: {ill.root}/07.npy: ")
    assert dropped["run/07"].endswith("Replace the file, or take the recording out of the table")


def test_dropping_leaves_only_healthy_recordings(ill, tmp_path):
    folder = prepare(replace(ill, policy="drop_recording"), output=tmp_path / "toy")
    assert Store(folder).recordings["recording_id"].tolist() == ["run/04"]
    assert len(pd.read_csv(folder / "dropped.csv")) == 7


def test_the_strict_policy_lists_the_troubles_and_makes_no_store(ill, tmp_path):
    with pytest.raises(ValueError, match=r"7 of 8 recordings(.|\n)*run/00: dead_parcels=1\n(.|\n)*run/07: unreadable"):
        prepare(replace(ill, policy="error"), output=tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


def test_nothing_usable_is_an_error_that_says_why(healthy, tmp_path):
    for path in Path(healthy.root).glob("*.npy"):
        path.unlink()
    with pytest.raises(ValueError, match=r"none of 8 recordings(.|\n)*no such file"):
        prepare(healthy, output=tmp_path / "toy")


def test_a_subject_at_two_sites_is_noted(healthy, tmp_path):
    table = pd.read_csv(Path(healthy.root) / "runs.csv", dtype=str)
    table.loc[[1, 2], ["person", "site"]] = [["s1", "A"], ["s1", "B+C"]]
    table.loc[3, "site"] = "D+E"
    table.to_csv(Path(healthy.root) / "runs.csv", index=False)
    problems = Store(prepare(healthy, output=tmp_path / "toy")).recordings["problems"].tolist()
    assert problems[:4] == ["", "subject_at_sites=A+B+C", "subject_at_sites=A+B+C", ""]


@pytest.mark.parametrize(("level", "spike", "refused"), [(1e4, 0, False), (0, 1e6, True), (0, 0, False)])
def test_float16_is_refused_only_where_it_costs_precision_of_the_centred_values(
    healthy, tmp_path, level, spike, refused
):
    series = np.random.default_rng(1).normal(level, 1, (120, PARCELS)).astype(np.float32)
    series[60, 3] += spike
    np.save(Path(healthy.root) / "04.npy", series)
    if not refused:
        assert verify(prepare(healthy, output=tmp_path / "toy")) == []
        return
    with pytest.raises(ValueError, match=r"'run/04', column 3 .*float16 costs inf .*dtype: float32"):
        prepare(healthy, output=tmp_path / "toy")
    assert verify(prepare(replace(healthy, dtype="float32"), output=tmp_path / "toy")) == []


def test_float16_is_refused_for_amplitudes_below_its_steps(healthy, tmp_path):
    series = np.random.default_rng(1).normal(0, 1, (120, PARCELS)).astype(np.float32)
    series *= 1e-5  # the whole recording: one such parcel beside others would be a dead one
    np.save(Path(healthy.root) / "02.npy", series)
    with pytest.raises(ValueError, match=r"'run/02', column \d+ "):
        prepare(healthy, output=tmp_path / "toy")


def test_an_existing_store_is_never_overwritten(healthy, tmp_path):
    folder = prepare(healthy, output=tmp_path / "toy")
    with pytest.raises(FileExistsError, match="toy is there already"):
        prepare(healthy, output=folder)


def test_a_store_has_the_same_bytes_with_one_process_and_with_two(healthy, tmp_path):
    one = prepare(healthy, output=tmp_path / "one", shard_recordings=3)
    two = prepare(healthy, output=tmp_path / "two", jobs=2, shard_recordings=3)
    assert contents(one) == contents(two)


def test_relative_paths_hold_for_workers_that_stand_in_another_folder(healthy, tmp_path, monkeypatch):
    joblib.Parallel(n_jobs=2)(joblib.delayed(os.getcwd)() for _ in range(2))  # the pool stays, in this folder
    monkeypatch.chdir(tmp_path)
    store = prepare(replace(healthy, root="files"), output=Path("store"), jobs=2)
    assert len(Store(store)) == 8
    assert store == tmp_path / "store"


def test_poisoned_test_subjects_move_no_training_statistic(healthy, tmp_path):
    clean = Store(prepare(healthy, output=tmp_path / "clean"))
    moved = clean.recordings["split"] != "train"
    assert 0 < moved.sum() < 8
    for row in np.flatnonzero(moved):
        path = Path(healthy.root) / f"{row:02d}.npy"
        np.save(path, np.load(path) * 7 + 300)
    poisoned = Store(prepare(healthy, output=tmp_path / "poisoned"))
    assert poisoned.metadata["statistics"] == clean.metadata["statistics"]
    assert set(poisoned.recordings["sha256"][moved]).isdisjoint(clean.recordings["sha256"][moved])


def test_changed_files_and_manifests_are_converted_anew(healthy, tmp_path, capsys):
    broken = replace(healthy, truth="absent.npz")
    with pytest.raises(FileNotFoundError, match="absent"):  # stops after the recordings were converted
        prepare(broken, output=tmp_path / "toy")
    np.save(Path(healthy.root) / "03.npy", np.random.default_rng(9).normal(0, 1, (110, PARCELS)))
    (Path(healthy.root) / "absent.npz").write_bytes(b"truth")
    damaged = sorted((tmp_path / "toy.part" / "recordings").glob("*05-*.npz"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-200])
    folder = prepare(broken, output=tmp_path / "toy")
    assert "converted by an earlier call │ 6 " in capsys.readouterr().out
    assert verify(folder) == []
    assert Store(folder).recordings["num_frames"].tolist() == [239, 239, 239, 219, 239, 239, 239, 239]
    assert (folder / "truth.npz").read_bytes() == b"truth"


def test_two_processes_cannot_prepare_one_store(healthy, tmp_path):
    (tmp_path / "toy.part" / "recordings").mkdir(parents=True)
    lock = str(tmp_path / "toy.part" / "lock")
    holder = f"import fcntl, time; f = open({lock!r}, 'w'); fcntl.flock(f, 2); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(RuntimeError, match="another process is preparing"):
            prepare(healthy, output=tmp_path / "toy")
        process.kill()


def test_of_two_processes_the_later_says_that_the_store_is_there(healthy, tmp_path, monkeypatch):
    def overtaken(*given):
        monkeypatch.undo()
        prepare(healthy, output=tmp_path / "toy")
        return list_recordings(*given)

    monkeypatch.setattr("brainlm_lightning.data.prepare.list_recordings", overtaken)
    with pytest.raises(FileExistsError, match="toy is there already"):
        prepare(healthy, output=tmp_path / "toy")
    assert [path.name for path in tmp_path.iterdir()] == ["files", "toy"]


def test_what_a_process_killed_after_it_had_finished_left_is_removed(healthy, tmp_path):
    folder = prepare(healthy, output=tmp_path / "toy")
    (tmp_path / "toy.part" / "recordings").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="toy is there already"):
        prepare(healthy, output=folder)
    assert not (tmp_path / "toy.part").exists()


def test_a_store_says_nothing_of_this_machine_and_runs_nothing_in_a_spreadsheet(healthy, tmp_path):
    table = pd.read_csv(Path(healthy.root) / "runs.csv", dtype=str)
    table["site"] = ["=HYPERLINK()", "-A", *["A"] * 6]
    table.to_csv(Path(healthy.root) / "runs.csv", index=False)
    folder = prepare(healthy, output=tmp_path / "toy")
    assert str(tmp_path) not in (folder / "store.json").read_text()
    assert Store(folder).recordings["site"].tolist()[:2] == ["=HYPERLINK()", "-A"]
    assert ",'=HYPERLINK()," in (folder / "recordings.csv").read_text()


def test_centroids_are_three_columns(healthy, tmp_path):
    atlas = replace(healthy.atlas, xyz_mm=["x", "x", "x"])
    with pytest.raises(ValueError, match="xyz_mm names the three columns x, y and z"):
        prepare(replace(healthy, atlas=atlas), output=tmp_path / "toy")


PREPARE = """
import pickle, sys
from brainlm_lightning.data.convert import dead_parcels
from brainlm_lightning.data.prepare import prepare
manifest, output, jobs = pickle.loads(sys.stdin.buffer.read())
print("ready", flush=True)
prepare(manifest, output=output, jobs=jobs, shard_recordings=5)
"""


def prepare_and_kill(manifest, output, jobs, seconds):
    """Kills a process that prepares, some time after it began."""
    command = [sys.executable, "-c", PREPARE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes) as process:
        process.stdin.write(pickle.dumps((manifest, output, jobs)))
        process.stdin.close()
        process.stdout.readline()
        time.sleep(seconds)
        process.kill()


def test_killed_anywhere_it_continues_to_the_same_bytes(tmp_path):
    manifest = cohort(tmp_path / "files", recordings=60, frames=400)
    begun = time.perf_counter()
    whole = contents(prepare(manifest, output=tmp_path / "whole", shard_recordings=5))
    duration, chance = time.perf_counter() - begun, random.Random(0)
    output = tmp_path / "toy"
    for jobs in (1, 2, 1, 1, 1):
        prepare_and_kill(manifest, output, jobs, chance.uniform(0, 1.1) * duration)
        if output.exists():  # then it was there whole before the kill
            assert contents(output) == whole
            shutil.rmtree(output)
    assert contents(prepare(manifest, output=output, shard_recordings=5)) == whole


@pytest.mark.parametrize(("cohort", "dead"), [("abide_cc400", 65), ("restpain_mist122", 9)])
def test_dead_parcels_of_real_recordings_are_unobserved(real_data, tmp_path, monkeypatch, cohort, dead):
    monkeypatch.setenv("BRAINLM_REAL_DATA", str(real_data))
    source = pd.read_csv(real_data / cohort / "recordings.tsv", sep="\t", dtype={"subject": str})
    if cohort == "abide_cc400":  # every recording with dead parcels, and some of the others
        source = pd.concat([source[source["n_const_parcels"] > 0], source[source["n_const_parcels"] == 0].head(10)])
    manifest = load_manifest(MANIFESTS / f"{cohort}.yaml")
    (tmp_path / "files").mkdir()
    for name in ("timeseries.npz", "parcels.tsv"):
        (tmp_path / "files" / name).symlink_to(real_data / cohort / name)
    source.to_csv(tmp_path / "files" / "recordings.tsv", sep="\t", index=False)
    folder = prepare(replace(manifest, root=str(tmp_path / "files")), output=tmp_path / "store")
    store = Store(folder)
    assert verify(folder) == []
    with np.load(real_data / cohort / "timeseries.npz") as raw:
        spreads = [raw[name].astype(np.float64).std(axis=0) for name in source["recording"]]
    expected = [int((spread < 1e-3 * np.median(spread[spread > 1e-9])).sum()) for spread in spreads]
    assert store.recordings["num_unobserved"].tolist() == expected
    assert (store.recordings["num_unobserved"] >= source["n_const_parcels"].to_numpy()).all()
    assert (store.recordings["num_unobserved"] > 0).sum() == dead
    assert np.isfinite(store.statistics.robust.scale).all()


def test_a_parcel_of_rounding_noise_is_dead_and_a_weak_one_is_not():
    series = np.random.default_rng(0).standard_normal((50, 6)) * [20, 20, 20, 2e-3, 2e-1, 0]
    assert dead_parcels(series, np.ones(6, bool)).tolist() == [False, False, False, True, False, True]


def test_a_duplicate_is_in_no_training_statistic(healthy, tmp_path):
    splits = Store(prepare(healthy, output=tmp_path / "clean")).recordings["split"]
    train = np.flatnonzero(splits == "train")
    original, double = int(train[0]), int(train[-1])  # filed under the later of two training subjects
    shutil.copyfile(Path(healthy.root) / f"{original:02d}.npy", Path(healthy.root) / f"{double:02d}.npy")
    store = Store(prepare(healthy, output=tmp_path / "doubled"))
    assert "duplicate_of" in store.recordings["problems"][double]
    values = np.concatenate([store.raw(row) for row in train[:-1]]).astype(np.float64)
    np.testing.assert_array_equal(store.statistics.robust.centre, np.quantile(values, 0.5, axis=0))
    assert store.statistics.num_recordings == len(train) - 1


def test_a_dask_cluster_makes_the_same_bytes(healthy, tmp_path):
    one, other = (prepare(healthy, output=tmp_path / name, backend=name) for name in ("loky", "dask"))
    assert (one / "shard-00000.h5").read_bytes() == (other / "shard-00000.h5").read_bytes()


def test_an_unknown_backend_and_one_that_is_not_installed_are_named(healthy, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"backend is 'spark'; expected one of loky, .*dask, ray"):
        prepare(healthy, output=tmp_path / "a", backend="spark")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="--backend ray needs a package: pip install ray"):
        prepare(healthy, output=tmp_path / "b", backend="ray")
