"""Every table of a run, whatever its question was."""

from collections.abc import Mapping

from rich.table import Table

from brainlm_lightning.report.attention import attention_markdown, attention_tables
from brainlm_lightning.report.clinical import clinical_markdown, clinical_tables
from brainlm_lightning.report.forecast import forecast_markdown, forecast_tables
from brainlm_lightning.report.network import network_markdown, network_tables
from brainlm_lightning.report.perturbation import perturbation_markdown, perturbation_tables
from brainlm_lightning.report.reconstruction import reconstruction_markdown, reconstruction_tables

# One of each family of results; each finds its own among a run's metrics by their names.
TABLES = (
    reconstruction_tables,
    forecast_tables,
    attention_tables,
    clinical_tables,
    perturbation_tables,
    network_tables,
)
MARKDOWN = (
    reconstruction_markdown,
    forecast_markdown,
    attention_markdown,
    clinical_markdown,
    perturbation_markdown,
    network_markdown,
)


def tables(metrics: Mapping[str, float]) -> list[Table]:
    """The tables of all results among the metrics of a run."""
    return [table for family in TABLES for table in family(metrics)]


def markdown(metrics: Mapping[str, float]) -> str:
    """The same as Markdown."""
    return "\n".join(text for family in MARKDOWN if (text := family(metrics)))
