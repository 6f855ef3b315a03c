"""The DataModule: who trains, who tests, and that nothing of the one reaches the other."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainlm_lightning.checkpoint.start import TrainingMoments
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.split import assign_split
from brainlm_lightning.data.store import Store
from brainlm_lightning.data.windows import scale_on_device
from brainlm_lightning.evaluation.covariance import lagged_moments
from brainlm_lightning.tasks.reconstruction.task import PretrainTask


def trainer(world_size=1, rank=0):
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(world_size=world_size, global_rank=rank, strategy=strategy, accumulate_grad_batches=1)


def ready(cohorts="tiny", stage="fit", driver=None, **options):
    """A DataModule after setup, as a Trainer would drive it."""
    options = {"window_frames": 20, "global_batch_size": 4, "num_workers": 0} | options
    data = CohortDataModule(cohorts, **options)
    data.trainer = driver or trainer()
    data.setup(stage)
    return data


def names(data, rows, column="subject_id"):
    return data.recordings.table[column].iloc[rows].tolist()


def same(batches, others):
    assert len(batches) == len(others)
    return all(torch.equal(one[key], other[key]) for one, other in zip(batches, others, strict=True) for key in one)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of stores for one test."""
    monkeypatch.setenv("BRAINLM_DATA", str(tmp_path))
    return tmp_path


# -- who trains and who tests ---------------------------------------------------------------------------------------


def test_subjects_stand_where_their_hash_says(tiny_store):
    data = ready()
    table = Store(tiny_store).recordings
    expected = [assign_split(subject, key="brainlm", val=0.2, test=0.2) for subject in table["subject_id"]]
    by_split = {split: [row for row in range(24) if expected[row] == split] for split in ("train", "val", "test")}
    assert data.train_rows.tolist() == by_split["train"]
    assert data.val_rows.tolist() == by_split["val"]
    assert [(of.name, of.rows.tolist()) for of in data.test_sets] == [("tiny", by_split["test"])]


def test_short_recordings_and_duplicates_are_left_out(root, make_tiny_store):
    def alter(series, table):
        series[table["recording"][3]] = series[table["recording"][3]][:30]
        series[table["recording"][5]] = series[table["recording"][4]]

    make_tiny_store(root, alter=alter)
    whole = ready(window_frames=30)
    assert {3, 4} <= set(whole.train_rows.tolist()) | set(whole.val_rows.tolist())
    data = ready(window_frames=40)
    used = {*data.train_rows.tolist(), *data.val_rows.tolist(), *data.test_sets[0].rows.tolist()}
    assert set(range(24)) - used == {3, 5}


def test_recordings_without_a_usable_parcel_are_in_no_schedule(root, make_tiny_store, caplog):
    def alter(series, table):
        for row in range(0, 24, 5):
            series[table["recording"][row]][:] = 7

    make_tiny_store(root, "--split.method=exact", alter=alter)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        data = ready()
    used = {*data.train_rows.tolist(), *data.val_rows.tolist(), *data.test_sets[0].rows.tolist()}
    assert set(range(24)) - used == {0, 5, 10, 15, 20}
    assert not data.usable[::5].any()
    assert "5 without a usable parcel" in caplog.text


def with_gaps(series, table):
    """Frames without data: in recording 0 three, in 1 so many that no window of 20 frames is left."""
    for row, missing in ((0, [0, 1, 33]), (1, range(0, 60, 12))):
        series[table["recording"][row]][missing] = 0


def test_windows_hold_no_frame_that_is_marked_as_missing(root, make_tiny_store, caplog):
    make_tiny_store(root, "--split.val=0", "--split.test=0", alter=with_gaps, name="gapped")
    make_tiny_store(root)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        data = ready({"gapped": 1.0, "tiny": 1.0}, windows_per_recording=40)
    assert "1 without 20 frames in a row that have data" in caplog.text
    assert "missing_frames: interpolate" in caplog.text
    first, second = np.flatnonzero(data.recordings.table["cohort"] == "gapped")[:2]
    assert first in data.train_rows
    assert second not in data.train_rows
    windows = data.schedule.epoch(0)
    starts = set(windows.starts[windows.rows == first].tolist())
    assert starts <= {*range(2, 14), *range(34, 41)}
    assert len(starts) > 12
    tested = [batch["start_B"].tolist() for batch in data.evaluation_loader(np.array([first, second]))]
    assert tested == [[2, 34]]
    lengths = [series_PT.shape[1] for series_PT, _ in data.scaled_recordings(np.array([first, second]))]
    assert lengths == [31, 26]
    whole, _ = data.dataset.scaled_recording(int(first))
    fitted = [series_PT for series_PT, _ in data.scaled_recordings(np.array([first]))]
    np.testing.assert_array_equal(np.concatenate(fitted, axis=1), whole[:, [*range(2, 33), *range(34, 60)]])


