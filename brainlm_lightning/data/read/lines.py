"""Rows of text to one recording: which line is a header, which column counts rows, and what stands between them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brainlm_lightning.data.read.expected import Expected
from brainlm_lightning.data.read.numbers import floats, is_missing, is_number, to_numbers
from brainlm_lightning.data.read.text import Rows, read_rows

FEWEST_NUMBERS = 50  # of a file, to say how many decimals are usual
RARE = 0.02  # share of numbers with so few decimals
FEWEST_TO_COUNT = 5  # rows or columns from which on a run of whole numbers is no chance
INDEX_NAMES = ("", "index", "unnamed: 0", "frame", "volume", "time", "t", "tr", "row", "timepoint", "time_s", "seconds")


@dataclass(frozen=True, eq=False)
class Cells:
    """What a text file holds.

    Attributes:
        values: (rows, columns) float64.
        header: Names of the columns, where the file has them.
        index: Names of the rows, where the file has them.
        remarks: What was recognised, for the reader to be told.
    """

    values: np.ndarray
    header: tuple[str, ...] | None
    index: tuple[str, ...] | None
    remarks: tuple[str, ...]


def read_cells(path: Path, expected: Expected) -> Cells:
    """Reads a text file of one recording.

    Raises:
        ValueError: A row of another length, a cell that is no number, a file that ends in the middle of a number; the
            line is named.
    """
    rows = read_rows(path, remarks=True)
    if not rows.cells or not any(_is_data(row) for row in rows.cells):
        begins = f"it begins with {' '.join(rows.cells[0])[:60]!r}" if rows.cells else "the file is empty"
        raise ValueError(f"{path}: no line of numbers: {begins}")
    remarks = [] if rows.encoding in ("utf-8", "utf-8-sig") else [f"text decoded as {rows.encoding}"]
    header, cells, lines = _named(rows, expected)
    cells, header = _without_empty_edges(cells, header, expected)
    rows = Rows(path, cells, lines, rows.comments, rows.delimiter, rows.encoding, rows.ended)
    if header is not None and len(header) == rows.width - 1:
        header = ["", *header]
    rows.check_widths()
    if header is not None and len(header) != rows.width:
        raise ValueError(f"{path}: {len(header)} names in the header and {rows.width} columns of numbers below it")
    index, cells = _row_names(rows, header, expected)
    if index is not None:
        header = header[1:] if header is not None else None
        remarks.append(f"the first column ({index[0]!r}, {index[1] if len(index) > 1 else ''!r}, …) names the rows")
    values = to_numbers(rows, cells, lines)
    end = _check_end(rows)
    remarks += [end] * bool(end)
    if header is None:
        header, values, index = _numbers_as_header(values, cells, index, expected)
    if header is not None and _all_numbers(header):
        remarks.append(f"the first line ({', '.join(header[:3])}, …) is a header of numbers")
    return Cells(values, tuple(header) if header else None, tuple(index) if index else None, tuple(remarks))


def _is_data(row: Sequence[str]) -> bool:
    """True for a row of numbers or missing values; its first cell may be a name."""
    return all(is_number(cell) or is_missing(cell) for cell in (row[1:] if len(row) > 2 else row))


def _named(rows: Rows, expected: Expected) -> tuple[list[str] | None, list[list[str]], list[int]]:
    """Returns the header line, if there is one, and the rows below it."""
    first = next(number for number, row in enumerate(rows.cells) if _is_data(row))
    if first > 1:
        line = rows.lines[1]
        raise ValueError(
            f"{rows.path}: line {line} holds no numbers: {','.join(rows.cells[1])[:60]!r}; expected a table of numbers "
            "below one line of names"
        )
    if first == 1:
        return rows.cells[0], rows.cells[1:], rows.lines[1:]
    top = rows.cells[0]
    if len(top) == rows.width - 1 and all(map(str.isdigit, top)) and len(set(top)) == len(top):
        return rows.cells[0], rows.cells[1:], rows.lines[1:]  # as R writes it: no name above the names of the rows
    above = [text for line, text in rows.comments if line < rows.lines[0]]
    if above:
        names = [name.lstrip("#").strip() for name in rows.split(above[-1].strip())]
        fits = rows.width > 1 and len(names) in (rows.width, rows.width - 1)
        if fits and (_all_numbers(names) or expected.knows(names)):
            return names, rows.cells, rows.lines
    return None, rows.cells, rows.lines


def _without_empty_edges(
    cells: list[list[str]], header: list[str] | None, expected: Expected
) -> tuple[list[list[str]], list[str] | None]:
    """Drops a last column that is empty in every row: each row ends in a delimiter. A parcel without data stays."""
    width = len(cells[0])
    if any(len(row) != width or row[-1] for row in cells) or width < 2:
        return cells, header
    if header is None and width == expected.num_parcels and not expected.turned:
        return cells, header
    if header is not None and len(header) == width and header[-1]:
        return cells, header
    named = header[:-1] if header is not None and len(header) == width else header
    return [row[:-1] for row in cells], named


def _row_names(
    rows: Rows, header: Sequence[str] | None, expected: Expected
) -> tuple[list[str] | None, list[list[str]]]:
    """Returns the first column where it names or counts the rows, and the cells without it."""
    first = [row[0] for row in rows.cells]
    rest = [row[1:] for row in rows.cells]
    if rows.width < 2:
        return None, rows.cells
    words = sum(not is_number(cell) and not is_missing(cell) for cell in first)
    if words > len(first) / 2:
        return first, rest
    named = header is not None and header[0].lower() in INDEX_NAMES
    steady = _is_steady(first) or (not is_number(first[0]) and _is_steady(first[1:]))
    if expected.turned:
        ids = [cell for cell in first if cell.isdigit()]
        own = len(ids) == len(first) >= FEWEST_TO_COUNT and (expected.knows(first) or _counts(first))
        return (first, rest) if own or named else (None, rows.cells)
    if rows.width == expected.num_parcels + 1 and (steady or named):
        return first, rest
    if rows.width == expected.num_parcels and _counts(first) and len(first) >= FEWEST_TO_COUNT:
        raise ValueError(
            f"{rows.path}: the first column counts the rows ({first[0]}, {first[1]}, …), which leaves "
            f"{rows.width - 1} parcels where the atlas has {expected.num_parcels}; export all parcels"
        )
    return None, rows.cells


def _is_steady(cells: Sequence[str]) -> bool:
    """True for numbers that grow by one step: rows, or seconds."""
    numbers = floats(cells)
    if numbers is None or len(numbers) < 3:
        return False
    steps = np.diff(numbers)
    return bool(steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3))


def _counts(cells: Sequence[str]) -> bool:
    """True for 0, 1, 2 … and 1, 2, 3 …, in order."""
    numbers = floats(cells)
    return numbers is not None and numbers[0] in (0, 1) and bool((np.diff(numbers) == 1).all())


def _all_numbers(names: Sequence[str]) -> bool:
    return all(is_number(name) for name in names)


def _numbers_as_header(
    values: np.ndarray, cells: list[list[str]], index: list[str] | None, expected: Expected
) -> tuple[list[str] | None, np.ndarray, list[str] | None]:
    """Takes the first line as a header where it holds numbers of columns or of regions, not a frame."""
    if len(values) < 2 or not _numbers_columns(values, cells, expected):
        return None, values, index
    return list(cells[0]), values[1:], index[1:] if index is not None else None


def _numbers_columns(values: np.ndarray, cells: list[list[str]], expected: Expected) -> bool:
    top, below = values[0], cells[1:]
    whole = bool(np.isfinite(top).all() and (top == np.round(top)).all() and (top >= 0).all())
    if not whole or len(np.unique(top)) < len(top):
        return False
    if expected.turned and len(values) != expected.num_parcels + 1:
        return False
    if _counts(cells[0]) and len(top) >= FEWEST_TO_COUNT:
        return True
    written_whole = all(cell.isdigit() for cell in cells[0])
    fractions = sum("." in cell or "," in cell for row in below[:20] for cell in row)
    if written_whole and len(top) >= 3 and fractions > 0.5 * sum(map(len, below[:20])):
        return True
    growing = bool((np.diff(top) > 0).all())
    return written_whole and len(top) >= FEWEST_TO_COUNT and (growing or expected.knows(cells[0], whole=True))


def _check_end(rows: Rows) -> str:
    """Refuses a file that ends within a number: no end of line, and fewer decimals than hardly any other number has.

    Returns:
        A remark where the last line has no end and its number may be whole.
    """
    if rows.ended:
        return ""
    last = rows.cells[-1][-1]
    decimals = [_decimals(cell) for row in rows.cells for cell in row if not is_missing(cell)]
    as_few = sum(number <= _decimals(last) for number in decimals) - 1
    cut = len(decimals) > FEWEST_NUMBERS and as_few < RARE * len(decimals) and not is_missing(last)
    if cut or last in ("-", ".", "n", "n/"):
        raise ValueError(
            f"{rows.path}, line {rows.lines[-1]}: the file ends within the number {last!r}; it was cut short. Copy it "
            "again, or end its last line if it is whole"
        )
    return "the last line has no end: the file may have been cut short"


def _decimals(cell: str) -> int:
    return len(re.split("[.,]", cell)[-1]) if "." in cell or "," in cell else 0
