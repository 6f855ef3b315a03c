"""Reads experiment files, and checks the settings of a command that its parser accepts but nothing could run with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from brainlm_lightning.run_folder import inside
from brainlm_lightning.shell import nearest

YAML = (".yaml", ".yml")


def read_experiment(path: Path) -> DictConfig:
    """Reads a YAML file of settings; interpolations stay as they are written.

    Raises:
        ValueError: it is no text, no YAML, or no mapping.
    """
    try:
        found = OmegaConf.load(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{path}{line}: no valid YAML: {error.problem}; correct it (indentation, brackets)") from error
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise ValueError(f"{path}: no valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(found, DictConfig) or (not found and path.read_text(encoding="utf-8").strip()):
        raise ValueError(f"{path}: expected settings (`name: value`), as in experiments/demo.yaml")
    return found


def refuse_missing(named: Sequence[str]) -> None:
    """Checks that the files of a command are there.

    Args:
        named: ``--config FILE`` in two arguments, or ``--config=FILE`` in one.

    Raises:
        FileNotFoundError: one is not; a nearly like-named neighbour is said.
    """
    paths = [Path(argument.removeprefix("--config=")) for argument in named]
    for path in paths:
        if path.suffix in YAML and not path.exists():
            near = nearest(path.name, (file.name for file in path.parent.glob("*.*")))
            raise FileNotFoundError(
                f"no experiment file {path}{near or '; `init` copies those that come with the package'}"
            )


def check_settings(config: Any) -> None:
    """Checks settings of the whole command.

    Args:
        config: as the parser returns it for a verb.

    Raises:
        ValueError: a setting has a value that nothing can run with.
    """
    trainer = config.trainer
    if not config.experiment.strip("./"):
        raise ValueError(f"experiment is {config.experiment!r}; expected a name for its folder in {config.runs}")
    inside(config.runs, config.experiment)
    if config.checkpoint_every < 1:
        raise ValueError(f"checkpoint_every is {config.checkpoint_every}; expected a number of steps from 1 on")
    if trainer.accumulate_grad_batches not in (None, 1):
        raise ValueError(
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}; it follows from "
            "data.global_batch_size and data.micro_batch_size, which name windows instead: set those"
        )
    interval = trainer.val_check_interval
    if isinstance(interval, int | float) and interval <= 0:
        raise ValueError(f"trainer.val_check_interval is {interval}; expected a number of batches above 0")
    if trainer.gradient_clip_val is not None and trainer.gradient_clip_val < 0:
        raise ValueError(f"trainer.gradient_clip_val is {trainer.gradient_clip_val}; expected 0 or more, or null")
    if config.seed_everything is not None and not 0 <= int(config.seed_everything) < 2**32:
        raise ValueError(f"seed_everything is {config.seed_everything}; expected a number from 0 to {2**32 - 1}")
