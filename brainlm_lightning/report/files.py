"""Every figure, HTML page and CSV table of a run, made from its metrics and arrays alone."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from brainlm_lightning.report.page import ReportFile, found_pages, left_out_if_it_fails
from brainlm_lightning.report.scores import Arrays, Metrics
from brainlm_lightning.run_folder import read_arrays, read_metrics, write_table, write_text

DOTS_PER_INCH = 130
LONGEST_NAME = 200  # bytes; file systems allow 255, and a number, a suffix and a temporary file's ending are added


def write_files(folder: Path, metrics: Metrics, arrays: Arrays) -> Iterator[tuple[str, Figure]]:
    """Writes `figures/*.png`, `pages/*.html` and `tables/*.csv` of a run; what fails is logged and left out.

    Args:
        folder: to write to; made where it is missing.
        metrics: of the run.
        arrays: of the run.

    Yields:
        Each figure with its name, once it is written.
    """
    written: set[Path] = set()
    for file in report_files(metrics, arrays):
        made = None
        with left_out_if_it_fails(f"the file {file.name!r}"):
            made = _write(folder, file, written)
        if isinstance(made, Figure):
            yield file.name, made


def write_files_of_run(folder: Path, run: Path) -> Iterator[tuple[str, Figure]]:
    """`write_files` of a run folder; a run need not have arrays."""
    arrays = read_arrays(run) if (run / "arrays.npz").is_file() else {}
    return write_files(folder, read_metrics(run), arrays)


def report_files(metrics: Metrics, arrays: Arrays) -> Iterator[ReportFile]:
    """The files of all pages; of a page that fails, those that it listed before."""
    for page in found_pages():
        with left_out_if_it_fails(f"the list of files of {type(page).__name__}"):
            yield from page.files(metrics, arrays)


def _save_figure(path: Path, figure: Figure) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)


# What a page may make -> folder, suffix, and how it is written.
KINDS: dict[type, tuple[str, str, Callable[[Path, Any], None]]] = {
    Figure: ("figures", ".png", _save_figure),
    str: ("pages", ".html", write_text),
    pd.DataFrame: ("tables", ".csv", write_table),
}


def _write(folder: Path, file: ReportFile, written: set[Path]) -> Figure | str | pd.DataFrame:
    """Makes a file, writes it under a name that is not among those written, and returns what was made."""
    made = file.make()
    for kind, (subfolder, suffix, write) in KINDS.items():
        if isinstance(made, kind):
            path = _unused(folder / subfolder / f"{file_name(file.name)}{suffix}", written)
            write(path, made)
            written.add(path)
            return made
    raise TypeError(f"it is a {type(made).__name__}; expected a matplotlib Figure, HTML text or a DataFrame")


def file_name(name: str) -> str:
    """A legal name for a file, without its suffix: letters, digits and `_.+-` of a label are kept."""
    return re.sub(r"[^\w.+-]", "_", name).encode()[:LONGEST_NAME].decode(errors="ignore")


def _unused(path: Path, written: set[Path]) -> Path:
    """The path, numbered where another label has already become the same name: `a/b` and `a b`."""
    taken = {str(other).lower() for other in written}  # some file systems do not tell A from a
    found, number = path, 1
    while str(found).lower() in taken:
        number += 1
        found = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return found
