"""Re-identification in validation, through the real command line."""

import pytest
import torch
from tiny import door, scalars, state

from brainlm_lightning.callbacks.embedding_monitor import NAME

MONITOR = "[{class_path: brainlm_lightning.callbacks.embedding_monitor.EmbeddingMonitor, init_args: {parts: 1}}]"
SUBJECTS = 12


@pytest.fixture
def distinct(make_tiny_store, tmp_path, monkeypatch):
    """Folder for runs on people whose brains differ much, half of whom validate."""
    exact = ("--split.val=0.5", "--split.test=0.1", "--split.method=exact")
    make_tiny_store(tmp_path / "stores", *exact, subjects=2 * SUBJECTS, frames=400, loading_sd=0.5)
    monkeypatch.setenv("BRAINLM_DATA", str(tmp_path / "stores"))
    return tmp_path / "runs"


def test_a_fit_says_whether_the_embedding_finds_the_person_and_trains_as_without(distinct):
    with_it = door("fit", distinct, {"trainer.callbacks": MONITOR})
    assert list(scalars(with_it, f"{NAME}_subjects").values()) == [SUBJECTS]
    (found,) = scalars(with_it, NAME).values()
    assert found > 0.6  # chance is 1 / 12
    without = door("fit", distinct)
    kept, plain = (state(folder / "checkpoints" / "last.ckpt") for folder in (with_it, without))
    weights = [name for name in plain if name.startswith("/state_dict")]
    assert len(weights) > 10
    assert all(torch.equal(kept[name], plain[name]) for name in weights)


def test_windows_too_long_for_two_halves_are_one_message(runs):
    with pytest.raises(SystemExit, match="0 validation subjects have two windows"):
        door("fit", runs, {"trainer.callbacks": MONITOR, "data.window_frames": 60})
