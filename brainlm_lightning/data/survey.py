"""Looks at a folder: which files are series, which are tables, and how they belong together. Nothing is changed."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlm_lightning.data.read import ARRAYS, TEXT
from brainlm_lightning.data.read.expected import Expected
from brainlm_lightning.data.read.lines import read_cells
from brainlm_lightning.data.read.sidecar import sidecar_tr_s
from brainlm_lightning.data.read.table import read_table
from brainlm_lightning.data.survey_tree import bids_kinds, sample

DEEPEST = 4  # folders below the one that is described
MOST_OPENED = 200  # files; more of one kind tell nothing new
FEWEST_FRAMES, FEWEST_PARCELS = 20, 10  # of a series; smaller arrays of numbers are motion, events, atlases
FEWEST_NAMED = 0.5  # of the files that a table of recordings names
NUISANCE = ("confounds", "regressors", "motion", "outliers", "nuisance")  # in names of files that are no series
PARCEL_WORDS = ("x", "y", "z", "x_mm", "centroid_x", "roi", "label", "network", "yeo7", "hemisphere")


@dataclass(frozen=True)
class SeriesFile:
    """A file that holds one series.

    Attributes:
        path: Below the folder.
        frames: Rows of numbers.
        columns: Columns of numbers.
        header: Names of the columns, where there are some.
    """

    path: Path
    frames: int
    columns: int
    header: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Table:
    """A table of recordings, subjects or parcels.

    Attributes:
        path: Below the folder.
        columns: Its columns.
        rows: How many.
        parcels: It looks like an atlas.
    """

    path: Path
    columns: tuple[str, ...]
    rows: int
    parcels: bool


@dataclass(frozen=True, eq=False)
class Survey:
    """What a folder holds.

    Attributes:
        folder: The folder.
        series: Files with a series, of the most frequent number of columns.
        others: Files with numbers that are no such series, by what they are.
        tables: Tables.
        bids: Endings of BIDS derivatives that could be recordings, and how many.
        tr_s: Seconds from frame to frame that sidecars say, with how many say so.
        lengths: Frames of some recordings of a derivatives tree.
        columns: Columns of some parcel tables of a derivatives tree.
        unopened: How many files of a kind were not opened.
    """

    folder: Path
    series: list[SeriesFile] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    tables: list[Table] = field(default_factory=list)
    bids: Counter[str] = field(default_factory=Counter)
    tr_s: Counter[float] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    unopened: int = 0


def survey(folder: Path) -> Survey:
    """Looks at every file below a folder, and opens at most a few hundred.

    Raises:
        NotADirectoryError: There is no such folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: no such folder")
    kinds = list(bids_kinds(folder))
    found = Survey(folder, bids=Counter(kind for kind, _ in kinds))
    if found.bids:
        usual_kind = found.bids.most_common(1)[0][0]
        looked_at = sample([path for kind, path in kinds if kind == usual_kind])
        found.lengths.extend(looked_at.lengths)
        found.columns.extend(looked_at.columns)
        found.tr_s.update(looked_at.tr_s)
        found.others.update(f"unreadable: {reason}" for reason in looked_at.unreadable)
    files = [path for path in _files(folder) if not path.name.startswith(("sub-",)) or not found.bids]
    opened: list[SeriesFile] = []
    for path in files[:MOST_OPENED]:
        try:
            _look(path, folder, found, opened)
        except Exception as error:  # a damaged file; `prepare --dry-run` says more
            found.others[f"unreadable: {path.name} ({type(error).__name__})"] += 1
    usual = Counter(entry.columns for entry in opened).most_common(1)
    for entry in opened:
        if entry.columns == usual[0][0]:
            found.series.append(entry)
        else:
            names = f" ({', '.join(entry.header[:3])}, …)" if entry.header else ""
            found.others[f"series of {entry.columns} columns{names}: {entry.path.parent / '…'}{entry.path.suffix}"] += 1
    said = [sidecar_tr_s(folder / entry.path) for entry in found.series]
    found.tr_s.update(value for value in said if value is not None)
    return Survey(**(vars(found) | {"unopened": max(len(files) - MOST_OPENED, 0)}))


