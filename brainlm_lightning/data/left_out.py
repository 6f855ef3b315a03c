"""Recordings that are kept out of training as a whole, whole sites above all, to be tested on."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

SUFFIX = "_left_out"  # of a cohort's name, for the test set of what is left out of it


@dataclass(frozen=True)
class LeftOut:
    """Recordings to leave out, by the value in one column.

    Attributes:
        column: of the table of recordings, ``site`` for instance.
        values: all recordings with one of these neither train nor validate, whatever their subjects' split.
    """

    column: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuses to leave out nothing."""
        if not self.values:
            raise ValueError(f"leave_out.values is empty; name values of {self.column!r}, or set leave_out: null")

    def among(self, table: pd.DataFrame) -> np.ndarray:
        """True for the recordings to leave out.

        Args:
            table: of all recordings; a column of numbers is compared as it is printed.

        Raises:
            ValueError: there is no such column, or no recording with one of the values.
        """
        if self.column not in table:
            raise ValueError(
                f"leave_out names the column {self.column!r}; the table of recordings has {', '.join(table.columns)}"
            )
        found = table[self.column].astype(str)
        absent = [value for value in self.values if value not in set(found)]
        if absent:
            there = ", ".join(f"{value!r} ({count})" for value, count in found.value_counts().items())
            raise ValueError(f"leave_out: no recording has {self.column} {absent[0]!r}; there are {there}")
        return found.isin(self.values).to_numpy()
