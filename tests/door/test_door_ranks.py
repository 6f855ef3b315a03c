import contextlib
import signal
import time

import psutil
import pytest
from tiny import door, finish, newest, process, scalars, state

from brainlm_lightning.run_folder import read_metrics

STEPS = {"trainer.max_steps": 6, "trainer.val_check_interval": 3, "checkpoint_every": 2}
RANKS = {"trainer.devices": 2, "trainer.strategy": "ddp"}
CURVES = ("train/loss", "train/r2", "val/r2", "val/loss")


@pytest.fixture(scope="module")
def one_rank(stores, tmp_path_factory):
    """Run folders of a fit and a test on one rank."""
    runs = tmp_path_factory.mktemp("one_rank")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        return door("fit", runs, STEPS), door("test", runs)


def on_two_ranks(verb, runs, settings):
    """Runs a command to its end; returns the run folder."""
    status, output = finish(process(verb, runs, settings | RANKS))
    assert status == 0, output
    return newest(runs)


def assert_same_curves(here, there):
    for tag in CURVES:
        expected = scalars(there, tag)
        assert scalars(here, tag) == {step: pytest.approx(expected[step], abs=1e-6) for step in scalars(here, tag)}


def test_two_ranks_train_as_one_does(one_rank, runs):
    fitted = on_two_ranks("fit", runs, STEPS)
    assert len(list(runs.glob("*/*"))) == 1
    assert list(scalars(fitted, "train/loss")) == [0, 1, 2, 3, 4, 5]
    assert_same_curves(fitted, one_rank[0])


def test_micro_batches_train_as_whole_ones_do(one_rank, runs):
    accumulated = door("fit", runs, {**STEPS, "data.micro_batch_size": 1, "trainer.val_check_interval": 12})
    assert list(scalars(accumulated, "train/loss")) == [0, 1, 2, 3, 4, 5]
    assert_same_curves(accumulated, one_rank[0])
    norms = [scalars(run, "train/gradient_norm") for run in (accumulated, one_rank[0])]
    assert norms[0] == pytest.approx(norms[1], abs=1e-5)


@pytest.mark.slow
def test_two_ranks_test_as_one_does(one_rank, runs):
    tested = on_two_ranks("test", runs, {"ckpt_path": one_rank[0] / "checkpoints" / "best.ckpt"})
    assert read_metrics(tested) == pytest.approx(read_metrics(one_rank[1]), abs=1e-6, nan_ok=True)


@pytest.mark.slow
def test_two_ranks_go_on_where_one_stopped(one_rank, runs):
    part = door("fit", runs, {**STEPS, "trainer.max_steps": 4, "model.init_args.optimisation.final_rate": 1})
    settings = {**STEPS, "ckpt_path": part / "checkpoints" / "last.ckpt", "model.init_args.optimisation.final_rate": 1}
    alone, together = door("fit", runs, settings), on_two_ranks("fit", runs, settings)
    assert list(scalars(together, "train/loss")) == [4, 5]
    assert_same_curves(together, alone)


def further_ranks(pid):
    """The ranks that a process has started; its other children, `git` for instance, are none."""
    ranks = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it ended meanwhile
            ranks += [child] if child.environ().get("LOCAL_RANK") == "1" else []
    return ranks


@pytest.mark.parametrize("seconds", [0.0, 3.0])
def test_a_rank_whose_first_rank_was_killed_at_the_start_ends_with_a_message(seconds, runs):
    running = process("fit", runs, {**STEPS, **RANKS})
    while running.poll() is None and not further_ranks(running.pid):
        time.sleep(0.02)
    time.sleep(seconds)
    running.kill()
    begun = time.monotonic()
    output = finish(running, timeout_s=60)[1]  # the other rank holds the pipe while it lives
    assert "rank 1 ends, because the process that started it" in output
    assert time.monotonic() - begun < 45


@pytest.mark.slow
def test_two_ranks_stop_together_on_sigterm(runs):
    running = process("fit", runs, {**STEPS, **RANKS, "trainer.max_steps": 10_000})
    while running.poll() is None and not list(runs.glob("*/*/checkpoints/last.ckpt")):
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    status, output = finish(running)
    assert status == 143, output
    assert 0 < state(newest(runs) / "checkpoints" / "last.ckpt")["/global_step"] < 10_000


@pytest.mark.slow
def test_a_batch_that_two_ranks_cannot_share_is_one_error(runs):
    status, output = finish(process("fit", runs, {**STEPS, **RANKS, "data.global_batch_size": 5}))
    assert status not in (0, None)
    assert "global_batch_size 5 is not divisible by 2 devices; choose a multiple, for instance 4" in output
    assert "Traceback" not in output
