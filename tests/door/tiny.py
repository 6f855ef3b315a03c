"""The real command line on a tiny simulated cohort: what the tests of the door share."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from brainlm_lightning.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = "model.init_args.model.init_args.config"
SIZES = {  # of every experiment
    "data.cohorts": "tiny",
    "data.test_cohorts": "[]",
    "data.window_frames": 40,
    "data.global_batch_size": 4,
    "data.eval_batch_size": 8,
    "data.num_workers": 0,
    "trainer.accelerator": "cpu",
    "trainer.devices": 1,
    "trainer.max_steps": 2,
    "trainer.val_check_interval": 2,
    "trainer.check_val_every_n_epoch": "null",
    "trainer.log_every_n_steps": 1,
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
}
TINY_MAE = {
    f"{CONFIG}.patch_frames": 10,
    f"{CONFIG}.embed_dim": 40,
    f"{CONFIG}.depth": 1,
    f"{CONFIG}.num_heads": 2,
    f"{CONFIG}.decoder_embed_dim": 40,
    f"{CONFIG}.decoder_depth": 1,
    f"{CONFIG}.decoder_num_heads": 2,
}
TINY_TIED = {f"{CONFIG}.patch_frames": 10, f"{CONFIG}.embed_dim": 40, f"{CONFIG}.depth": 1, f"{CONFIG}.num_heads": 2}
# What else makes an experiment tiny, by the class of its task, or by the class of its model where it names one.
SIZES_OF: dict[str, dict] = {
    "PretrainTask": {
        "model.init_args.test_ratios": "[0.75]",
        "model.init_args.test_strategies": "{}",
        "model.init_args.baselines": "{adaptive_smoother: null}",  # takes a second to choose its settings
    },
    "NetworkTask": {
        "model.init_args.neighbours": "{folds: 2, test_share: 0.25, repeats: 2}",
        "model.init_args.embeddings": "{}",
        "data.scaling": "robust",
    },
    "MaskedAutoencoder": TINY_MAE,
    "PriorAutoencoder": TINY_MAE,
    "ForecastTask": {  # the test gives the checkpoint
        "sweep": "null",
        "data.scaling": "robust",
        "model.init_args.horizon_frames": 10,
        "model.init_args.compare_with": "{}",
        "data.train_fraction": 1.0,  # a tenth of 15 people is no batch
    },
    "ClinicalTask": {
        "data.scaling": "robust",
        "trainer.precision": "32-true",
        "model.init_args.parts": 2,
        "model.init_args.head.hidden": 8,
        "model.init_args.folds.number": 2,
        "model.init_args.folds.test_on": "all",
        "model.init_args.folds.train_on": "all",
    },
    "VariationalAutoencoder": {f"{CONFIG}.patch_frames": 10, f"{CONFIG}.hidden_dim": 16, f"{CONFIG}.latent_dim": 4},
    "TiedAutoencoder": TINY_TIED,
    "TiedPriorAutoencoder": TINY_TIED,
    "GraphConvolutionalNetwork": {f"{CONFIG}.patch_frames": 10, f"{CONFIG}.width": 16, f"{CONFIG}.neighbours": 3},
}
BASE = "experiments/demo.yaml"


def arguments(verb: str, runs: Path, settings: dict | None = None, config: Path | str = BASE) -> list[str]:
    """A command on the tiny cohort, with further settings."""
    merged = {**SIZES, **sizes_of(REPOSITORY / config), "runs": runs, **(settings or {})}
    return [verb, f"--config={REPOSITORY / config}", *(f"--{name}={value}" for name, value in merged.items())]


EXPERIMENTS = sorted((REPOSITORY / "experiments").glob("*.yaml"), key=lambda path: path.name)


def of_task(name: str) -> list[Path]:
    """The experiments of one task."""
    return [
        path for path in EXPERIMENTS if yaml.safe_load(path.read_text())["model"]["class_path"].endswith(f".{name}")
    ]


def sizes_of(config: Path) -> dict:
    """What makes this experiment tiny."""
    settings = yaml.safe_load(config.read_text())
    model = settings["model"]
    kinds = [model["class_path"], model.get("init_args", {}).get("model", {}).get("class_path", "")]
    sizes = {name: value for kind in kinds for name, value in SIZES_OF.get(kind.rsplit(".", 1)[-1], {}).items()}
    if model.get("init_args", {}).get("start_from"):  # from a run that is not there; see test_door_other_atlas.py
        sizes["model.init_args.start_from"] = "null"
    if leaves_out(config):  # simulated people have no sites
        sizes["data.leave_out"] = "{column: sex, values: [M]}"
    return sizes


def leaves_out(config: Path) -> bool:
    """Whether this experiment tests on recordings of its cohort that it leaves out of training."""
    return "leave_out" in yaml.safe_load(config.read_text())["data"]


def door(verb: str, runs: Path, settings: dict | None = None, config: Path | str = BASE) -> Path:
    """Runs it in this process; returns the run folder."""
    run_main(arguments(verb, runs, settings, config))
    return newest(runs)


def run_main(command: list[str]) -> None:
    """Runs a command in this process, as the shell would."""
    with patch.object(sys, "argv", ["brainlm", *command]):
        main()


def process(verb: str, runs: Path, settings: dict | None = None, config: Path | str = BASE) -> subprocess.Popen:
    """Starts it as a process of its own, which can be killed."""
    return started(arguments(verb, runs, settings, config))


def started(given: list[str], launcher: list[str] | None = None, **environment: str) -> subprocess.Popen:
    """Starts a command as a process of its own, by Python or another launcher."""
    command = [*(launcher or [sys.executable, "-m", "brainlm_lightning.cli"]), *given]
    paths = f"{REPOSITORY}:{Path(__file__).parent}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, cwd=REPOSITORY, start_new_session=True, **pipes)


def finish(running: subprocess.Popen, timeout_s: float = 90) -> tuple[int, str]:
    """Waits for a process; returns its status and output. One that hangs is killed with its children."""
    try:
        output = running.communicate(timeout=timeout_s)[0]
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        pytest.fail(f"still running after {timeout_s} s:\n{running.communicate()[0]}")
    return running.returncode, output


def versions(runs: Path) -> list[Path]:
    """All run folders of all experiments, oldest first."""
    return sorted(runs.glob("*/version_*"), key=lambda path: int(path.name.removeprefix("version_")))


def newest(runs: Path) -> Path:
    return versions(runs)[-1]


def events(run_folder: Path) -> EventAccumulator:
    """What TensorBoard sees of a run."""
    return EventAccumulator(str(run_folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def scalars(run_folder: Path, tag: str) -> dict[int, float]:
    """Step -> value."""
    return {event.step: event.value for event in events(run_folder).Scalars(tag)}


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor and number of a checkpoint under a flat name, those of the callbacks and clocks left out."""
    found = torch.load(checkpoint, weights_only=True)
    kept = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "CohortDataModule")
    return {
        name: value
        for name, value in _flat({key: found[key] for key in kept}).items()
        if not re.search(r"initial_lr|foreach|fused", name)
    }


def _flat(value: object, prefix: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        return {prefix: value if isinstance(value, torch.Tensor) else torch.tensor(float(value or 0))}
    return {name: leaf for key, part in parts for name, leaf in _flat(part, f"{prefix}/{key}").items()}


def differing(one: Path, other: Path) -> list[str]:
    """Names of what is not bit for bit the same in two checkpoints."""
    here, there = state(one), state(other)
    assert here.keys() == there.keys()
    return [name for name in here if not torch.equal(here[name], there[name])]