def test_interpolated_frames_are_data_where_the_manifest_says_so(root, make_tiny_store):
    make_tiny_store(root, "--missing_frames=interpolate", alter=with_gaps)
    data = ready(windows_per_recording=40)
    assert data.usable.all()
    assert data.places.room(np.arange(24)).tolist() == [41] * 24


def test_a_split_whose_windows_all_hold_missing_frames_says_what_to_do(root, make_tiny_store):
    def alter(series, table):
        for name in table["recording"]:
            series[name][::12] = 0

    make_tiny_store(root, alter=alter)
    with pytest.raises(ValueError, match=r"missing frames in every window.*data\.window_frames lower.*interpolate"):
        ready()


def test_a_test_cohort_is_tested_whole(root, make_tiny_store):
    make_tiny_store(root)
    make_tiny_store(root, name="other", seed=1)
    data = ready(test_cohorts=["other"])
    assert [of.name for of in data.test_sets] == ["tiny", "other"]
    assert names(data, data.test_sets[1].rows, "cohort") == ["other"] * 24
    assert set(names(data, data.train_rows, "cohort")) == {"tiny"}


def test_a_test_cohort_is_scaled_as_the_training_cohort_is(root, make_tiny_store):
    def alter(series, table):
        for values in series.values():
            values *= 3

    make_tiny_store(root)
    make_tiny_store(root, alter=alter, name="other", seed=1)
    data = ready(test_cohorts=["other"], eval_batch_size=100)
    robust, other = data.stores[0].statistics.robust, data.stores[1]
    (batch,) = list(data.test_dataloader()[1])
    scaled = scale_on_device(batch)["signal_BPT"]
    for window, (row, start) in enumerate(zip(batch["recording_index_B"] - 24, batch["start_B"], strict=True)):
        expected = (other.raw(int(row))[start : start + 20] - robust.centre) / robust.scale
        np.testing.assert_allclose(scaled[window], expected.T, rtol=1e-5, atol=1e-5)


def test_cohorts_that_train_together_are_scaled_each_by_its_own_statistics(root, make_tiny_store):
    def alter(series, table):
        for values in series.values():
            values *= 1000

    make_tiny_store(root)
    make_tiny_store(root, alter=alter, name="loud", seed=1)
    data = ready({"tiny": 1.0, "loud": 3.0})
    assert data.schedule.windows[1] == 3 * data.schedule.windows[0]
    for name in ("tiny", "loud"):
        rows = data.train_rows[np.array(names(data, data.train_rows, "cohort")) == name]
        pooled = np.concatenate([series_PT for series_PT, _ in data.scaled_recordings(rows)], axis=1)
        q25, median, q75 = np.quantile(pooled, [0.25, 0.5, 0.75], axis=1)
        np.testing.assert_allclose(median, 0, atol=1e-5)
        np.testing.assert_allclose(q75 - q25, 1, atol=1e-5)


@pytest.mark.parametrize("fractions", [(0.01, 0.3, 1.0)])
def test_a_fraction_keeps_whole_subjects_and_is_part_of_larger_ones(fractions, root, make_tiny_store):
    make_tiny_store(root, task_recordings=24)
    kept = [ready(train_fraction=fraction, global_batch_size=1).train_rows for fraction in fractions]
    data = ready(global_batch_size=1)
    training = len(set(names(data, data.train_rows)))
    for rows, fraction in zip(kept, fractions, strict=True):
        subjects = names(data, rows)
        assert len(set(subjects)) == max(1, round(fraction * training))
        assert {subjects.count(subject) for subject in subjects} == {2}
    assert set(kept[0]) < set(kept[1]) < set(kept[2])
    assert ready(train_fraction=0.3, global_batch_size=1).val_rows.tolist() == data.val_rows.tolist()


