"""Finds run folders and reads what is in them; one that is broken becomes a problem to tell, and no error."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from brainlm_lightning.evaluation.names import parsed
from brainlm_lightning.report.scores import Arrays, Metrics
from brainlm_lightning.run_folder import CHOSEN, COHORTS, VERSION, read_arrays, read_json, read_metrics, versions

DEPTH = 3  # levels of folders below the given ones: runs/<experiment>/<point of a sweep>/version_<k>

NUMBER, TEXT, OPTIONAL = (int, float), (str,), type(None)
# What a report reads of a run's files, and its types; None where it may be absent.
PROVENANCE: dict[str, tuple[type, ...]] = {
    "cohorts": (dict,),
    "pretrained": (dict, OPTIONAL),
    "packages": (dict, OPTIONAL),
    "time_utc": (str, OPTIONAL),
    "checkpoint": (str, OPTIONAL),
}
FACTS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("cohort", "atlas"), TEXT),
    **dict.fromkeys(("parcels", "networks", "tr_s", "recordings", "subjects", "hours"), NUMBER),
    **dict.fromkeys(("split", "site", "task", "phenotypes"), (dict,)),
    "frames": (list,),
    "effective_dimensions": (*NUMBER, OPTIONAL),
    "window_frames": (*NUMBER, OPTIONAL),
    "motion_mm": (*NUMBER, OPTIONAL),
}


@dataclass
class Run:
    """One run folder.

    Attributes:
        folder: where it lies.
        experiment: its folder's name below `runs`, with the point of a sweep.
        metrics: {} where it has none, or none that can be read.
        provenance: the same.
        settings: of its `config.yaml`, the same.
        problems: what could not be read, in words.
    """

    folder: Path
    experiment: str
    metrics: Metrics = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """`demo/version_3`."""
        return f"{self.experiment}/{self.folder.name}"

    @property
    def is_test(self) -> bool:
        """Whether it holds results of a test."""
        return bool(parsed(self.metrics))

    @property
    def has_ended(self) -> bool:
        """Whether it holds numbers at all."""
        return bool(self.metrics)

    @cached_property
    def arrays(self) -> Arrays:
        """What figures are drawn from; {} where the run kept none, and a problem where they cannot be read."""
        if not (self.folder / "arrays.npz").is_file():
            return {}
        try:
            return read_arrays(self.folder)
        except (ValueError, OSError) as error:
            self.problems.append(f"its figures are missing: {error}")
            return {}

    @cached_property
    def cohorts(self) -> dict[str, dict[str, Any]]:
        """Cohort -> its facts, as the run kept them; runs of earlier versions kept none."""
        found = {}
        for path in sorted((self.folder / COHORTS).glob("*.json")):
            try:
                facts = read_json(path.parent, path.name)
                check_types(facts, FACTS)
                _check_lists(facts)
                found[str(facts["cohort"])] = facts
            except (ValueError, OSError) as error:
                self.problems.append(f"what it kept of a cohort ({COHORTS}/{path.name}) cannot be read: {error}")
        return found

    @property
    def hours(self) -> float | None:
        """From its start to its end; None where it did not note its end."""
        try:
            begin, end = (datetime.fromisoformat(self.provenance[name]) for name in ("time_utc", "ended_utc"))
        except (KeyError, TypeError, ValueError):
            return None
        return (end - begin).total_seconds() / 3600

    @property
    def models(self) -> dict[str, dict[str, str]]:
        """Name -> path and digest of every model that it used."""
        used = self.provenance.get("pretrained") or {}
        found = {str(name): of for name, of in used.items() if isinstance(of, dict)}
        if self.provenance.get("checkpoint"):
            digest = str(self.provenance.get("checkpoint_sha256"))
            found["checkpoint"] = {"path": str(self.provenance["checkpoint"]), "sha256": digest}
        return found


@dataclass
class Runs:
    """All runs of a report.

    Attributes:
        every: run folders, by experiment, newest first.
        gaps: (name, what is wrong) of folders that are not there.
    """

    every: list[Run]
    gaps: list[tuple[str, str]]

    @property
    def problems(self) -> list[tuple[str, str]]:
        """(name, what is wrong) of all folders that are broken, empty or missing."""
        return [*self.gaps, *((run.name, problem) for run in self.every for problem in run.problems)]

    @cached_property
    def tests(self) -> list[Run]:
        """The newest test of each experiment: these are shown."""
        newest: dict[Path, Run] = {}
        for run in self.every:
            if run.is_test:
                newest.setdefault(run.folder.parent, run)
        return list(newest.values())

    @property
    def fits(self) -> list[Run]:
        """The newest fit of each experiment that has ended."""
        newest: dict[Path, Run] = {}
        for run in self.every:
            if run.has_ended and not run.is_test:
                newest.setdefault(run.folder.parent, run)
        return list(newest.values())


def find_runs(places: Sequence[Path]) -> Runs:
    """Reads all runs at some places: run folders, folders of an experiment, or of all experiments."""
    gaps: list[tuple[str, str]] = []
    experiments: dict[Path, None] = {}
    alone: list[Path] = []
    for place in places:
        if VERSION.fullmatch(place.name):
            alone.append(place)
        else:
            experiments |= dict.fromkeys(_experiments(place))
        if not place.is_dir():
            gaps.append((str(place), "is not there"))
    folders = [folder for experiment in experiments for folder in versions(experiment)] + alone
    runs = [read_run(folder, places) for folder in dict.fromkeys(folders) if folder.is_dir()]
    gaps += [told for experiment in experiments for told in _gaps(experiment, _label(experiment, places))]
    return Runs(runs, gaps)


def _experiments(place: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The place itself and all folders below that hold `version_<k>`."""
    if not place.is_dir() or depth < 0:
        return
    if versions(place):
        yield place
    for folder in sorted(place.iterdir()):
        if folder.is_dir() and not VERSION.fullmatch(folder.name):
            yield from _experiments(folder, depth - 1)


