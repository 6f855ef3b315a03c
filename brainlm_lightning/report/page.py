"""A question's page of a report, and the discovery of all pages.

To show the results of another task, subclass `Page` in a module of this folder, or in any installed package that
registers the class in its `pyproject.toml`:

    [project.entry-points."brainlm_lightning.pages"]
    sleep = "my_package.sleep_page:SleepPage"
"""

import inspect
import logging
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import ClassVar

import pandas as pd
from matplotlib.figure import Figure

import brainlm_lightning.report
from brainlm_lightning.report.finding import Finding, Truth
from brainlm_lightning.report.report_table import ReportTable
from brainlm_lightning.report.scene import Scene
from brainlm_lightning.report.scores import Arrays, Metrics

ENTRY_POINTS = "brainlm_lightning.pages"
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportFile:
    """A file of a report, made when it is written, so that one that fails does not affect the others.

    Attributes:
        name: without a suffix; any characters are allowed.
        make: draws a figure (saved as PNG), or returns a rotatable brain or HTML (a page), or a table (CSV).
        caption: what is seen and how it was computed.
        paper: figure of the paper that shows the same, "3"; "" if none does.
    """

    name: str
    make: Callable[[], "Figure | Scene | str | pd.DataFrame"]
    caption: str = ""
    paper: str = ""


class Page(ABC):
    """The part of a report about one question; finds its results by their names.

    Attributes:
        heading: of its section.
        place: of its section among the others; sections without one come last.
        paper_table: number of the paper's table that holds the same, 0 if none does.
        wanted: the experiment that answers the question, for a report in which it is missing; "" if none is expected.
    """

    heading: ClassVar[str] = "Other results"
    place: ClassVar[int] = 100
    paper_table: ClassVar[int] = 0
    wanted: ClassVar[str] = ""

    @abstractmethod
    def tables(self, metrics: Metrics) -> Iterable[ReportTable]:
        """The tables of a run; none if it has no results for this question."""

    def files(self, metrics: Metrics, arrays: Arrays) -> Iterable[ReportFile]:
        """The figures, HTML pages and CSV tables of a run; by default none."""
        return ()

    def findings(self, metrics: Metrics) -> Iterable[Finding]:
        """What a summary says of a run: the method under test beside its strongest opponent; by default nothing."""
        return ()

    def truths(self, metrics: Metrics) -> Iterable[Truth]:
        """What a simulation planted beside what was found; by default nothing."""
        return ()


def found_pages() -> list[Page]:
    """One instance of each `Page` in this folder, then of each entry point; one that fails to load is left out."""
    folder = brainlm_lightning.report
    modules = [import_module(f"{folder.__name__}.{found.name}") for found in pkgutil.iter_modules(folder.__path__)]
    pages = [value() for module in modules for value in vars(module).values() if _is_page_of(module.__name__, value)]
    for entry in entry_points(group=ENTRY_POINTS):
        with left_out_if_it_fails(f"the report page {entry.name!r} ({entry.value})"):
            pages.append(entry.load()())
    return pages


def _is_page_of(module: str, value: object) -> bool:
    """True for a concrete `Page` that is defined in the module, not imported into it."""
    if not (isinstance(value, type) and issubclass(value, Page)):
        return False
    return value.__module__ == module and not inspect.isabstract(value)


@contextmanager
def left_out_if_it_fails(what: str) -> Iterator[None]:
    """Logs an exception as a warning that names what failed, so that the rest of the report is still made."""
    try:
        yield
    except Exception as error:
        LOGGER.warning("%s failed and is left out of the report: %s: %s", what, type(error).__name__, error)
        LOGGER.debug("%s failed", what, exc_info=True)
