"""Cells of CSV files that a spreadsheet would run as a formula, made harmless; and back.

A text that begins with one of `= + - @`, a tab or a line end gets an apostrophe in front, which spreadsheets
take for the mark of text. Numbers stay as they are.
"""

import re
from typing import Any

import pandas as pd

RISKY = r"^('*[=+\-@\t\r])"


def harmless(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose texts no spreadsheet runs."""
    return _replaced(table, RISKY, r"'\1")


def original(table: pd.DataFrame) -> pd.DataFrame:
    """The inverse of `harmless`."""
    return _replaced(table, r"^'('*[=+\-@\t\r])", r"\1")


def _replaced(table: pd.DataFrame, pattern: str, by: str) -> pd.DataFrame:
    def cell(value: Any) -> Any:
        return re.sub(pattern, by, value) if isinstance(value, str) else value

    def found(value: Any) -> bool:
        return isinstance(value, str) and re.match(pattern, value) is not None

    texts = [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    changed = [name for name in texts if table[name].map(found).any()]
    return table.assign(**{name: table[name].map(cell).astype(table[name].dtype) for name in changed})
