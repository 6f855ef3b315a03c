"""Groups of recordings, selected by columns of the cohort's table.

A filter is a mapping of plain values (`{column: age, below: 65}`), never an expression, so nothing in it can run.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import pandas as pd

HIDDEN = ("shard", "shard_row", "first_frame", "sha256", "store", "row")  # of the store, not of the recordings
SHOWN_VALUES = 12


@dataclass(frozen=True)
class Filter:
    """Selects recordings by the value in one column. Rows with a missing value never match.

    Attributes:
        column: of the table of recordings: ``task``, ``session``, ``site``, ``cohort``, a phenotype.
        equals: this value.
        one_of: one of these values.
        above: more than this.
        below: less than this.
        tercile: ``lower``, at most the first of the two values that divide the subjects (of the recordings that the
            filters before it left) into thirds, or ``upper``, more than the second.
    """

    column: str
    equals: str | float | None = None
    one_of: tuple[str | float, ...] | None = None
    above: float | None = None
    below: float | None = None
    tercile: Literal["lower", "upper"] | None = None

    def __post_init__(self) -> None:
        """Validate that a condition is given."""
        if all(getattr(self, field.name) is None for field in fields(self)[1:]):
            conditions = ", ".join(field.name for field in fields(self)[1:])
            raise ValueError(f"the filter on column {self.column!r} names no condition; give one of {conditions}")

    def __str__(self) -> str:
        """`age below 65`."""
        given = ((field.name, getattr(self, field.name)) for field in fields(self)[1:])
        return f"{self.column} " + " and ".join(f"{name} {value}" for name, value in given if value is not None)

    def keep(self, table: pd.DataFrame) -> np.ndarray:
        """True for the rows that match.

        Raises:
            ValueError: no such column, or one of words where numbers are compared.
        """
        if self.column not in table.columns or self.column in HIDDEN:
            there = ", ".join(name for name in table.columns if name not in HIDDEN)
            raise ValueError(f"there is no column {self.column!r} to filter on; the cohort's table has {there}")
        column = table[self.column]
        kept = column.notna().to_numpy()
        if self.equals is not None or self.one_of is not None:
            kept = kept & (_equal(column, (*(self.one_of or ()), *(() if self.equals is None else (self.equals,)))))
        if self.above is not None:
            kept = kept & (self._numbers(column) > self.above)
        if self.below is not None:
            kept = kept & (self._numbers(column) < self.below)
        if self.tercile is not None:
            kept = kept & (self._in_tercile(table))
        return kept

    def _numbers(self, column: pd.Series) -> np.ndarray:
        if not pd.api.types.is_numeric_dtype(column):
            raise ValueError(f"column {self.column!r} holds words ({_values(column)}); `{self}` compares numbers")
        return column.to_numpy(float)

    def _in_tercile(self, table: pd.DataFrame) -> np.ndarray:
        """Terciles over subjects, so that a subject with many recordings counts once."""
        numbers = self._numbers(table[self.column])
        by_subject = pd.Series(numbers).groupby(table["subject_id"].to_numpy()).mean().dropna()
        if by_subject.empty:
            return np.zeros(len(table), dtype=bool)
        first, second = np.quantile(by_subject, [1 / 3, 2 / 3])
        return np.asarray(numbers <= first if self.tercile == "lower" else numbers > second)


def _equal(column: pd.Series, wanted: tuple[Any, ...]) -> np.ndarray:
    """Numbers are compared as numbers, words as words: 1 is 1.0 in a column of numbers."""
    if not pd.api.types.is_numeric_dtype(column):
        return column.astype(str).isin([str(value) for value in wanted]).to_numpy()
    numbers = pd.to_numeric(pd.Series(list(wanted)), errors="coerce").dropna()
    return column.isin(numbers.to_list()).to_numpy()


def _values(column: pd.Series) -> str:
    """A column's values for a message: a range for many numbers, else the most frequent values with counts."""
    counts = column.value_counts(dropna=False)
    if pd.api.types.is_numeric_dtype(column) and len(counts) > SHOWN_VALUES / 2:
        return f"{column.min():g} to {column.max():g}"
    shown = ", ".join(f"{value!r} ({count})" for value, count in counts.head(SHOWN_VALUES).items())
    return shown + (f" and {len(counts) - SHOWN_VALUES} more" if len(counts) > SHOWN_VALUES else "")


def in_words(filters: tuple[Filter, ...]) -> str:
    """`task equals rest, age below 65`."""
    return ", ".join(map(str, filters)) or "everybody"


def select(table: pd.DataFrame, filters: tuple[Filter, ...], name: str, among: np.ndarray) -> np.ndarray:
    """Rows of the table that pass every filter in turn.

    Args:
        table: of recordings.
        filters: applied in turn.
        name: of the group, for messages.
        among: rows to choose from.

    Raises:
        ValueError: a column is unknown, or no recording is left; lists the values that there are.
    """
    rows = np.asarray(among)
    for given in filters:
        left = rows[given.keep(table.iloc[rows])]
        if not len(left):
            raise ValueError(
                f"{name}: no recording with `{given}` among {len(rows)}; "
                f"{given.column} has {_values(table.iloc[rows][given.column])}"
            )
        rows = left
    if not len(rows):
        raise ValueError(f"{name}: there is no recording to choose from")
    return rows
