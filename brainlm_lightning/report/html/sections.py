"""The sections of a report: one per question, with the tables and pictures of all runs that answer it."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.report.cautions import cautions
from brainlm_lightning.report.finding import Finding, Truth
from brainlm_lightning.report.generic import generic_tables
from brainlm_lightning.report.html.pictures import Picture, picture
from brainlm_lightning.report.html.runs import Run, Runs
from brainlm_lightning.report.page import Page, ReportFile
from brainlm_lightning.report.report_table import ReportTable

LOGGER = logging.getLogger(__name__)


@dataclass
class Answer:
    """What one run says to one question.

    Attributes:
        run: whose results these are.
        findings: beside the strongest opponents.
        truths: planted, beside what was found.
        tables: all methods.
        pictures: figures, brains and tables.
        failed: what could not be shown, in words.
    """

    run: Run
    findings: list[Finding] = field(default_factory=list)
    truths: list[Truth] = field(default_factory=list)
    tables: list[ReportTable] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.findings or self.tables or self.pictures or self.failed)


@dataclass
class Section:
    """A question and its answers."""

    page: Page
    answers: list[Answer]

    @property
    def heading(self) -> str:
        """The page's."""
        return self.page.heading


def sections(runs: Runs, pages: Iterable[Page]) -> list[Section]:
    """The sections that have an answer, in the order of the paper."""
    found = [Section(page, [answer(page, run) for run in runs.tests]) for page in pages]
    for section in found:
        section.answers = [each for each in section.answers if not each.is_empty]
    return sorted((section for section in found if section.answers), key=lambda section: section.page.place)


def answer(page: Page, run: Run) -> Answer:
    """What a run says to the question of a page; parts that fail are told, and lose none of the others."""
    found = Answer(run)
    found.tables = _attempt(found, "tables", lambda: [_noted(table, run) for table in page.tables(run.metrics)])
    if not found.tables and not found.failed:
        return found
    found.findings = _attempt(found, "findings", lambda: list(page.findings(run.metrics)))
    if any(cohort.get("simulated") for cohort in run.cohorts.values()):
        found.truths = _attempt(found, "planted truths", lambda: list(page.truths(run.metrics)))
    files: list[ReportFile] = []
    drawn = "figures" if run.arrays else "figures (without arrays.npz)"
    _attempt(found, drawn, lambda: files.extend(page.files(run.metrics, run.arrays)))
    for file in files:
        found.pictures += _attempt(found, f"figure {file.name}", lambda file=file: [picture(file)])  # type: ignore[misc]
    return found


def other_tables(run: Run, shown: set[MetricName]) -> list[ReportTable]:
    """Results of a run that no page shows."""
    return generic_tables(run.metrics, shown)


def _noted(table: ReportTable, run: Run) -> ReportTable:
    notes = [*table.notes, *cautions(run.metrics, table.conditions)]
    return ReportTable(table.title, table.rows, notes, table.conditions, table.paper)


def _attempt(found: Answer, what: str, make: Callable[[], Any]) -> Any:
    """What is made, or [] and a line that says what failed: results of any kind must not stop a report."""
    try:
        return make()
    except Exception as error:
        LOGGER.warning("%s of %s failed: %s: %s", what, found.run.name, type(error).__name__, error)
        found.failed.append(f"The {what} of {found.run.name} cannot be shown: {type(error).__name__}: {error}")
        return []
