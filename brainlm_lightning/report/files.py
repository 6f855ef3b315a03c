"""Every figure, HTML page and CSV table of a run, made from its metrics and arrays alone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from brainlm_lightning.report.page import ReportFile, found_pages, left_out_if_it_fails
from brainlm_lightning.report.scene import Scene, scene_page
from brainlm_lightning.report.scores import Arrays, Metrics
from brainlm_lightning.run_folder import file_name, read_arrays, read_metrics, write_table, write_text

DOTS_PER_INCH = 130


def write_files(folder: Path, metrics: Metrics, arrays: Arrays) -> Iterator[tuple[str, Figure]]:
    """Writes `figures/*.png`, `pages/*.html` and `tables/*.csv` of a run; files that fail are logged and left out.

    Args:
        folder: output folder; created if missing.
        metrics: of the run.
        arrays: of the run.

    Yields:
        Name and figure of each figure, after it was written.
    """
    written: set[Path] = set()
    for file in report_files(metrics, arrays):
        made = None
        with left_out_if_it_fails(f"the file {file.name!r}"):
            made = _write(folder, file, written)
        if isinstance(made, Figure):
            yield file.name, made


def write_files_of_run(folder: Path, run: Path) -> Iterator[tuple[str, Figure]]:
    """Applies `write_files` to a run folder; `arrays.npz` is optional."""
    arrays = read_arrays(run) if (run / "arrays.npz").is_file() else {}
    return write_files(folder, read_metrics(run), arrays)


def report_files(metrics: Metrics, arrays: Arrays) -> Iterator[ReportFile]:
    """The files of all pages; for a page that fails, those that it listed before failing."""
    for page in found_pages():
        with left_out_if_it_fails(f"the list of files of {type(page).__name__}"):
            yield from page.files(metrics, arrays)


def _save_figure(path: Path, figure: Figure) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)


# Type that a page returns -> folder, suffix, function that writes it.
KINDS: dict[type, tuple[str, str, Callable[[Path, Any], None]]] = {
    Figure: ("figures", ".png", _save_figure),
    Scene: ("pages", ".html", lambda path, scene: write_text(path, scene_page(scene))),
    str: ("pages", ".html", write_text),
    pd.DataFrame: ("tables", ".csv", write_table),
}


def _write(folder: Path, file: ReportFile, written: set[Path]) -> Figure | Scene | str | pd.DataFrame:
    """Makes a file, writes it under an unused name, and returns the object that was written."""
    made = file.make()
    for kind, (subfolder, suffix, write) in KINDS.items():
        if isinstance(made, kind):
            path = _unused(folder / subfolder / f"{file_name(file.name)}{suffix}", written)
            write(path, made)
            written.add(path)
            return made
    raise TypeError(f"got a {type(made).__name__}; expected a matplotlib Figure, a Scene, HTML text or a DataFrame")


def _unused(path: Path, written: set[Path]) -> Path:
    """Appends a number if another label was already mapped to the same name, like `a/b` and `a b`."""
    taken = {str(other).lower() for other in written}  # some file systems ignore case
    found, number = path, 1
    while str(found).lower() in taken:
        number += 1
        found = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return found
