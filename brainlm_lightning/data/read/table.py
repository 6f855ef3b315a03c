"""Tables of recordings, subjects and parcels."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pandas as pd

from brainlm_lightning.data.read.numbers import MISSING_WORDS
from brainlm_lightning.data.read.text import Rows, read_rows


def read_table(
    path: str | Path,
    text: Collection[str] = (),
    missing: Collection[str] = MISSING_WORDS,
    codes: Collection[str] = (),
    headless: bool = False,
) -> pd.DataFrame:
    """Reads a table with a header line, in whatever dialect it is written.

    A column becomes numeric only where every cell is a number and none has a leading zero: `0050649` is a name, and
    stays one. Blanks around a cell do not count.

    Args:
        path: The table; gzip or not.
        text: Columns that stay text whatever they hold, for instance identifiers.
        missing: Words (in lower case) that say that a value is missing; compared without regard to case.
        codes: Further ones, compared exactly; -9999 also means -9999.0.
        headless: The table may have no header line: where its first line begins with a whole number, that line is a
            row, and columns are called `1`, `2`, … in their order.

    Raises:
        ValueError: A row has another number of cells than the header (its line is named), or no table at all.
    """
    rows = read_rows(Path(path))
    header, cells = _header_and_cells(_with_numbered_columns(rows) if headless else rows)
    frame = pd.DataFrame(cells, columns=header, dtype=object)
    for column in frame.columns:
        kept = None if column in text else codes
        frame[column] = _column(frame[column], missing, kept, decimal_commas=rows.delimiter != ",")
    return frame


def _with_numbered_columns(rows: Rows) -> Rows:
    """Puts a header of numbers above rows that have none."""
    if not rows.cells or not rows.cells[0][0].isdigit() or _commented_header(rows) is not None:
        return rows
    numbers = [str(number) for number in range(1, len(rows.cells[0]) + 1)]
    return replace(rows, cells=[numbers, *rows.cells], lines=[0, *rows.lines])


def _header_and_cells(rows: Rows) -> tuple[list[str], list[list[str]]]:
    header, cells, lines = _commented_header(rows), rows.cells, rows.lines
    if header is None:
        if not rows.cells:
            raise ValueError(f"{rows.path}: no header line; expected a table")
        header, cells, lines = rows.cells[0], rows.cells[1:], rows.lines[1:]
    longest = len(header) + 1
    if all(len(row) == longest and not row[-1] for row in cells):
        cells = [row[:-1] for row in cells]  # each row ends in a delimiter: a column without name or content
    for row, line in zip(cells, lines, strict=True):
        if len(row) != len(header):
            raise ValueError(
                f"{rows.path}, line {line}: {len(row)} cells, and the header has {len(header)} ({header[:4]} …); "
                "correct the row, or quote a cell that holds the delimiter"
            )
    if not header[-1] and all(not row[-1] for row in cells):
        header, cells = header[:-1], [row[:-1] for row in cells]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        header = [f"{name}.{header[:column].count(name)}" if header[:column].count(name) else name
                  for column, name in enumerate(header)]  # fmt: skip
    return header, cells


def _commented_header(rows: Rows) -> list[str] | None:
    """Returns the names of a last `#` line that stands right above the rows and names as many columns."""
    above = [text for line, text in rows.comments if not rows.lines or line < rows.lines[0]]
    if not above or not rows.cells or above[-1][:1].isspace():
        return None
    names = rows.split(above[-1])
    return names if len(names) == rows.width == len(rows.cells[0]) > 1 else None


def _column(
    cells: pd.Series, missing: Collection[str], codes: Collection[str] | None, decimal_commas: bool
) -> pd.Series:
    """Replaces what is missing by NaN, and makes numbers of a column (unless `codes` is None) that holds only such."""
    column = cells.mask(cells.str.lower().isin(list(missing)))
    if codes is None:
        return column
    column = column.mask(column.isin([*codes, *(f"{code}.0" for code in codes)]))
    found = column.dropna()
    if not len(found) or found.str.match(r"^[+-]?0\d").any():
        return column
    if decimal_commas and found.str.fullmatch(r"[+-]?\d+(,\d+)?").all():
        found = found.str.replace(",", ".", regex=False)
    numbers = pd.to_numeric(found, errors="coerce")
    return numbers.reindex(cells.index) if numbers.notna().all() else column
