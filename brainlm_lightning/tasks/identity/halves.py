"""Halves of what was recorded of each subject: an embedding that carries the person is alike in both.

Shapes: U subjects.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.embedding.recordings import window_starts

Window = tuple[int, int]  # row of the recording, first frame


@dataclass(frozen=True)
class Halves:
    """Subjects and their windows in two groups.

    Attributes:
        subject_U: names, sorted.
        group: window -> u for the first half of subject u's windows, U + u for the second.
        has_second_U: False for subjects of whom there is a single window.
    """

    subject_U: NDArray[np.str_]
    group: Mapping[Window, int]
    has_second_U: NDArray[np.bool_]

    @property
    def num_groups(self) -> int:
        """2 U."""
        return 2 * len(self.subject_U)

    @classmethod
    def of(cls, data: CohortDataModule, rows: NDArray[np.intp]) -> "Halves":
        """Divides the windows of each subject, in the order of the table; of an odd number the second half has more.

        Args:
            data: after its setup.
            rows: recordings with at least one window each.
        """
        subject_R = data.recordings.table["subject_id"].iloc[rows].to_numpy(str)
        names = np.unique(subject_R)
        group: dict[Window, int] = {}
        has_second = np.zeros(len(names), dtype=bool)
        for number, name in enumerate(names):
            windows = [(int(row), start) for row in rows[subject_R == name] for start in window_starts(data, int(row))]
            half = max(1, len(windows) // 2)
            group |= dict.fromkeys(windows[:half], number) | dict.fromkeys(windows[half:], len(names) + number)
            has_second[number] = len(windows) > 1
        return cls(names, group, has_second)
