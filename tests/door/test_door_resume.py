import random
import signal
import time

import lightning.pytorch as pl
import pytest
from tiny import CONFIG, differing, door, finish, newest, process, scalars, state

from brainlm_lightning.data.store import Store

STEPS = {"trainer.max_steps": 12, "trainer.val_check_interval": 3}
EPOCH = 5  # steps


class CrashError(Exception):
    """Stands for a power cut."""


class CrashAt(pl.Callback):
    """Cuts the power before a micro-batch, counted from 0 over the whole run."""

    def __init__(self, batch: int) -> None:
        self.left = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.left == 0:
            raise CrashError
        self.left -= 1


def crash(runs, settings, batch):
    """A fit without power from a micro-batch on; returns its last checkpoint."""
    callback = {"trainer.callbacks+": f"{__name__}.CrashAt", "trainer.callbacks.batch": batch}
    with pytest.raises(CrashError):
        door("fit", runs, {**settings, **callback})
    return newest(runs) / "checkpoints" / "last.ckpt"


def last_of(run):
    return run / "checkpoints" / "last.ckpt"


def test_the_tiny_cohort_has_the_epoch_that_is_meant_here(stores):
    assert (Store(stores / "tiny").recordings["split"] == "train").sum() // 4 == EPOCH


CASES = {  # settings, and the micro-batch before which the power goes
    "mid epoch": ({"checkpoint_every": 3}, 8),
    "after the end of an epoch": ({"checkpoint_every": 1000}, EPOCH + 3),
    "at the end of an epoch": ({"checkpoint_every": 1}, EPOCH),
    "validation at the end of an epoch": ({"trainer.val_check_interval": EPOCH}, EPOCH),
    "validation by epochs": ({"trainer.val_check_interval": "null", "trainer.check_val_every_n_epoch": 2}, EPOCH),
    "before a validation": ({"checkpoint_every": 1}, 3),
    "two workers": ({"checkpoint_every": 3, "data.num_workers": 2}, 8),
    "accumulation": ({"checkpoint_every": 1, "data.micro_batch_size": 2}, 2 * EPOCH + 5),
    "dropout": ({"checkpoint_every": 3, f"{CONFIG}.dropout": 0.2}, 8),
    "dropout, at the end of an epoch": ({f"{CONFIG}.dropout": 0.2, "data.micro_batch_size": 2}, 2 * EPOCH),
    "fixed ratio": ({"checkpoint_every": 3, "model.init_args.masking.ratio": 0.75}, 8),
    "several windows of a recording": ({"checkpoint_every": 3, "data.windows_per_recording": 2}, 11),
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_fit_ends_bit_for_bit_where_an_uninterrupted_one_does(case, runs):
    settings, batch = {**STEPS, **CASES[case][0]}, CASES[case][1]
    whole = door("fit", runs, settings)
    last = crash(runs, settings, batch)
    resumed = door("fit", runs, {**settings, "ckpt_path": last})
    assert 0 < len(scalars(resumed, "train/loss")) < 12
    assert differing(last_of(whole), last_of(resumed)) == []


def test_a_fit_may_be_resumed_again_and_again(runs):
    settings = {**STEPS, "checkpoint_every": 1}
    whole = door("fit", runs, settings)
    last = crash(runs, settings, EPOCH)
    for batch in (3, 2):  # of the resumed run: in the second epoch, then at its end
        last = crash(runs, {**settings, "ckpt_path": last}, batch)
    resumed = door("fit", runs, {**settings, "ckpt_path": last})
    assert list(scalars(resumed, "train/loss")) == [10, 11]
    assert differing(last_of(whole), last_of(resumed)) == []


@pytest.mark.parametrize("first", [EPOCH + 2, 2 * EPOCH])
def test_a_finished_fit_can_be_extended(runs, first):
    constant = {"model.init_args.optimisation.warmup_fraction": 0, "model.init_args.optimisation.final_rate": 1}
    whole = door("fit", runs, {**STEPS, **constant})
    part = door("fit", runs, {**STEPS, **constant, "trainer.max_steps": first})
    extended = door("fit", runs, {**STEPS, **constant, "ckpt_path": last_of(part)})
    assert differing(last_of(whole), last_of(extended)) == []


def test_the_best_so_far_outlives_a_crash(runs):
    settings = {**STEPS, "checkpoint_every": 4}
    best = {"model.init_args.optimisation.learning_rate": 0}  # the first validation stays the best
    last = crash(runs, settings | best, 10)
    crashed = last.with_name("best.ckpt")
    resumed = door("fit", runs, {**settings, **best, "ckpt_path": last}) / "checkpoints" / "best.ckpt"
    assert state(crashed)["/global_step"] == 3
    assert differing(crashed, resumed) == []


def test_training_goes_on_with_the_same_epochs_alone(runs):
    last = crash(runs, {**STEPS, "checkpoint_every": 3}, 8)
    with pytest.raises(SystemExit, match="the checkpoint's run has 5 micro-batches, here it has 11"):
        door("fit", runs, {**STEPS, "ckpt_path": last, "data.windows_per_recording": 2})


LONG = {"trainer.max_steps": 150, "trainer.val_check_interval": 50, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def long_run(stores, tmp_path_factory):
    """The last checkpoint of an uninterrupted fit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        return last_of(door("fit", tmp_path_factory.mktemp("long"), LONG))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_killed_at_any_moment_can_be_resumed_exactly(how, runs, long_run):
    running = process("fit", runs, LONG)
    while running.poll() is None and not list(runs.glob("*/*/checkpoints/last.ckpt")):
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.5))
    running.send_signal(how)
    status, output = finish(running)
    assert status == {signal.SIGKILL: -9, signal.SIGTERM: 143}[how], output
    last = last_of(newest(runs))
    assert 0 < state(last)["/global_step"] < 150
    assert how == signal.SIGKILL or f"go on with --ckpt_path {last}" in output
    resumed = door("fit", runs, {**LONG, "ckpt_path": last})
    assert differing(long_run, last_of(resumed)) == []
