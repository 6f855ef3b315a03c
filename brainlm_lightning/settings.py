"""The settings of a run, as in its ``config.yaml``: what a test inherits from a fit, and how two fits differ."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
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


def with_defaults(settings: Settings, like: Settings, data: type) -> Settings:
    """The settings of a run of an earlier version, with options that are newer than it at their defaults.

    Args:
        settings: as in its ``config.yaml``.
        like: of a command of this version, which has these options.
        data: the class that takes ``settings["data"]``.
    """
    model, now = settings["model"], like["model"].get("init_args") or {}
    arguments = _filled(model.get("init_args") or {}, now, _defaults(locate(model["class_path"])))
    given = {**settings, "model": {**model, "init_args": arguments}}
    return {**given, "data": _filled(settings["data"], like["data"], _defaults(data))}


def _defaults(of: Any) -> Settings:
    """The arguments of a class that have a plain default, or one of plain values."""
    known = inspect.signature(of).parameters.items() if callable(of) else ()
    found = {name: argument.default for name, argument in known if argument.default is not inspect.Parameter.empty}
    return {name: _plain(value) for name, value in found.items() if not callable(value)}


def _filled(given: Settings, like: Settings, defaults: Settings) -> Settings:
    """Settings with those that are missing, at any depth."""
    missing = {name: defaults[name] for name in like if name not in given and name in defaults}
    deeper = {
        name: _filled(value, like[name], defaults[name])
        for name, value in given.items()
        if isinstance(value, dict) and isinstance(like.get(name), dict) and isinstance(defaults.get(name), dict)
    }
    return {**given, **missing, **deeper}


def _plain(value: Any) -> Any:
    """A value as a file holds it."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


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