def naming_template(table: pd.DataFrame, names: Sequence[str]) -> tuple[str, str] | None:
    """Returns the template that a table's rows fill to names of files, and the column that names most.

    Args:
        table: With text columns.
        names: Of files, relative to the folder.

    Returns:
        For instance `{participant_id}_{session_id}.txt` and `participant_id`; None where the table names too few files.
    """
    best: tuple[int, int, str, str] | None = None
    for column in table.columns:
        cells = table[column].dropna().astype(str)
        if cells.nunique() < max(2, 0.3 * len(table)):
            continue
        templates: dict[str, set[str]] = {}
        for row in table.loc[cells.index].to_dict("records"):
            for name in names:
                if _inside(str(row[column]), name):
                    templates.setdefault(_filled(name, row, str(column)), set()).add(name)
        if templates:
            template, filled = max(templates.items(), key=lambda pair: len(pair[1]))
            found = (len(filled), int(cells.is_unique), template, str(column))
            best = found if best is None or found[:2] > best[:2] else best
    return best[2:] if best is not None and best[0] >= FEWEST_NAMED * min(len(names), len(table)) else None


def _filled(name: str, row: Mapping[Any, Any], first: str) -> str:
    """Returns a name with the cells of its row put in braces."""
    template = name.replace(str(row[first]), f"{{{first}}}")
    for column, cell in row.items():
        text = str(cell)
        if column != first and len(text) > 1 and not text.isdigit() and _inside(text, template):
            template = template.replace(text, f"{{{column}}}")
    return template


def _inside(cell: str, name: str) -> bool:
    """True where a name holds the cell as a part of its own: `sub-1` is not in `sub-12`."""
    first = name.find(cell)
    around = (name[first - 1 : first], name[first + len(cell) : first + len(cell) + 1])
    return first >= 0 and not any(character.isalnum() for character in around if character)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and len(path.relative_to(folder).parts) <= DEEPEST and not path.name.startswith("."):
            yield path


def _look(path: Path, folder: Path, found: Survey, opened: list[SeriesFile]) -> None:
    """Says what one file is."""
    inner = path.relative_to(folder)
    ending = path.suffix.lower()
    if ending == ".npz":
        _look_into_npz(path, inner, opened)
    elif ending == ".npy":
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        if len(shape) == 2:
            opened.append(SeriesFile(inner, *shape))
    elif ending in ARRAYS:
        found.others[f"{ending} files, to be read as FILE::NAME"] += 1
    elif ending in TEXT or (ending == ".gz" and Path(path.stem).suffix.lower() in TEXT):
        _look_into_text(path, inner, found, opened)
    else:
        found.others[f"{ending or 'unnamed'} files"] += 1


def _look_into_npz(path: Path, inner: Path, opened: list[SeriesFile]) -> None:
    with np.load(path, allow_pickle=False) as archive:
        names = archive.files
        for name in names[:: max(len(names) // 10, 1)]:
            values = archive[name]
            if values.ndim == 2:
                opened.append(SeriesFile(Path(f"{inner}::{name}"), *values.shape))


def _look_into_text(path: Path, inner: Path, found: Survey, opened: list[SeriesFile]) -> None:
    try:
        table = read_table(path, headless=True)
    except ValueError:
        table = pd.DataFrame()
    words = sum(not pd.api.types.is_numeric_dtype(table[column]) for column in table.columns)
    parcels = sum(str(name).lower() in PARCEL_WORDS for name in table.columns) >= 2 or _numbers_labels(table)
    if any(word in path.name.lower() for word in NUISANCE):
        found.others["tables of confounds or motion"] += 1
        return
    events = {"onset", "duration"} <= set(table.columns)
    if events:
        found.others["tables of events"] += 1
    elif len(table) and (words or parcels) and len(table.columns) < 60:
        found.tables.append(Table(inner, tuple(map(str, table.columns)), len(table), parcels))
    else:
        _look_at_numbers(path, inner, found, opened)


def _numbers_labels(table: pd.DataFrame) -> bool:
    """True for a table without a header line whose rows are a number from 1 on and a word: labels of parcels."""
    if list(table.columns[:2]) != ["1", "2"] or not len(table):
        return False
    first, second = table["1"], table["2"]
    return bool(first.tolist() == list(range(1, len(table) + 1)) and not pd.api.types.is_numeric_dtype(second))


def _look_at_numbers(path: Path, inner: Path, found: Survey, opened: list[SeriesFile]) -> None:
    try:
        cells = read_cells(path, Expected("frames_parcels", 0))
    except ValueError as error:
        found.others[f"unreadable: {error}"] += 1
        return
    frames, columns = cells.values.shape
    if columns < FEWEST_PARCELS or frames < FEWEST_FRAMES:
        name = cells.header[0] if cells.header else "numbers"
        found.others[f"files of {columns} columns ({name}): no parcels"] += 1
    else:
        opened.append(SeriesFile(inner, frames, columns, cells.header))
