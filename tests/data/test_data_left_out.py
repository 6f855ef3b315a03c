"""Whole sites left out: their recordings reach nothing that is trained, and are a test set of their own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainlm_lightning.checkpoint.start import TrainingMoments
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.left_out import LeftOut
from brainlm_lightning.data.split import assign_split

SITES = ("north", "south", "east")  # in turn
WITH_SITES = ("--recordings.columns.site=site", "--split.test=0.3")


def site_of(number):
    return SITES[number % len(SITES)]


def prepare(make_tiny_store, root, name="sited", poison=None, move=None):
    """A cohort of three sites; recordings of ``poison`` are wild, and those of one subject get another's name."""

    rng = np.random.default_rng(0)

    def alter(series, table):
        table["site"] = [site_of(number) for number in range(len(table))]
        for recording in table.loc[table["site"] == poison, "recording"]:
            series[recording][:] = 900 * rng.standard_normal(series[recording].shape) + 77
        if move:
            table.loc[table["recording"] == move[0], "subject"] = move[1]

    return make_tiny_store(root, *WITH_SITES, name=name, alter=alter)


@pytest.fixture(scope="module")
def sited(make_tiny_store, tmp_path_factory):
    return prepare(make_tiny_store, tmp_path_factory.mktemp("sited"))


def ready(folder, monkeypatch, values=("south",), **options):
    """After setup, as a Trainer would drive it."""
    monkeypatch.setenv("BRAINLM_DATA", str(folder.parent))
    left_out = LeftOut("site", tuple(values)) if values else None
    options = {"window_frames": 20, "global_batch_size": 4, "num_workers": 0} | options
    data = CohortDataModule("sited", leave_out=left_out, **options)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, strategy=strategy, accumulate_grad_batches=1)
    data.setup("fit")
    return data


def test_whole_sites_test_and_the_others_stand_where_their_hash_says(sited, monkeypatch):
    data = ready(sited, monkeypatch, ["south", "east"])
    subjects = data.recordings.table["subject_id"]
    split = [assign_split(subject, key="brainlm", val=0.2, test=0.3) for subject in subjects]
    kept = [row for row in range(24) if site_of(row) == "north"]
    expected = {name: [row for row in kept if split[row] == name] for name in ("train", "val", "test")}
    assert data.train_rows.tolist() == expected["train"]
    assert data.val_rows.tolist() == expected["val"]
    found = {of.name: of.rows.tolist() for of in data.test_sets}
    assert found == {"sited": expected["test"], "sited_left_out": [row for row in range(24) if row not in kept]}


def test_recordings_of_a_site_left_out_move_no_statistic_and_no_moment(make_tiny_store, sited, tmp_path, monkeypatch):
    wild = prepare(make_tiny_store, tmp_path / "wild", poison="south")
    moments = []
    for folder, values in ((sited, ["south"]), (wild, ["south"]), (wild, [])):
        data = ready(folder, monkeypatch, values)
        covariance = TrainingMoments(data, data.train_rows).covariance_PP
        moments.append((data.statistics().to_json(), covariance))
    (clean, clean_PP), (poisoned, poisoned_PP), (trained, _) = moments
    assert clean == poisoned
    assert torch.equal(clean_PP, poisoned_PP)
    assert trained != clean  # with the site in training the poison is seen


def test_windows_of_a_site_left_out_are_in_no_training_batch(sited, monkeypatch):
    data = ready(sited, monkeypatch, windows_per_recording=3)
    rows = torch.cat([batch["recording_index_B"] for _ in range(3) for batch in data.train_dataloader()])
    assert {site_of(int(row)) for row in rows} == {"north", "east"}
    tested = torch.cat([batch["recording_index_B"] for batch in data.test_dataloader()[1]])
    assert sorted(set(tested.tolist())) == [row for row in range(24) if site_of(row) == "south"]


def test_a_person_at_a_site_left_out_and_at_another_is_refused(make_tiny_store, tmp_path, monkeypatch):
    data = ready(prepare(make_tiny_store, tmp_path / "whole"), monkeypatch)
    table = data.recordings.table
    at_south = table["recording_id"].iloc[next(row for row in range(24) if site_of(row) == "south")]
    trained = table["subject_id"].iloc[data.train_rows[0]]
    torn = prepare(make_tiny_store, tmp_path / "torn", move=(at_south, trained))
    with pytest.raises(ValueError, match=f"1 subjects of the test cohort 'sited_left_out' .*, '{trained}' first"):
        ready(torn, monkeypatch)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (LeftOut("site", ("mars",)), r"no recording has site 'mars'; there are 'north' \(8\), 'south' \(8\)"),
        (LeftOut("scanner", ("a",)), "names the column 'scanner'; the table of recordings has .*site"),
    ],
)
def test_what_is_not_there_cannot_be_left_out(given, message, sited, monkeypatch):
    monkeypatch.setenv("BRAINLM_DATA", str(sited.parent))
    with pytest.raises(ValueError, match=message):
        CohortDataModule("sited", leave_out=given, window_frames=20).setup()


def test_nothing_is_no_choice():
    with pytest.raises(ValueError, match=r"leave_out.values is empty; name values of 'site', or set leave_out: null"):
        LeftOut("site", ())


def test_sites_without_a_window_cannot_be_tested(make_tiny_store, tmp_path, monkeypatch):
    def shorten(series, table):
        table["site"] = [site_of(number) for number in range(len(table))]
        for recording in table.loc[table["site"] == "east", "recording"]:
            series[recording] = series[recording][:30]

    make_tiny_store(tmp_path, *WITH_SITES, name="sited", alter=shorten)
    data = ready(tmp_path / "sited", monkeypatch, ["east", "south"], window_frames=40)
    split = data.recordings.table["split"]
    assert data.num_short == {"sited": 0, "sited_left_out": 8}
    assert ready(tmp_path / "sited", monkeypatch, [], window_frames=40).num_short == {
        "sited": sum(site_of(row) == "east" and split[row] == "test" for row in range(24))
    }
    with pytest.raises(ValueError, match=r"none of the 8 recordings left out .*the longest has 30"):
        ready(tmp_path / "sited", monkeypatch, ["east"], window_frames=40)


def test_a_task_with_folds_of_its_own_says_where_it_leaves_out(sited, monkeypatch):
    data = ready(sited, monkeypatch)
    with pytest.raises(ValueError, match=r"this one has model.init_args.folds.leave_out"):
        data.use_rows(data.train_rows, data.val_rows, data.test_sets, "fit")
