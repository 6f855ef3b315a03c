"""Several ranks, as DDP, as shards of the model, and as nodes: one global batch gives one training."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import REPOSITORY, arguments, door, finish, newest, process, scalars, started, state

from brainlm_lightning.run_folder import LAST, read_metrics

STEPS = {"trainer.max_steps": 6, "trainer.val_check_interval": 3, "checkpoint_every": 2}
LONGEST_S = 900  # on a machine that is busy otherwise
PRETRAINING = ("train/loss", "train/r2", "train/gradient_norm", "val/r2", "val/loss")
COLUMN = {"model.init_args.target.column": "sex", "model.init_args.method": "tuned", "sweep": "null"}
COLUMN |= {"model.init_args.head.dropout": 0}  # each rank draws its own


def assert_same_training(here, there, tags, tolerance=1e-5):
    for tag in tags:
        expected = scalars(there, tag)
        assert expected
        assert scalars(here, tag) == {step: pytest.approx(expected[step], rel=tolerance, abs=1e-6) for step in expected}


@pytest.fixture(scope="module")
def one_rank(stores, tmp_path_factory):
    """The run folder of a fit on one rank."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        return door("fit", tmp_path_factory.mktemp("one_rank"), STEPS)


def on_two_ranks(runs, settings, strategy, config="experiments/demo.yaml"):
    ranks = {"trainer.devices": 2, "trainer.strategy": strategy}
    status, output = finish(process("fit", runs, settings | ranks, config), LONGEST_S)
    assert status == 0, output
    return newest(runs)


def test_shards_of_a_model_train_as_the_whole_does_and_leave_the_same_checkpoint(one_rank, runs):
    sharded = on_two_ranks(runs, STEPS, "sharded")
    assert_same_training(sharded, one_rank, PRETRAINING)
    here, there = state(sharded / LAST), state(one_rank / LAST)
    assert here.keys() == there.keys()
    assert [name for name in here if here[name].shape != there[name].shape] == []
    change = {
        name: float((here[name] - there[name]).abs().max() / there[name].abs().max().clamp(1e-12)) for name in here
    }
    assert max(value for name, value in change.items() if "exp_avg" in name) < 1e-4
    # Biases of keys have no gradient but rounding, of which Adam makes steps.
    assert max(value for name, value in change.items() if not name.endswith("qkv.bias")) < 1e-4
    longer = {**STEPS, "ckpt_path": sharded / LAST, "trainer.max_steps": 8}
    alone = door("fit", runs, longer)  # a whole model goes on from the checkpoint of shards
    assert list(scalars(alone, "train/loss")) == [6, 7]


@pytest.mark.slow
def test_shards_go_on_where_a_whole_model_stopped(runs):
    flat = {**STEPS, "model.init_args.optimisation.final_rate": 1}
    part = door("fit", runs, {**flat, "trainer.max_steps": 4})
    settings = {**flat, "ckpt_path": part / LAST}
    whole, sharded = door("fit", runs, settings), on_two_ranks(runs, settings, "sharded")
    assert list(scalars(sharded, "train/loss")) == [4, 5]
    assert_same_training(sharded, whole, PRETRAINING)


def test_a_test_of_what_was_sharded_has_whole_models(one_rank, runs, capsys):
    door("test", runs, {"ckpt_path": one_rank / "checkpoints" / "best.ckpt", "trainer.strategy": "sharded"})
    assert any(name.endswith("r2_pooled") for name in read_metrics(newest(runs)))


