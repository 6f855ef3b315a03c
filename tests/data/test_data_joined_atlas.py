"""Cohorts of several atlases: every recording has the parcels of its own, and every batch is of one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.joined_atlas import JoinedAtlas, joined_statistics, part_of_statistics
from brainlm_lightning.data.windows import scale_on_device
from brainlm_lightning.tasks.networks.task import NetworkTask

BOTH = {"tiny": 1.0, "small": 1.0}


@pytest.fixture(scope="module")
def stores(make_tiny_store, tmp_path_factory):
    """Cohorts of 16 and of 12 parcels, the second one with other people."""
    root = tmp_path_factory.mktemp("several")
    make_tiny_store(root, subjects=24)
    make_tiny_store(root, "--split.val=0.2", name="small", seed=5, subjects=32, parcels=12)
    return root


@pytest.fixture
def ready(stores, monkeypatch):
    """A function that makes a DataModule of these cohorts, after its setup."""
    monkeypatch.setenv("BRAINLM_DATA", str(stores))

    def make(cohorts, stage="fit", several_atlases=True, **options):
        options = {"window_frames": 20, "global_batch_size": 4, "num_workers": 0} | options
        data = CohortDataModule(cohorts, several_atlases=several_atlases, **options)
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(world_size=1, global_rank=0, strategy=strategy, accumulate_grad_batches=1)
        data.setup(stage)
        return data

    return make


def test_the_whole_names_every_parcel_by_its_atlas_and_an_atlas_alone_is_itself(ready):
    first, second = (store.atlas for store in ready(BOTH).stores)
    joined = JoinedAtlas.of([first, second, first])
    assert joined.parts == {first.sha256: slice(0, 16), second.sha256: slice(16, 28)}
    assert joined.whole.parcels["label"].tolist()[15:17] == [
        f"{first.name}:{first.parcels['label'].iloc[15]}",
        f"{second.name}:{second.parcels['label'].iloc[0]}",
    ]
    assert joined.whole.parcels["index"].tolist() == list(range(1, 29))
    np.testing.assert_array_equal(joined.whole.xyz_mm, np.concatenate([first.xyz_mm, second.xyz_mm]))
    assert JoinedAtlas.of([first, first]).whole is first
    assert JoinedAtlas.of([first, first]).is_single


@pytest.mark.parametrize("scaling", ["robust", "recording_zscore"])
def test_a_recording_is_read_as_alone_in_its_own_parcels_and_has_no_others(ready, scaling):
    both = ready(BOTH, scaling=scaling)
    for number, (name, columns) in enumerate((("tiny", slice(0, 16)), ("small", slice(16, 28)))):
        alone = ready(name, scaling=scaling)
        mine = np.flatnonzero(both.recordings.table["store"] == number)
        windows = [scale_on_device(batch) for batch in alone.evaluation_loader(np.arange(len(mine)))]
        found = [scale_on_device(batch) for batch in both.evaluation_loader(mine)]
        for one, other in zip(found, windows, strict=True):
            assert torch.equal(one["signal_BPT"][:, columns], other["signal_BPT"])
            assert torch.equal(one["observed_BP"][:, columns], other["observed_BP"])
            others = torch.ones(28, dtype=torch.bool)
            others[columns] = False
            assert not one["observed_BP"][:, others].any()
            assert not one["signal_BPT"][:, others].any()
        whole, expected = next(both.scaled_recordings(mine)), next(alone.scaled_recordings(np.array([0])))
        np.testing.assert_array_equal(whole[0][columns], expected[0])
        assert whole[1].nonzero()[0].tolist() == (expected[1].nonzero()[0] + columns.start).tolist()


def test_recordings_of_two_atlases_are_read_together(ready):
    data = ready(BOTH)
    rows = np.array([np.flatnonzero(data.recordings.table["store"] == number)[0] for number in (1, 0, 1)])
    (batch,) = data.evaluation_loader(rows[:2])
    (one,), (other,) = (data.evaluation_loader(rows[at : at + 1]) for at in (0, 1))
    for name in batch:
        assert torch.equal(batch[name], torch.cat([one[name], other[name]]))


def test_every_training_batch_is_of_one_atlas_and_the_weights_hold(ready):
    data = ready({"tiny": 3.0, "small": 1.0}, windows_per_recording=20)
    store_R, of_epoch = data.recordings.table["store"].to_numpy(), []
    for batch in data.train_dataloader():
        (store,) = set(store_R[batch["recording_index_B"]].tolist())
        assert batch["observed_BP"].any(0).nonzero().flatten().tolist() == [[*range(16)], [*range(16, 28)]][store]
        of_epoch.append(store)
    first, second = of_epoch.count(0), of_epoch.count(1)
    assert first == data.schedule.windows[0] // 4
    assert second == data.schedule.windows[1] // 4
    assert first / second == pytest.approx(3, rel=0.05)
    changes = np.count_nonzero(np.diff(of_epoch))
    assert changes > second / 2  # mixed, not one atlas after the other


def test_each_atlas_is_scaled_by_its_own_training_subjects(ready):
    data, (first, second) = ready(BOTH), (ready(name) for name in BOTH)
    expected = joined_statistics([first.statistics(), second.statistics()])
    assert data.statistics().to_json() == expected.to_json()
    part = part_of_statistics(expected, slice(16, 28))
    np.testing.assert_array_equal(part.robust.scale, second.statistics().robust.scale)
    np.testing.assert_array_equal(part.robust_centred.centre, second.statistics().robust_centred.centre)


def test_a_tested_cohort_is_scaled_by_the_training_cohort_of_its_atlas(ready, make_tiny_store, stores):
    if not (stores / "further").is_dir():
        make_tiny_store(stores, name="further", seed=5, subjects=8, parcels=12)
    data = ready(BOTH, test_cohorts=["further"])
    tested = np.flatnonzero(data.recordings.table["cohort"] == "further")
    alone = ready("small", test_cohorts=["further"])
    mine = np.flatnonzero(alone.recordings.table["cohort"] == "further")
    for found, expected in zip(data.dataset.scaling(tested), alone.dataset.scaling(mine), strict=True):
        np.testing.assert_array_equal(found[:, 16:], expected)


def test_several_atlases_are_asked_for_and_only_pretraining_takes_them(ready):
    with pytest.raises(ValueError, match=r"16 .* 12; .* data.several_atlases: true"):
        ready(BOTH, several_atlases=False)
    with pytest.raises(ValueError, match="no training cohort has the atlas of the test cohort 'small'"):
        ready("tiny", test_cohorts=["small"])
    with pytest.raises(ValueError, match=r"windows, of one of the atlases fewer than global_batch_size 16"):
        ready({"tiny": 1.0, "small": 0.2}, global_batch_size=16)
    task = NetworkTask(pretrained="nowhere")
    task.trainer = SimpleNamespace(datamodule=ready(BOTH), world_size=1)
    with pytest.raises(ValueError, match="NetworkTask takes cohorts of one atlas"):
        task.setup("test")
