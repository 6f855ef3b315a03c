"""Several runs of one experiment file: a search over settings, or one run per fold and method.

An experiment may hold

    sweep:
      over:
        model.init_args.optimisation.learning_rate: [0.0003, 0.001, 0.003]
      choose: val/loss

``fit`` makes one run per point of the grid, in ``runs/<experiment>/learning_rate=0.001/version_<k>``. Finished points
are skipped and killed ones resumed, so the same command completes an interrupted sweep. ``--backend loky --jobs 4``
runs points side by side, see `points`. An earlier run with other settings, another pretrained model or other recordings
is an error, see `reuse`; with ``--refit`` such a point is fitted again, as a further version. With ``choose``, ``test``
tests the point with the lowest best value of that metric; without it, `test` runs once and the task gathers all points.
"""

import argparse
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import yaml
from lightning.pytorch.utilities import rank_zero_info
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from brainlm_lightning import experiment
from brainlm_lightning.callbacks.divergence import DivergedError
from brainlm_lightning.experiment_files import read_experiment
from brainlm_lightning.points import Crew, Point, newest, run_side_by_side
from brainlm_lightning.reuse import check_same_fit, fit_differences
from brainlm_lightning.run_folder import (
    CHOSEN,
    LAST,
    find_checkpoint,
    newest_run,
    point_name,
    read_json,
    read_metrics,
    write_json,
)

Settings = dict[str, Any]
REFIT = "--refit"


@dataclass(frozen=True)
class Sweep:
    """A grid of settings.

    Attributes:
        over: dotted name of a setting -> its values.
        choose: a validation metric, lower is better; None = every point is a result of its own.
    """

    over: dict[str, list[Any]]
    choose: str | None = None

    def __post_init__(self) -> None:
        """Validates the grid before the first run."""
        if not isinstance(self.over, dict):
            raise ValueError(f"sweep.over is {self.over!r}; expected a mapping of settings to lists of values")
        wrong = [name for name, values in self.over.items() if not isinstance(values, list) or not values]
        if wrong or not self.over:
            raise ValueError(f"sweep.over needs a list of values for each setting; got none for {wrong or 'any'}")
        words = [name.rsplit(".", 1)[-1] for name in self.over]
        if len(set(words)) != len(words):
            raise ValueError(
                f"two settings of sweep.over have the same last word, {sorted(words)}: their runs would be mixed up"
            )

    def points(self) -> Iterator[Settings]:
        """Every combination of values."""
        for values in itertools.product(*self.over.values()):
            yield dict(zip(self.over, values, strict=True))


@dataclass(frozen=True)
class Command:
    """A command of an experiment: its verb, its arguments and the folder of its runs.

    Attributes:
        verb: fit, test, …
        arguments: of the experiment.
        folder: of the runs of a sweep.
        sweep: None = one run.
        crew: who runs the points; None = this process, one after the other.
        refit: fit a point again, as a further version, whose newest run was fitted otherwise.
    """

    verb: str
    arguments: list[str]
    folder: Path
    sweep: Sweep | None
    crew: Crew | None = None
    refit: bool = False

    @classmethod
    def of(cls, args: list[str]) -> "Command":
        """Reads the options that a sweep needs; the experiment's own parser reads the rest.

        Raises:
            ValueError: the sweep or its backend cannot be, or an option is for a sweep to fit and there is none.
        """
        crew, rest = _crew([argument for argument in args if argument != REFIT])
        command = replace(cls._of(rest, crew), refit=REFIT in args)
        asked = REFIT if command.refit else "--backend" if crew is not None else ""
        if asked and (command.sweep is None or command.verb != "fit"):
            raise ValueError(f"{asked} is for the points of a sweep, with `fit`; here is one run: leave it out")
        if command.refit and crew is not None:
            raise ValueError(f"{REFIT} fits one point after the other; leave out --backend")
        return command

    @classmethod
    def _of(cls, args: list[str], crew: Crew | None) -> "Command":
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--config", action="append", default=[])
        for name in ("experiment", "runs", "sweep"):
            parser.add_argument(f"--{name}")
        given, _ = parser.parse_known_args(args[1:])
        files = OmegaConf.merge({}, *(read_experiment(Path(name)) for name in given.config if Path(name).is_file()))
        if given.sweep is not None:
            files = OmegaConf.merge(files, {"sweep": _parsed(given.sweep)})
        assert isinstance(files, DictConfig)
        if not files.get("sweep"):
            return cls(args[0], args[1:], Path(), None)
        try:
            sweep: Any = files.sweep
            sweep = OmegaConf.to_object(sweep) if OmegaConf.is_config(sweep) else sweep
            folder = Path(given.runs or files.get("runs") or "runs") / (given.experiment or files.experiment)
        except OmegaConfBaseException as error:
            raise ValueError(f"{', '.join(given.config)}: {error}") from error
        if not isinstance(sweep, dict) or sweep.keys() - {"over", "choose"} or "over" not in sweep:
            raise ValueError(f"sweep is {sweep!r}; expected {{over: {{setting: [values]}}, choose: metric or null}}")
        return cls(args[0], args[1:], folder, Sweep(**sweep), crew)

    def run(self, *more: str) -> None:
        """Runs the command with further arguments."""
        experiment.run([self.verb, *self.arguments, *more])

    def settings(self, *more: str) -> dict[str, Any]:
        """The settings that the command would run with, given further arguments."""
        return experiment.settings_of([self.verb, *self.arguments, *more])


