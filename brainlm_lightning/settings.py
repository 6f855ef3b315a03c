"""The settings of a run, as in its ``config.yaml``: what a test inherits from a fit, and how two fits differ."""

from collections.abc import Mapping
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml

Settings = dict[str, Any]

# Data options that do not affect the fitted model: they concern the test, or the distribution of work on the machine.
# Each task lists its own options of this kind in `Task.test_options`.
NOT_FITTED = ("test_cohorts", "eval_batch_size", "micro_batch_size", "num_workers")
# Trainer settings that affect the fitted model; devices, loggers and the like do not.
TRAINED = (
    *("precision", "max_steps", "min_steps", "max_epochs", "min_epochs", "max_time", "callbacks"),
    *("gradient_clip_val", "gradient_clip_algorithm", "val_check_interval", "check_val_every_n_epoch"),
    *("limit_train_batches", "limit_val_batches", "overfit_batches"),
)


def read_settings(run_folder: Path) -> Settings:
    """The nested settings of a run."""
    return dict(yaml.safe_load((run_folder / "config.yaml").read_text(encoding="utf-8")))


def flatten(nested: Mapping[str, Any], prefix: str = "") -> Settings:
    """Nested mappings as full names, ``model.init_args.masking.ratio``; an empty mapping is a value."""
    flat: Settings = {}
    for name, value in nested.items():
        full = f"{prefix}{name}"
        flat |= flatten(value, f"{full}.") if isinstance(value, Mapping) and value else {full: value}
    return flat


def of_the_model(settings: Settings) -> Settings:
    """The settings that define a fitted model: seed, model and data, without those of the test or the machine."""
    model, data = settings["model"], settings["data"]
    of_the_test = getattr(locate(model["class_path"]), "test_options", ())
    arguments = {name: value for name, value in model.get("init_args", {}).items() if name not in of_the_test}
    return {
        "seed_everything": settings["seed_everything"],
        "model": {"class_path": model["class_path"], "init_args": arguments},
        "data": {name: value for name, value in data.items() if name not in NOT_FITTED},
    }


def of_the_fit(settings: Settings) -> Settings:
    """All settings that a fitted model depends on, flat, except the path of the pretrained model (its hash counts)."""
    trainer = {name: settings["trainer"].get(name) for name in TRAINED}
    flat = flatten({**of_the_model(settings), "trainer": trainer})
    return {name: value for name, value in flat.items() if name != "model.init_args.pretrained"}


def differences(was: Settings, now: Settings) -> dict[str, tuple[Any, Any]]:
    """Full name -> (value in `was`, value in `now`) of the settings that differ; None where one is absent."""
    before, after = flatten(was), flatten(now)
    both = {name: (before.get(name), after.get(name)) for name in [*before, *(after.keys() - before.keys())]}
    return {name: values for name, values in both.items() if values[0] != values[1]}
