"""Cells to numbers, whatever their decimal mark and exponent, and every way to write that a value is missing."""

import re
from collections.abc import Sequence

import numpy as np

from brainlm_lightning.data.read.text import Rows

# Of a cell in a table; a cell of a series may say `none` as well, which in a table is a class.
MISSING_WORDS = ("", "n/a", "na", "nan", "-nan", "null", ".", "-", "--", "#n/a", "#null!", "<na>", "nat")
MISSING_IN_SERIES = frozenset((*MISSING_WORDS, "none", "missing"))
PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
GROUPED = {mark: re.compile(rf"[+-]?\d{{1,3}}({re.escape(mark)}\d{{3}})+(\D\d*)?") for mark in ",."}


def is_missing(cell: str) -> bool:
    """True where a cell of a series says that there is no value."""
    return cell.lower() in MISSING_IN_SERIES


def is_number(cell: str) -> bool:
    """True for what can be read as a number with either decimal mark."""
    return PLAIN.fullmatch(_plain(cell, "," if cell.rfind(",") > cell.rfind(".") else ".")) is not None


def floats(cells: Sequence[str]) -> np.ndarray | None:
    """Returns cells that are all numbers, as float64; None where one is not."""
    comma = any("," in cell for cell in cells) and not any("." in cell for cell in cells)
    plain = [_plain(cell, "," if comma else ".") for cell in cells]
    return np.array(list(map(float, plain))) if all(map(PLAIN.fullmatch, plain)) else None


def to_numbers(rows: Rows, cells: Sequence[list[str]], lines: Sequence[int]) -> np.ndarray:
    """Returns the cells as (rows, columns) float64; missing values are NaN.

    Raises:
        ValueError: A cell is no number (its line and column are named), or decimal marks are mixed.
    """
    values = np.empty((len(cells), len(cells[0]) if cells else 0))
    mark = None
    for number, row in enumerate(cells):
        try:
            if "_" in "".join(row):  # Python would read 1_000 as a number
                raise ValueError
            values[number] = list(map(float, row))
        except ValueError:
            mark = mark or _decimal_mark(rows, cells)
            values[number] = [_number(rows, lines[number], column, cell, mark) for column, cell in enumerate(row, 1)]
    return values


def _number(rows: Rows, line: int, column: int, cell: str, mark: str) -> float:
    if is_missing(cell):
        return np.nan
    plain = _plain(cell, mark)
    if not PLAIN.fullmatch(plain):
        raise ValueError(
            f"{rows.path}, line {line}, column {column}: {cell!r} is not a number; correct it, or write n/a where "
            "a value is missing"
        )
    return float(plain)


def _plain(cell: str, mark: str) -> str:
    """Returns a number as Python writes it: point, E, no grouping of thousands."""
    text = cell.strip("'\"").replace("−", "-")
    other = "." if mark == "," else ","
    if GROUPED[other].fullmatch(text):
        text = text.replace(other, "")
    return re.sub(r"(?<=[\d.])[dD](?=[+-]?\d)", "E", text.replace(",", ".") if mark == "," else text)


def _decimal_mark(rows: Rows, cells: Sequence[list[str]]) -> str:
    """Returns `.` or `,`: what the numbers of a whole file can only mean."""
    with_comma = [cell for row in cells for cell in row if "," in cell]
    with_point = any("." in cell and "," not in cell for row in cells for cell in row if not is_missing(cell))
    if not with_comma:
        return "."
    both = [cell for cell in with_comma if "." in cell]
    if both:
        return "." if both[0].rfind(".") > both[0].rfind(",") else ","
    grouped = all(GROUPED[","].fullmatch(cell) for cell in with_comma)
    if with_point and not grouped:
        raise ValueError(f"{rows.path}: decimal points and decimal commas ({with_comma[0]!r}) in one file; use one")
    if grouped and rows.delimiter == "," and not with_point:
        raise ValueError(
            f"{rows.path}: {with_comma[0]!r} may be thousands or decimals; export without grouping, with decimal points"
        )
    return "." if with_point else ","