def test_a_fraction_is_scaled_by_its_own_subjects_alone(root, make_tiny_store):
    make_tiny_store(root)
    data = ready(train_fraction=0.3, global_batch_size=1)
    store = Store(root / "tiny")
    rows = np.flatnonzero(store.recordings["subject_id"].isin(names(data, data.train_rows)))
    assert 1 < len(rows) < (store.recordings["split"] == "train").sum() / 2
    values = np.concatenate([store.raw(row) for row in rows]).astype(np.float64)
    low, centre, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
    np.testing.assert_allclose(data.statistics().robust.centre, centre, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(data.statistics().robust.scale, high - low, rtol=1e-4)
    assert data.statistics().num_subjects == len(rows)


# -- leaks ----------------------------------------------------------------------------------------------------------


def poison(series, table):
    """Multiplies every recording of a subject that does not train by a million."""
    for name, subject in zip(table["recording"], table["subject"], strict=True):
        if assign_split(subject, key="brainlm", val=0.2, test=0.2) != "train":
            series[name] *= 1e6


def what_training_sees(stores, recipe, monkeypatch):
    monkeypatch.setenv("BRAINLM_DATA", str(stores))
    data = ready(scaling=recipe, windows_per_recording=2)
    task = PretrainTask()
    task.trainer = SimpleNamespace(datamodule=data)
    loader = data.train_dataloader()
    batches = [scale_on_device(batch) for _ in range(2) for batch in loader]
    moments = TrainingMoments(data, data.train_rows)
    lagged = lagged_moments(data.scaled_recordings(data.train_rows), lags=(-1, 0))
    tested = next(iter(data.test_dataloader()[0]))["signal_BPT"]
    numbers = moments.covariance_PP, moments.autocovariance(20), *lagged
    return data.statistics().to_json(), batches, numbers, float(tested.float().abs().max())


@pytest.mark.parametrize("recipe", ["robust", "robust_centred", "recording_zscore"])
def test_poisoned_test_subjects_change_nothing_that_training_sees(
    recipe, tiny_stores, tmp_path, make_tiny_store, monkeypatch
):
    make_tiny_store(tmp_path, alter=poison)
    clean, poisoned = (what_training_sees(stores, recipe, monkeypatch) for stores in (tiny_stores, tmp_path))
    assert poisoned[0] == clean[0]
    assert len(clean[1]) == 18
    assert same(poisoned[1], clean[1])
    assert all(torch.equal(one, other) for one, other in zip(poisoned[2], clean[2], strict=True))
    assert poisoned[3] > 1e5 * clean[3]


# -- batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("world_size", "micro", "accumulate"), [(1, None, 1), (2, 1, 2), (4, None, 1)])
def test_any_number_of_devices_reads_one_sequence_of_global_batches(world_size, micro, accumulate, tiny_store):
    single = [batch["key_B"] for batch in ready().train_dataloader()]
    ranks = []
    for rank in range(world_size):
        driver = trainer(world_size, rank)
        keys = [batch["key_B"] for batch in ready(driver=driver, micro_batch_size=micro).train_dataloader()]
        assert driver.accumulate_grad_batches == accumulate
        ranks.append(torch.cat(keys).unflatten(0, (len(single), -1)))
    assert torch.equal(torch.stack(ranks, dim=2).flatten(1), torch.stack(single))


def test_workers_read_what_the_process_itself_reads(tiny_store):
    alone, helped = (list(ready(num_workers=count).train_dataloader()) for count in (0, 1))
    assert same(alone, helped)


@pytest.mark.parametrize(("asked", "cores", "readers"), [(2, 1, 1), (2, 2, 2), (4, 16, 4), (0, 1, 0)])
def test_there_are_no_more_readers_than_cores(asked, cores, readers, tiny_store, monkeypatch, caplog):
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))  # where torch looks
    with caplog.at_level("INFO"):
        data = ready(num_workers=asked)
    assert data.train_dataloader().num_workers == data.val_dataloader().num_workers == readers
    assert ("data.num_workers is 2; 1 read" in caplog.text) == (readers < asked)


