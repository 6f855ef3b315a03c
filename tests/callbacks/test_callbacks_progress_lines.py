"""A log without a terminal: a line now and then, with the time left at the speed so far."""

from types import SimpleNamespace

import pytest
import torch

from brainlm_lightning.callbacks import progress_lines
from brainlm_lightning.callbacks.progress_lines import ProgressLines


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(progress_lines.time, "monotonic", lambda: now.s)
    return now


def trainer(step=0, total=300.0):
    metrics = {"train/loss": torch.tensor(0.35324), "val/r2": torch.tensor(0.4284), "speed/data_wait_share": 0.1}
    return SimpleNamespace(
        global_step=step,
        estimated_stepping_batches=total,
        callback_metrics=metrics,
        logged_metrics={},
        num_test_batches=[5, 15],
    )


def train(clock, steps, seconds_each, begin=0, total=300.0):
    lines = ProgressLines()
    lines.on_train_start(trainer(begin, total), None)
    for step in range(begin + 1, begin + steps + 1):
        clock.s += seconds_each
        lines.on_train_batch_end(trainer(step, total), None, None, None, step)


def test_the_time_left_follows_from_the_speed(clock, capsys):
    train(clock, 200, 1.0)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "step 20 of 300 (7 %): train/loss 0.3532, val/r2 0.4284, 20 s so far, 5 min left",
        "step 80 of 300 (27 %): train/loss 0.3532, val/r2 0.4284, 80 s so far, 4 min left",
        "step 140 of 300 (47 %): train/loss 0.3532, val/r2 0.4284, 2 min so far, 3 min left",
        "step 200 of 300 (67 %): train/loss 0.3532, val/r2 0.4284, 3 min so far, 2 min left",
    ]


def test_a_resumed_fit_counts_its_own_steps(clock, capsys):
    train(clock, 20, 1.0, begin=200)
    assert "step 220 of 300 (73 %)" in (told := capsys.readouterr().err)
    assert "20 s so far, 80 s left" in told


def test_without_a_known_end_no_time_is_left(clock, capsys):
    train(clock, 20, 1.0, total=float("inf"))
    assert capsys.readouterr().err == "step 20: train/loss 0.3532, val/r2 0.4284, 20 s so far\n"


def test_a_test_counts_the_batches_of_all_cohorts(clock, capsys):
    lines = ProgressLines()
    lines.on_test_start(trainer(), None)
    clock.s += 500  # the opponents
    lines.on_test_epoch_start(trainer(), None)
    for batch in range(10):
        clock.s += 3.0
        lines.on_test_batch_end(trainer(), None, None, None, batch)
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == "test: first everything that the model is compared with, then the test windows"
    assert rest == ["test batch 7 of 20 (35 %): 21 s so far, 39 s left"]


def test_only_the_first_rank_prints(clock, capsys):
    lines = ProgressLines()
    lines.disable()
    lines.on_test_start(trainer(), None)
    assert capsys.readouterr().err == ""
