"""What a report lacks, in plain words, and the command that would add it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from brainlm_lightning.report.html.runs import Run, Runs
from brainlm_lightning.report.page import Page
from brainlm_lightning.report.study import FAILED, SKIPPED, STUDY
from brainlm_lightning.run_folder import BEST, read_json

COMMAND = "python -m brainlm_lightning.cli test --config experiments/{}.yaml"


@dataclass(frozen=True)
class Missing:
    """Something that a report lacks.

    Attributes:
        what: that is missing.
        why: and what follows from it.
        command: that would add it; "" where none is known.
    """

    what: str
    why: str
    command: str = ""


def missing(runs: Runs, pages: list[Page], places: list[Path]) -> list[Missing]:
    """Everything that the runs lack: questions without results, broken folders, models without a run, failed steps."""
    return [*_steps(places), *_questions(runs, pages), *_broken(runs), *_models(runs), *_numbers(runs)]


def _steps(places: list[Path]) -> Iterator[Missing]:
    """Steps of a study that failed or could not be run."""
    for place in places:
        if not (place / STUDY).is_file():
            continue
        try:
            steps = read_json(place / STUDY.parent, STUDY.name)["steps"].items()
            failed = [(name, of) for name, of in steps if of["status"] in (FAILED, SKIPPED)]
        except (ValueError, OSError, KeyError, AttributeError, TypeError) as error:
            yield Missing(str(place / STUDY), f"cannot be read: {error}")
            continue
        for name, of in failed:
            told = "failed" if of["status"] == FAILED else "was not run"
            yield Missing(f"Step “{name}” of the study {told}", str(of.get("why", "")))


def _questions(runs: Runs, pages: list[Page]) -> Iterator[Missing]:
    """Questions of the paper that no run answers."""
    for page in sorted(pages, key=lambda page: page.place):
        if page.wanted and not any(_answers(page, run) for run in runs.tests):
            table = f" (table {page.paper_table} of the paper)" if page.paper_table else ""
            yield Missing(f"{page.heading}{table}", "no run of this report answers it", COMMAND.format(page.wanted))


def _answers(page: Page, run: Run) -> bool:
    try:
        return any(True for _ in page.tables(run.metrics))
    except Exception:  # a page of another package, or damaged results; told where the table would stand
        return False


def _broken(runs: Runs) -> Iterator[Missing]:
    for name, problem in runs.problems:
        yield Missing(name, problem)


def _models(runs: Runs) -> Iterator[Missing]:
    """Models that a run used and whose own run is not in this report."""
    told: dict[str, list[str]] = {}
    for run in runs.every:
        for model in run.models.values():
            path = Path(str(model.get("path", "")))
            if str(path).endswith(BEST) and not _is_here(path.parent.parent, runs):
                told.setdefault(str(path.parent.parent), []).append(run.name)
    for folder, users in told.items():
        yield Missing(folder, f"{', '.join(users)} used its model, and its run folder is not in this report")


def _is_here(folder: Path, runs: Runs) -> bool:
    """Whether a run is in the report; one that is nowhere on this machine goes by its name, for runs are copied."""
    if folder.exists():
        return folder.resolve() in {run.folder.resolve() for run in runs.every}
    return any(folder.as_posix().endswith(f"/{run.name}") for run in runs.every)


def _numbers(runs: Runs) -> Iterator[Missing]:
    """Runs that ended with numbers that are none."""
    for run in runs.every:
        if run.metrics.get("diverged"):
            yield Missing(run.name, "diverged: its loss was not finite, and its numbers stand nowhere here")
    for run in runs.tests:
        undefined = sum(
            math.isnan(value) for name, value in run.metrics.items() if not name.endswith(("_low", "_high"))
        )
        if undefined:
            yield Missing(run.name, f"{undefined} of its {len(run.metrics)} numbers are undefined, and shown as –")
