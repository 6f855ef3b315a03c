"""A whole study in one command: every step of a plan through the commands of the package, then the report.

A plan, `experiments/reproduce/<cohort>.yaml`, lists cohorts and steps:

    cohorts:  # beside the two of the command: further ones, and how to simulate one
      simulated: {simulate: ["--seed=0"]}
    steps:
      - {name: pretraining, verb: fit, config: demo}
      - {name: table 1, verb: test, config: demo, after: [pretraining], options: ["--data.test_cohorts=[${ood}]"]}

`${cohort}`, `${ood}` and `${runs}` are filled in. Each step is a process of its own. One whose run folder is complete
and whose settings, cohorts and checkpoints are unchanged is not run again; one that fails is named, and all that do
not need it go on.
"""

import logging
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from brainlm_lightning.data.manifest import load_manifest
from brainlm_lightning.data.store import read_metadata, store_root
from brainlm_lightning.evaluation.names import parsed
from brainlm_lightning.experiment_files import read_experiment
from brainlm_lightning.report.study import FAILED, RAN, SKIPPED, STUDY, UNCHANGED
from brainlm_lightning.run_folder import LAST, read_metrics, versions, write_json

SHOWN_LINES = 3  # of the log of a failed step that names no error
ERROR = re.compile(r"\w+(Error|Exception|Interrupt): ")


@dataclass(frozen=True)
class Step:
    """One command of a plan.

    Attributes:
        name: in words, unique in the plan.
        verb: fit or test.
        config: name of the experiment's file, without `.yaml`.
        options: further arguments of the command.
        after: names of earlier steps without which it cannot run.
    """

    name: str
    verb: str
    config: str
    options: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What makes up a study.

    Attributes:
        experiments: folder of the experiments' files; `data_manifests` stands beside it.
        cohorts: cohort -> {} if its manifest is all, or `simulate` with the arguments of its simulation.
        steps: in order.
        cohort: name of the cohort.
        ood: name of a second cohort that nothing is trained on; "" for none.
    """

    experiments: Path
    cohorts: dict[str, dict[str, Any]]
    steps: list[Step]
    cohort: str
    ood: str = ""

    def __post_init__(self) -> None:
        """Checks names and verbs before anything runs."""
        seen: set[str] = set()
        for step in self.steps:
            if step.name in seen or step.verb not in ("fit", "test"):
                raise ValueError(f"step {step.name!r} with verb {step.verb!r}: expected a new name, and fit or test")
            if missing := [name for name in step.after if name not in seen]:
                raise ValueError(f"step {step.name!r} comes after {missing}, which are no earlier steps of the plan")
            seen.add(step.name)


def read_plan(path: Path, cohort: str, ood: str, runs: Path) -> Plan:
    """Reads a plan and fills in the names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a key is unknown, missing or of another type.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no plan at {path}; name one with --plan (experiments/reproduce/default.yaml fits most)"
        )
    try:
        whole = OmegaConf.merge({"cohort": cohort, "ood": ood, "runs": str(runs)}, read_experiment(path))
        found: Any = OmegaConf.to_container(whole, resolve=True)
        steps = [Step(**step) for step in found.pop("steps")]
        cohorts = {name: {} for name in (cohort, ood) if name} | found.pop("cohorts", {})
    except (OmegaConfBaseException, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: {error}; expected `cohorts` and `steps` of name, verb, config, options, after"
        ) from error
    if unknown := set(found) - {"cohort", "ood", "runs"}:
        raise ValueError(f"{path}: unknown keys {sorted(unknown)}; expected cohorts and steps")
    return Plan(path.resolve().parent.parent, cohorts, steps, cohort, ood)