def _parsed(text: str, option: str = "sweep") -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--{option} {text!r} is no valid YAML: {' '.join(str(error).split())}") from error


def _crew(args: list[str]) -> tuple[Crew | None, list[str]]:
    """Who runs the points, None = this process, one after the other; and the arguments without those that say so."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("backend", "jobs", "backend_options"):
        parser.add_argument(f"--{name}")
    given, rest = parser.parse_known_args(args)
    if given.backend is None:
        if given.jobs or given.backend_options:
            raise ValueError("--jobs and --backend_options are for a --backend: loky, dask or submitit")
        return None, rest
    jobs, options = given.jobs or str(joblib.cpu_count()), _parsed(given.backend_options or "{}", "backend_options")
    if not jobs.isdigit() or not isinstance(options, dict):
        raise ValueError(f"--jobs is {jobs!r} and --backend_options {options!r}; expected a number and {{name: value}}")
    return Crew(given.backend, int(jobs), options), rest


def run(args: list[str]) -> None:
    """Runs one command of an experiment, once or for every point of its sweep.

    Args:
        args: ``fit --config experiments/pretrain.yaml ...``.
    """
    command = Command.of(args)
    if command.sweep is None or command.verb not in ("fit", "test"):
        command.run()
    elif command.verb == "fit":
        fit_points(command, command.sweep)
    elif command.sweep.choose:
        test_chosen(command)
    else:
        command.run()


def fit_points(command: Command, sweep: Sweep) -> None:
    """Fits the points that are not finished, then chooses the best.

    Raises:
        ValueError: an earlier run of a point had other settings, another pretrained model or other recordings.
    """
    points, begun = list(sweep.points()), []
    for number, settings in enumerate(points, 1):
        folder = command.folder / point_name(settings)
        arguments = [*overrides(settings), f"--experiment={folder.relative_to(runs_of(command))}"]
        ended, resumable = _earlier(command, folder, arguments)
        rank_zero_info(f"{number} of {len(points)}: {folder.name}{' is finished' if ended else ''}")
        if ended:
            continue
        if command.crew is not None:
            begun.append(Point(folder.absolute(), (command.verb, *command.arguments, *arguments)))
            continue
        try:
            command.run(*arguments, *([f"--ckpt_path={resumable / LAST}"] if resumable else []))
        except DivergedError as error:
            rank_zero_info(f"{folder.name} diverged, and cannot be chosen: {error}")
    if command.crew is not None and begun:
        run_side_by_side(command.crew, begun, rank_zero_info)
    if sweep.choose:
        choose(command.folder, sweep)


def _earlier(command: Command, folder: Path, arguments: list[str]) -> tuple[Path | None, Path | None]:
    """A point's run that has ended, and one to resume; neither where the point is to be fitted anew."""
    ended, resumable = newest(folder, "metrics.json"), newest(folder, LAST)
    if command.refit and (latest := resumable or ended):  # one that diverged at once has nothing to resume
        if fit_differences(latest, command.settings(*arguments)):
            return None, None
        ended = ended if ended == latest else None
    elif earlier := ended or resumable:
        check_same_fit(earlier, command.settings(*arguments))
    return ended, resumable


def runs_of(command: Command) -> Path:
    """The folder of all experiments."""
    return command.folder.parent


def overrides(settings: Settings) -> list[str]:
    """A point as arguments; a single point is not a sweep itself."""
    return [*(f"--{name}={value}" for name, value in settings.items()), "--sweep=null"]


def choose(folder: Path, sweep: Sweep) -> None:
    """Writes which run was best in validation, and the scores of all."""
    scores, runs, key = {}, {}, f"{sweep.choose}_best"
    for settings in sweep.points():
        name = point_name(settings)
        run_folder = newest_run(folder / name, "metrics.json")
        metrics = read_metrics(run_folder)
        if key not in metrics:
            raise ValueError(
                f"{run_folder} has no {key}: no validation has finished in it, or sweep.choose is not the metric "
                "that the best checkpoint is chosen by"
            )
        scores[name], runs[name] = metrics[key], (settings, f"{name}/{run_folder.name}")
    finite = {name: score for name, score in scores.items() if math.isfinite(score)}
    if not finite:
        raise ValueError(
            f"none of the {len(scores)} points of {folder} has a finite {key}: all diverged; lower the learning rates"
        )
    best = min(finite, key=lambda name: finite[name])
    settings, run_name = runs[best]
    write_json(folder / CHOSEN, {"run": run_name, "settings": settings, "by": key, "scores": scores})
    rank_zero_info(f"chosen by {key}: {best} ({scores[best]:.6g} of {', '.join(f'{s:.6g}' for s in scores.values())})")


def test_chosen(command: Command) -> None:
    """Tests the chosen point with its settings."""
    command.run(*chosen_arguments(command))


def chosen_arguments(command: Command) -> list[str]:
    """What a test of a search adds to its command: the settings of the chosen point and its checkpoint."""
    settings = read_json(command.folder, CHOSEN)["settings"]
    given = any(argument.startswith("--ckpt_path") for argument in command.arguments)
    checkpoint = [] if given else [f"--ckpt_path={find_checkpoint(command.folder)}"]
    return [*overrides(settings), *checkpoint]
