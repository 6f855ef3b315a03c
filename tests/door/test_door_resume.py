import random
import signal
import time

import lightning.pytorch as pl
import pytest
from tiny import CONFIG, arguments, differing, door, finish, newest, process, run_main, scalars, state

from brainlm_lightning.data.store import Store
from brainlm_lightning.run_folder import read_metrics

STEPS = {"trainer.max_steps": 12, "trainer.val_check_interval": 3}
EPOCH = 5  # steps


class CrashError(BaseException):
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


class CrashInValidation(pl.Callback):
    """Cuts the power at the beginning of a validation, counted from 1."""

    def __init__(self, number: int) -> None:
        self.left = number

    def on_validation_start(self, trainer, pl_module) -> None:
        self.left -= not trainer.sanity_checking
        if self.left == 0:
            raise CrashError


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


STATUS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.mark.parametrize("how", STATUS)
def test_a_process_killed_at_any_moment_can_be_resumed_exactly(how, runs, long_run):
    running = process("fit", runs, LONG)
    while running.poll() is None and not list(runs.glob("*/*/checkpoints/last.ckpt")):
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.5))
    running.send_signal(how)
    status, output = finish(running)
    assert status == STATUS[how], output
    last = last_of(newest(runs))
    assert 0 < state(last)["/global_step"] < 150
    assert how == signal.SIGKILL or f"{how.name} received: " in output
    assert how == signal.SIGKILL or "--trainer.max_steps=150 --trainer.val_check_interval=50" in output
    assert how == signal.SIGKILL or f" --ckpt_path={last}" in output
    assert "Traceback" not in output
    resumed = door("fit", runs, {**LONG, "ckpt_path": last})
    assert differing(long_run, last_of(resumed)) == []


class SignalInValidation(pl.Callback):
    """Asks to stop in a validation, counted from 1."""

    def __init__(self, number: int, by: int) -> None:
        self.left, self.by = number, by

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self.left -= batch_idx == 0 and not trainer.sanity_checking
        if self.left == 0:
            signal.raise_signal(self.by)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_validation_stops_it_at_once(how, runs, caplog):
    settings = {"checkpoint_every": 1000, "data.micro_batch_size": 2, **STEPS, "trainer.val_check_interval": 6}
    whole = door("fit", runs, settings)
    callback = {"trainer.callbacks+": f"{__name__}.SignalInValidation", "trainer.callbacks.number": 2}
    with pytest.raises(SystemExit) as ended:
        door("fit", runs, {**settings, **callback, "trainer.callbacks.by": int(how)})
    assert ended.value.code == STATUS[how]
    last = last_of(newest(runs))
    assert state(last)["/global_step"] == 6
    assert f"{how.name} received: {last} was saved before this validation" in caplog.text
    assert signal.getsignal(how) != signal.SIG_IGN
    resumed = door("fit", runs, {**settings, "ckpt_path": last})
    assert differing(last_of(whole), last_of(resumed)) == []
    assert results(resumed) == results(whole)


def test_half_written_checkpoints_of_killed_runs_are_removed_by_the_next(runs):
    left = last_of(door("fit", runs)).with_name("last.ckpt.1.part")
    left.touch()
    door("fit", runs)
    assert not left.exists()


STILL = STEPS | {"model.init_args.optimisation.learning_rate": 0, "checkpoint_every": 3}  # the first validation is best
STOPPING = {
    "trainer.callbacks+": "lightning.pytorch.callbacks.EarlyStopping",
    "trainer.callbacks.monitor": "val/loss",
    "trainer.callbacks.patience": 2,
}
PENDING = {  # settings, and the validation that the power cuts off
    "of the best checkpoint": (STILL, 1),
    "of a later checkpoint": (STILL, 2),
    "at the end of an epoch": (STILL | {"trainer.val_check_interval": EPOCH}, 1),
    "without a checkpoint of its own": (STILL | {"checkpoint_every": 1000}, 1),
    "with accumulation": (STILL | {"data.micro_batch_size": 2, "trainer.val_check_interval": 6}, 1),
    "after the last step": (STILL, 4),
    "before early stopping": (STILL | STOPPING, 2),
    "of early stopping": (STILL | STOPPING, 3),
}


@pytest.mark.parametrize("case", PENDING)
def test_a_validation_that_was_cut_off_is_made_first(case, runs):
    settings, number = PENDING[case]
    whole = door("fit", runs, settings)
    callback = {"trainer.callbacks+": f"{__name__}.CrashInValidation", "trainer.callbacks.number": number}
    with pytest.raises(CrashError):
        run_main([*arguments("fit", runs, settings), *(f"--{name}={value}" for name, value in callback.items())])
    resumed = door("fit", runs, settings | {"ckpt_path": last_of(newest(runs))})
    for name in ("best.ckpt", "last.ckpt"):
        assert differing(whole / "checkpoints" / name, resumed / "checkpoints" / name) == []
    assert results(resumed) == results(whole)
    validated, expected = (scalars(run, "val/r2") for run in (resumed, whole))
    assert validated == {step: value for step, value in expected.items() if step in list(expected)[number - 1 :]}


def results(run):
    """What `metrics.json` says, but for the speed."""
    return {name: value for name, value in read_metrics(run).items() if not name.startswith("speed/")}


def test_a_fit_killed_before_it_wrote_its_metrics_ends_with_them(runs, monkeypatch):
    settings = STEPS | {"trainer.val_check_interval": EPOCH}  # none after the last step
    whole = door("fit", runs, settings)
    (whole / "metrics.json").rename(whole / "expected.json")
    resumed = door("fit", runs, settings | {"ckpt_path": last_of(whole)})
    (whole / "expected.json").rename(whole / "metrics.json")
    assert "val/r2" in results(whole)
    assert results(resumed) == results(whole)
