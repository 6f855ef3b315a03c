"""Every table of a run, whatever its question was."""

from collections.abc import Mapping

from rich.table import Table

from brainlm_lightning.report.attention import attention_grids
from brainlm_lightning.report.clinical import clinical_grids
from brainlm_lightning.report.forecast import forecast_grids
from brainlm_lightning.report.grid import Grid
from brainlm_lightning.report.network import network_grids
from brainlm_lightning.report.perturbation import perturbation_grids
from brainlm_lightning.report.reconstruction import reconstruction_grids

# One of each family of results; each finds its own among a run's metrics by their names.
FAMILIES = (
    reconstruction_grids,
    forecast_grids,
    clinical_grids,
    attention_grids,
    network_grids,
    perturbation_grids,
)


def grids(metrics: Mapping[str, float]) -> list[Grid]:
    """The tables of all results among the metrics of a run."""
    return [grid for family in FAMILIES for grid in family(metrics)]


def tables(metrics: Mapping[str, float]) -> list[Table]:
    """The same for the terminal."""
    return [grid.rich() for grid in grids(metrics)]


def markdown(metrics: Mapping[str, float]) -> str:
    """The same as Markdown."""
    return "\n".join(grid.markdown() for grid in grids(metrics))