def test_a_resumed_position_is_taken_up(tiny_store):
    data = ready()
    loader = data.train_dataloader()
    first, second = list(loader), list(loader)
    resumed = ready()
    resumed.load_state_dict({"epoch": 1, "batches": 3, "of": 4})
    assert same(list(resumed.train_dataloader()), second[3:])
    assert not same(first, second)


def test_validation_windows_are_the_same_in_each_epoch_and_cover_the_recordings(tiny_store):
    data = ready()
    loader = data.val_dataloader()
    first, second = list(loader), list(loader)
    assert same(first, second)
    starts = torch.cat([batch["start_B"] for batch in first]).tolist()
    assert starts == [0, 20, 40] * len(data.val_rows)


# -- errors ---------------------------------------------------------------------------------------------------------


def test_other_parcels_are_an_error(root, make_tiny_store):
    make_tiny_store(root)
    make_tiny_store(root, name="finer", parcels=18)
    make_tiny_store(root, name="moved", atlas_seed=1)
    with pytest.raises(ValueError, match=r"'tiny' and 'finer' have different parcels: .* with 16 and .* with 18"):
        ready(test_cohorts=["finer"])
    with pytest.raises(ValueError, match=r"'tiny' and 'moved' have different parcels"):
        ready({"tiny": 1.0, "moved": 1.0})


def test_another_frame_interval_is_an_error(root, make_tiny_store):
    make_tiny_store(root)
    make_tiny_store(root, "--tr_s=2", name="slow", tr_s=2.0)
    with pytest.raises(ValueError, match=r"'tiny' has a frame every 1.0 s, 'slow' every 2.0 s; prepare both"):
        ready(test_cohorts=["slow"])


def same_people(series, table):
    table["subject"] = [f"tiny-{number:05d}" for number in range(len(table))]


def test_a_subject_on_both_sides_is_an_error(root, make_tiny_store):
    make_tiny_store(root)
    make_tiny_store(root, "--split.key=another", alter=same_people, name="other")
    with pytest.raises(ValueError, match=r"subjects are in two splits, 'tiny-\d+' first; prepare .* one split key"):
        ready({"tiny": 1.0, "other": 1.0})


def families_of(first):
    """Families of two; a family has the same name in every cohort, and subjects have other names in each."""

    def alter(series, table):
        table["family"] = [f"F{number // 2}" for number in range(len(table))]
        table["subject"] = [f"{first}{number}" for number in range(len(table))]

    return alter


def test_a_family_on_both_sides_is_an_error(root, make_tiny_store):
    for name, key in (("tiny", "a"), ("other", "b")):
        options = ("--recordings.columns.family=family", f"--split.key={key}")
        make_tiny_store(root, *options, name=name, alter=families_of(name))
    with pytest.raises(ValueError, match="families are in two splits, 'family F"):
        ready({"tiny": 1.0, "other": 1.0})


def test_testing_on_relatives_of_people_who_train_is_an_error(root, make_tiny_store):
    for name in ("tiny", "other"):
        make_tiny_store(root, "--recordings.columns.family=family", name=name, alter=families_of(name))
    with pytest.raises(ValueError, match="relatives of subjects of the test cohort 'other' train or validate"):
        ready(test_cohorts=["other"])


def test_cohorts_of_the_same_people_and_one_key_train_together(root, make_tiny_store):
    make_tiny_store(root)
    make_tiny_store(root, alter=same_people, name="other")
    data = ready({"tiny": 1.0, "other": 1.0})
    assert not set(names(data, data.train_rows)) & set(names(data, np.concatenate([s.rows for s in data.test_sets])))


@pytest.mark.parametrize("fraction", [1.0, 0.05])
def test_testing_on_people_who_train_is_an_error(fraction, root, make_tiny_store):
    """Also where `train_fraction` leaves them out: the scaling statistics have seen them."""
    make_tiny_store(root)
    make_tiny_store(root, alter=same_people, name="other")
    with pytest.raises(ValueError, match=r"21 subjects of the test cohort 'other' train or validate, 'tiny-00000'"):
        ready(test_cohorts=["other"], train_fraction=fraction)


