"""Re-identification in validation, through the real command line."""

import numpy as np
import pytest
import torch
from tiny import door, scalars, state

from brainlm_lightning.callbacks.embedding_monitor import NAME

MONITOR = "[{class_path: brainlm_lightning.callbacks.embedding_monitor.EmbeddingMonitor, init_args: {parts: 1}}]"


def test_a_fit_says_whether_the_embedding_finds_the_person_and_trains_as_without(runs):
    with_it = door("fit", runs, {"trainer.callbacks": MONITOR, "trainer.val_check_interval": 1})
    (steps, values), subjects = zip(*scalars(with_it, NAME).items(), strict=True), scalars(with_it, f"{NAME}_subjects")
    assert len(steps) == 2
    assert set(subjects.values()) == {float(next(iter(subjects.values())))}
    number = next(iter(subjects.values()))
    assert all(value * 2 * number == pytest.approx(round(value * 2 * number)) for value in values)
    assert min(values) > 2 / number  # connectivity of 50 frames tells simulated people apart
    without = door("fit", runs, {"trainer.val_check_interval": 1})
    kept, plain = (state(folder / "checkpoints" / "best.ckpt") for folder in (with_it, without))
    assert all(torch.equal(kept[name], plain[name]) for name in plain if name.startswith("/state_dict"))
    assert np.isfinite(values).all()


def test_windows_too_long_for_two_halves_are_one_message(runs):
    with pytest.raises(SystemExit, match="0 validation subjects have two windows"):
        door("fit", runs, {"trainer.callbacks": MONITOR, "data.window_frames": 60})