QUESTIONS = {  # experiment, its settings, and what it logs
    "forecast": ("experiments/forecast.yaml", {}, ("train/loss", "val/loss")),
    "clinical": ("experiments/clinical_sex.yaml", COLUMN, ("train/loss", "val/loss")),
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_other_questions_train_on_two_ranks_as_on_one(question, strategy, runs, pretrained):
    config, settings, tags = QUESTIONS[question]
    settings = {**STEPS, **settings, "model.init_args.pretrained": pretrained}
    one, two = door("fit", runs, settings, config), on_two_ranks(runs, settings, strategy, config)
    assert one != two
    assert len(scalars(one, "train/loss")) == 6
    assert_same_training(two, one, tags)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_two_nodes_of_torchrun_train_as_one_rank_does(one_rank, runs):
    """The command of `make pretrain NODES=2`, once for each node."""
    line = subprocess.run(
        ["make", "-n", "pretrain", "NODES=2", "GPUS=1", f"HEAD=127.0.0.1:{free_port()}", "STRATEGY=ddp"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.replace("\\\n", " ")
    launched = line[line.index("torchrun") :].split(" -m brainlm_lightning.cli ")[0].split()[1:]
    assert "--trainer.num_nodes 2" in line
    nodes = {"trainer.num_nodes": 2, "trainer.strategy": "ddp"}
    launcher = [sys.executable, "-m", "torch.distributed.run", *launched, "-m", "brainlm_lightning.cli"]
    both = [started(arguments("fit", runs, STEPS | nodes), launcher) for _ in range(2)]
    ended = [finish(each, LONGEST_S) for each in both]
    assert [status for status, _ in ended] == [0, 0], ended
    assert len(list(runs.glob("*/*"))) == 1
    assert_same_training(newest(runs), one_rank, PRETRAINING)


SRUN = """#!/bin/bash
# Stands for SLURM's: one task for each of two nodes, all on this machine; a signal reaches every task.
pids=()
trap 'kill -TERM "${pids[@]}"' TERM
for node in 0 1; do
  SLURM_PROCID=$node SLURM_NODEID=$node SLURM_LOCALID=0 "$@" & pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
  wait "$pid"; ended=$?
  while kill -0 "$pid" 2>/dev/null; do wait "$pid"; ended=$?; done
  [ "$ended" -gt "$status" ] && status=$ended
done
exit "$status"
"""


def slurm_job(folder: Path, runs: Path, settings: dict):
    """Starts the batch script as SLURM would for two nodes of one task each."""
    folder.mkdir(exist_ok=True)
    for name, text in {"srun": SRUN, "scontrol": f'#!/bin/bash\necho "$@" >> {folder}/scontrol\n'}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    _, config, *options = arguments("fit", runs, settings)
    kept = [option for option in options if not option.startswith(("--runs", "--trainer.devices"))]
    job = {"SLURM_JOB_ID": "4217", "SLURM_JOB_NAME": "brainlm", "SLURM_NNODES": "2", "SLURM_NTASKS": "2"}
    job |= {"SLURM_NTASKS_PER_NODE": "1", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(free_port())}
    job |= {"RUNS": str(runs), "PYTHON": sys.executable, "PATH": f"{folder}:{os.environ['PATH']}"}
    script = ["bash", str(REPOSITORY / "experiments" / "pretrain.sbatch"), config.removeprefix("--config=")]
    return started(kept, script, **job)


@pytest.mark.slow
def test_a_slurm_job_trains_as_one_rank_does(one_rank, runs, tmp_path):
    status, output = finish(slurm_job(tmp_path / "bin", runs, STEPS | {"trainer.strategy": "ddp"}), LONGEST_S)
    assert status == 0, output
    (run,) = runs.glob("slurm-4217/*/*")
    assert_same_training(run, one_rank, PRETRAINING)
    assert not (tmp_path / "bin" / "scontrol.log").exists()


@pytest.mark.slow
def test_a_slurm_job_that_is_stopped_is_queued_again_and_goes_on(runs, tmp_path):
    endless = STEPS | {"trainer.strategy": "ddp", "trainer.max_steps": 10_000}
    job = slurm_job(tmp_path / "bin", runs, endless)
    while job.poll() is None and not list(runs.glob("slurm-4217/*/*/checkpoints/last.ckpt")):
        signal.sigtimedwait([], 0.05)
    os.killpg(job.pid, signal.SIGTERM)
    status, output = finish(job, LONGEST_S)
    assert status == 143, output
    (run,) = runs.glob("slurm-4217/*/*")
    reached = int(torch.load(run / LAST, weights_only=True)["global_step"])
    assert 0 < reached < 10_000
    status, output = finish(slurm_job(tmp_path / "bin", runs, endless | {"trainer.max_steps": reached + 2}), LONGEST_S)
    assert status == 0, output
    again = max(runs.glob("slurm-4217/*/*"))
    assert list(scalars(again, "train/loss")) == [reached, reached + 1]
