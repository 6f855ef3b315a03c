"""All tables of a run: those of the pages, and generic ones for results that no page shows."""

from dataclasses import replace

from rich.table import Table

from brainlm_lightning.report.cautions import cautions
from brainlm_lightning.report.generic import generic_tables
from brainlm_lightning.report.page import Page, found_pages, left_out_if_it_fails
from brainlm_lightning.report.report_table import ReportTable
from brainlm_lightning.report.scores import Metrics


def report_tables(metrics: Metrics) -> list[ReportTable]:
    """The tables of a run."""
    found = [table for page in found_pages() for table in _tables_of(page, metrics)]
    found += generic_tables(metrics, {condition for table in found for condition in table.conditions})
    return [replace(table, notes=[*table.notes, *cautions(metrics, table.conditions)]) for table in found]


def _tables_of(page: Page, metrics: Metrics) -> list[ReportTable]:
    """A page's tables; [] if it fails, so that its results get generic tables."""
    with left_out_if_it_fails(f"the table of {type(page).__name__}"):
        return list(page.tables(metrics))
    return []


def tables(metrics: Metrics) -> list[Table]:
    """The tables of a run, rendered for the terminal."""
    return [table.rich() for table in report_tables(metrics)]


def markdown(metrics: Metrics) -> str:
    """The tables of a run as Markdown."""
    return "\n".join(table.markdown() for table in report_tables(metrics))