def test_testing_on_people_who_validate_is_an_error(root, make_tiny_store):
    def strangers_for_training_subjects(series, table):
        same_people(series, table)
        split = [assign_split(subject, key="brainlm", val=0.2, test=0.2) for subject in table["subject"]]
        table.loc[np.array(split) == "train", "subject"] += "-stranger"

    make_tiny_store(root)
    make_tiny_store(root, alter=strangers_for_training_subjects, name="other")
    with pytest.raises(ValueError, match="2 subjects of the test cohort 'other' train or validate"):
        ready(test_cohorts=["other"])


@pytest.mark.parametrize(
    ("micro", "world_size", "advice"),
    [(None, 1, "data.global_batch_size to 19 or less, or set"), (3, 2, "data.global_batch_size to 18 or less, or set")],
)
def test_a_cohort_smaller_than_the_global_batch_is_an_error_with_both_ways_out(micro, world_size, advice, tiny_store):
    options = {"micro_batch_size": micro, "driver": trainer(world_size)}
    with pytest.raises(ValueError, match=rf"19 training windows, .* 60: set {advice} data.windows_per_.* to 4 or"):
        ready(global_batch_size=60, **options)
    assert ready(global_batch_size=60, windows_per_recording=4, **options).schedule.num_batches == 1
    assert ready(global_batch_size=18, **options).schedule.num_batches == 1


def test_no_batch_size_is_advised_that_does_not_work(tiny_store):
    with pytest.raises(ValueError, match=r"fewer than global_batch_size 40: set data\.windows_per_recording to 3"):
        ready(global_batch_size=40, micro_batch_size=20)


@pytest.mark.parametrize(("split", "stage"), [("val", "fit"), ("test", "test")])
def test_an_empty_split_is_an_error(split, stage, root, make_tiny_store):
    make_tiny_store(root, f"--split.{split}=0")
    with pytest.raises(ValueError, match=f"no subject of tiny is in the split '{split}'; raise split.{split} in the"):
        ready(stage=stage).test_dataloader()


def test_a_window_longer_than_every_recording_is_an_error(tiny_store):
    message = (
        "all 24 recordings of cohort 'tiny' are shorter than a window of 61 frames; the longest has 60. "
        "Set data.window_frames to 60 or less, a multiple of the model's patch_frames"
    )
    for stage in ("fit", "test"):
        with pytest.raises(ValueError, match=message):
            ready(window_frames=61, stage=stage)


@pytest.mark.parametrize(("split", "stage"), [("train", "fit"), ("val", "fit"), ("test", "test")])
def test_a_split_of_short_recordings_is_an_error(split, stage, root, make_tiny_store):
    def alter(series, table):
        for name, subject in zip(table["recording"], table["subject"], strict=True):
            if assign_split(subject, key="brainlm", val=0.2, test=0.2) == split:
                series[name] = series[name][:30]

    make_tiny_store(root, alter=alter)
    with pytest.raises(ValueError, match=rf"none of the \d+ .* of tiny in .* '{split}' .*: the longest has 30\."):
        ready(window_frames=40, stage=stage).test_dataloader()


def test_a_store_of_another_name_is_an_error(root, make_tiny_store):
    store = make_tiny_store(root)
    store.rename(root / "site2")
    make_tiny_store(root, name="other", seed=1)
    for options in ({"cohorts": "site2"}, {"cohorts": "other", "test_cohorts": ["site2"]}):
        with pytest.raises(ValueError, match=r"site2 holds the store of the cohort 'tiny', .* 'site2'.*--cohort site2"):
            ready(**options)
    with pytest.raises(ValueError, match="is a path; name a cohort, and set BRAINLM_DATA"):
        ready(str(root / "site2"))


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5])
def test_a_fraction_outside_0_to_1_is_an_error(fraction):
    with pytest.raises(ValueError, match=rf"train_fraction {fraction} is outside \(0, 1\]"):
        CohortDataModule("tiny", train_fraction=fraction)


def test_a_cohort_that_was_not_prepared_says_how(root):
    with pytest.raises(FileNotFoundError, match=r"no store in .*absent .* prepare --config data_manifests/absent.yaml"):
        ready("absent")
