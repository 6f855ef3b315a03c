"""Every figure, page and table of a run, made from its metrics and arrays alone."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brainlm_lightning.report.attention import matrix_figures, matrix_pages
from brainlm_lightning.report.brain import brain_figures, brain_pages, parcel_tables
from brainlm_lightning.report.clinical import clinical_results
from brainlm_lightning.report.clinical_figures import clinical_figures
from brainlm_lightning.report.figures import r2_by_ratio_figure
from brainlm_lightning.report.forecast import forecast_figures
from brainlm_lightning.report.network_figures import network_figures
from brainlm_lightning.report.reconstruction import reconstruction_cells
from brainlm_lightning.run_folder import write_table, write_text

Metrics = Mapping[str, float]
Arrays = Mapping[str, NDArray[Any]]
DOTS_PER_INCH = 130


def figures(metrics: Metrics, arrays: Arrays) -> Iterator[tuple[str, Figure]]:
    """The figures of all results of a run with their names."""
    if reconstruction_cells(metrics):
        yield "r2_by_ratio", r2_by_ratio_figure(metrics)
    yield from brain_figures(arrays, metrics)
    yield from matrix_figures(arrays)
    yield from clinical_figures(arrays, [result.place for result in clinical_results(metrics)]).items()
    yield from forecast_figures(metrics, arrays)
    yield from network_figures(metrics, arrays).items()


def pages(metrics: Metrics, arrays: Arrays) -> Iterator[tuple[str, str]]:
    """The HTML pages of a run with their names; they need no network."""
    yield from brain_pages(arrays, metrics)
    yield from matrix_pages(arrays)


def parcel_lists(metrics: Metrics, arrays: Arrays) -> Iterator[tuple[str, pd.DataFrame]]:
    """The tables of a run that have a row a parcel, with their names."""
    yield from parcel_tables(arrays, metrics)


def write_files(folder: Path, metrics: Metrics, arrays: Arrays) -> Iterator[tuple[str, Figure]]:
    """Writes `figures/*.png`, `pages/*.html` and `tables/*.csv` of a run.

    Args:
        folder: to write to; made where it is missing.
        metrics: of the run.
        arrays: of the run.

    Yields:
        Each figure with its name, once it is written.
    """
    for name, page in pages(metrics, arrays):
        write_text(folder / "pages" / file_name(name, "html"), page)
    for name, table in parcel_lists(metrics, arrays):
        write_table(folder / "tables" / file_name(name, "csv"), table)
    for name, figure in figures(metrics, arrays):
        path = folder / "figures" / file_name(name, "png")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DOTS_PER_INCH)
        yield name, figure


def file_name(name: str, suffix: str) -> str:
    """`<contrast>/<map>` as the name of a file; users name contrasts and phenotypes."""
    return re.sub(r"[^\w.+-]", "_", name) + f".{suffix}"