def _label(experiment: Path, places: Sequence[Path]) -> str:
    """An experiment's path below the given place; its own name where it was given itself."""
    for place in places:
        if experiment != place and experiment.is_relative_to(place):
            return str(experiment.relative_to(place))
    return experiment.name


def read_run(folder: Path, places: Sequence[Path] = ()) -> Run:
    """Reads a run folder; what is missing or damaged becomes a problem of the run."""
    run = Run(folder, _label(folder.parent, places))
    if not any(folder.iterdir()):
        run.problems.append("the folder is empty: the run ended before it wrote anything")
        return run
    if not (folder / "metrics.json").is_file():
        run.problems.append(
            "has no metrics.json: the run was stopped, failed, or still goes on; nothing of it is shown"
        )
    else:
        run.metrics = _read(run, "metrics.json", lambda: read_metrics(folder))
    run.provenance = _read(run, "provenance.json", lambda: _provenance(folder))
    run.settings = _read(run, "config.yaml", lambda: _settings(folder))
    return run


def _provenance(folder: Path) -> dict[str, Any]:
    found = read_json(folder, "provenance.json")
    check_types(found, PROVENANCE)
    return found


def check_types(found: dict[str, Any], expected: dict[str, tuple[type, ...]]) -> None:
    """Checks the parts of a file that a report reads.

    Raises:
        ValueError: one is missing or of another type.
    """
    for name, kinds in expected.items():
        value = found.get(name)
        if not isinstance(value, kinds):
            names = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"{name} is {value!r}; expected {names}")


def _check_lists(facts: dict[str, Any]) -> None:
    """Checks what is in the lists of a cohort's facts: counts of recordings and subjects, and lengths."""
    counts = [both for name in ("split", "site", "task") for both in facts[name].values()]
    pairs = all(isinstance(both, list) and len(both) == 2 for both in counts)
    if not pairs or not all(isinstance(length, NUMBER) for length in facts["frames"]):
        raise ValueError("its counts or lengths are of another form; expected [recordings, subjects] and numbers")


def mapping(value: object) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one: settings may be of any form."""
    return value if isinstance(value, dict) else {}


def _settings(folder: Path) -> dict[str, Any]:
    found = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"holds a {type(found).__name__}; expected settings")
    return found


def _read(run: Run, name: str, read: Any) -> Any:
    """What a file holds; {} and a problem where it cannot be read."""
    try:
        return read()
    except FileNotFoundError:
        run.problems.append(f"{name} is missing")
    except (ValueError, OSError, yaml.YAMLError) as error:
        run.problems.append(f"{name} cannot be read: {error}")
    return {}


def _gaps(experiment: Path, label: str) -> Iterator[tuple[str, str]]:
    """Numbers of runs that are not there, and points of a search whose run is not."""
    numbers = {int(match[1]) for path in versions(experiment) if (match := VERSION.fullmatch(path.name))}
    for number in sorted(set(range(max(numbers, default=0))) - numbers):
        yield f"{label}/version_{number}", "is not there, although later runs of the experiment are: it was deleted"
    chosen = experiment.parent / CHOSEN
    if chosen.is_file():
        try:
            missing = [
                name for name in read_json(chosen.parent, CHOSEN)["scores"] if not (chosen.parent / name).is_dir()
            ]
        except (ValueError, OSError, KeyError, TypeError) as error:
            yield f"{label}/../{CHOSEN}", f"cannot be read: {error}"
            return
        for name in missing:
            yield f"{Path(label).parent}/{name}", "a point of the search is not there: it was deleted"