@dataclass
class Study:
    """A plan that is being run.

    Attributes:
        plan: what to do.
        runs: folder of all experiments.
        jobs: processes that prepare cohorts.
        done: what became of each step so far.
    """

    plan: Plan
    runs: Path
    jobs: int
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self) -> bool:
        """Prepares the cohorts and runs all steps; keeps what became of each in `reproduce/study.json`.

        Returns:
            Whether nothing failed.
        """
        commands = [*self._preparations(), *self._commands()]
        for number, (name, command, made, after) in enumerate(commands, 1):
            print(f"{number:2d} of {len(commands)}  {name}: ", end="", flush=True)
            self._say(name, self._attempt(name, command, made, after))
            write_json(self.runs / STUDY, {"cohort": self.plan.cohort, "ood": self.plan.ood, "steps": self.done})
        return all(of["status"] in (RAN, UNCHANGED) for of in self.done.values())

    def _preparations(self) -> Iterator["Planned"]:
        """Simulates, where a cohort is one, and prepares; what is there is not made again."""
        for cohort, how in self.plan.cohorts.items():
            source, after = store_root() / f"{cohort}_source", []
            if "simulate" in how:
                after = [f"simulate {cohort}"]
                yield after[0], ["simulate", str(source), *how["simulate"]], source, []
            manifest = self.plan.experiments.parent / "data_manifests" / f"{cohort}.yaml"
            command = ["prepare", f"--config={manifest}", f"--output={store_root() / cohort}", f"--jobs={self.jobs}"]
            yield f"prepare {cohort}", command, store_root() / cohort, after

    def _commands(self) -> Iterator["Planned"]:
        prepared = [f"prepare {cohort}" for cohort in self.plan.cohorts]
        for step in self.plan.steps:
            config = self.plan.experiments / f"{step.config}.yaml"
            command = [step.verb, f"--config={config}", f"--runs={self.runs}", *step.options]
            yield step.name, [*command, *_refit(command)], None, [*prepared, *step.after]

    def _attempt(self, name: str, command: list[str], made: Path | None, after: list[str]) -> dict[str, Any]:
        """What became of one step."""
        broken = [earlier for earlier in after if self.done[earlier]["status"] not in (RAN, UNCHANGED)]
        if broken:
            return {"status": SKIPPED, "why": f"needs {', '.join(broken)}"}
        begin, used = time.monotonic(), _cpu_s()
        is_made = made is not None and made.exists()
        if is_made and (why := changed_manifest(command)):
            return {"status": FAILED, "why": why, "log": "no log", "seconds": 0.0}
        unchanged = made if is_made else None if made else unchanged_run(command)
        if unchanged is not None:
            return {"status": UNCHANGED, "run": str(unchanged)}
        log = self.runs / STUDY.parent / f"{name.replace(' ', '_').replace('/', '_')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        print(f"(log: {log}) ", end="", flush=True)
        with log.open("w", encoding="utf-8") as file:
            whole = [sys.executable, "-m", "brainlm_lightning.cli", *command]
            ended = subprocess.run(whole, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)  # noqa: S603
        took = {"seconds": round(time.monotonic() - begin, 1), "cpu_s": round(_cpu_s() - used, 1)}
        if ended.returncode:
            why = _error_of(log, ended.returncode)
            return {"status": FAILED, "why": why, "log": str(log)} | took
        return {"status": RAN} | took

    def _say(self, name: str, became: dict[str, Any]) -> None:
        self.done[name] = became
        told = {
            RAN: lambda: f"done in {became['seconds']:.0f} s ({became['cpu_s']:.0f} s of one core)",
            UNCHANGED: lambda: f"unchanged, not run again ({became['run']})",
            SKIPPED: lambda: f"NOT RUN: {became['why']}",
            FAILED: lambda: f"FAILED after {became['seconds']:.0f} s, see {became['log']}\n{became['why']}",
        }
        print(told[became["status"]](), flush=True)


def _refit(command: list[str]) -> list[str]:
    """The option by which a fit of several points makes those anew whose pretrained model or cohort has changed."""
    from brainlm_lightning.sweep import REFIT, Command  # torch takes seconds to import

    swept = command[0] == "fit" and Path(command[1].partition("=")[2]).is_file() and Command.of(command).sweep
    return [REFIT] if swept else []


def _error_of(log: Path, status: int) -> str:
    """The message of a command that failed: from the last line that names an error on, else its status and its end."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    named = [place for place, line in enumerate(lines) if ERROR.match(line)]
    return "\n".join(lines[named[-1] :] if named else [f"exit status {status}", *lines[-SHOWN_LINES:]])


def _cpu_s() -> float:
    """Seconds of one core that the steps so far have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


Planned = tuple[str, list[str], Path | None, list[str]]  # name, command, what it makes, names of steps that it needs


def changed_manifest(command: list[str]) -> str:
    """Why a store that is there is not the one that a command would prepare; "" if it is, or for other commands."""
    if command[0] != "prepare":
        return ""
    manifest, store = (Path(part.partition("=")[2]) for part in command[1:3])
    was, now = read_metadata(store)["made_by"]["manifest_sha256"], load_manifest(manifest).sha256
    if was == now:
        return ""
    return f"{store} was prepared from another manifest than {manifest} is now: delete the store to prepare it anew"


def unchanged_run(command: list[str]) -> Path | None:
    """The newest complete run of a command, if the command would do the same again; None if it has to run.

    A fit over a sweep is always begun: it looks at each of its points itself, and skips those that have ended.
    """
    from brainlm_lightning.reuse import fit_differences, test_differences  # torch takes seconds to import
    from brainlm_lightning.sweep import Command, chosen_arguments

    of = Command.of(command)
    if of.sweep is not None and of.verb == "fit":
        return None
    logging.disable(logging.INFO)  # what a command says when it begins: this one only looks
    try:
        more = chosen_arguments(of) if of.sweep is not None and of.sweep.choose else []
        settings = of.settings(*more)
        run = newest_of(of.verb, Path(settings["runs"]) / settings["experiment"])
        differences = (fit_differences if of.verb == "fit" else test_differences)(run, settings)
    except (Exception, SystemExit):  # nothing of the kind yet; or what the command itself will say when it is run
        return None
    finally:
        logging.disable(logging.NOTSET)
    return None if differences else run


def newest_of(verb: str, experiment: Path) -> Path:
    """The newest complete run of a verb: a fit has checkpoints, and a test results.

    Raises:
        FileNotFoundError: there is none.
    """
    for run in versions(experiment):
        complete = (run / "metrics.json").is_file() and (run / "provenance.json").is_file()
        if verb == "fit" and (run / LAST).is_file():
            if complete:
                return run
            break  # the newest was killed: later commands would take its checkpoint
        if verb == "test" and complete and parsed(read_metrics(run)):
            return run
    raise FileNotFoundError(f"no complete {verb} in {experiment}")
