"""Where windows may lie: side by side in frames that have data, never across frames marked as missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainlm_lightning.data.missing import from_ranges

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Places:
    """The stretches of recordings in which a whole window fits.

    Attributes:
        num_frames: Of each recording.
        window_frames: T.
        gapped: Of recordings with marked frames, by row: first frame and length of each stretch without such a frame
            that holds a window, (stretches, 2).
        first_alone: Of the windows side by side, the first of each recording is the only one.
    """

    num_frames: Ints
    window_frames: int
    gapped: Mapping[int, Ints]
    first_alone: bool = False

    @classmethod
    def of(cls, table: pd.DataFrame, window_frames: int) -> Self:
        """Finds the stretches of every recording.

        Args:
            table: Of recordings, with `num_frames` and `missing_frames`.
            window_frames: T.
        """
        num_frames = table["num_frames"].to_numpy(np.int64)
        marked = np.flatnonzero((table["missing_frames"] != "").to_numpy())
        texts = table["missing_frames"].to_numpy()
        gapped = {row: _stretches(texts[row], int(num_frames[row]), window_frames) for row in marked.tolist()}
        return cls(num_frames, window_frames, gapped)

    def stretches(self, row: int) -> Ints:
        """Returns first frame and length of each stretch of a recording that holds a window, (stretches, 2)."""
        if row in self.gapped:
            return self.gapped[row]
        whole = np.array([[0, self.num_frames[row]]], np.int64)
        return whole[whole[:, 1] >= self.window_frames]

    def room(self, rows: Ints) -> Ints:
        """Returns at how many frames a window may begin, of each of some recordings; 0 where none fits."""
        room = np.maximum(self.num_frames[rows] - self.window_frames + 1, 0)
        for place in self._among(rows):
            room[place] = self._rooms(int(rows[place])).sum()
        return room

    def starts(self, rows: Ints, which: Ints) -> Ints:
        """Returns the first frames of windows.

        Args:
            rows: Their recordings.
            which: Number of the first frame among those at which a window may begin, from 0 to `room` - 1.
        """
        starts = which.astype(np.int64)
        for place in self._among(rows):
            row = int(rows[place])
            last = np.cumsum(self._rooms(row))
            stretch = int(np.searchsorted(last, which[place], side="right"))
            before = last[stretch - 1] if stretch else 0
            starts[place] = self.gapped[row][stretch, 0] + which[place] - before
        return starts

    def side_by_side(self, row: int) -> Ints:
        """Returns the first frames of a recording's windows without overlap, from each stretch's first frame on."""
        size = self.window_frames
        tiled = [np.arange(first, first + length - size + 1, size) for first, length in self.stretches(row)]
        return np.concatenate([np.empty(0, np.int64), *tiled])[: 1 if self.first_alone else None]

    def num_side_by_side(self, rows: Ints) -> Ints:
        """Returns the number of windows that `side_by_side` gives, of each of some recordings."""
        counts = self.num_frames[rows] // self.window_frames
        for place in self._among(rows):
            counts[place] = (self.gapped[int(rows[place])][:, 1] // self.window_frames).sum()
        return np.minimum(counts, 1) if self.first_alone else counts

    def _rooms(self, row: int) -> Ints:
        return np.asarray(self.gapped[row][:, 1] - self.window_frames + 1)

    def _among(self, rows: Ints) -> list[int]:
        """Returns where in `rows` recordings with marked frames stand."""
        if not self.gapped:
            return []
        return np.flatnonzero(np.isin(rows, list(self.gapped))).tolist()


def _stretches(missing: str, num_frames: int, least: int) -> Ints:
    """Returns first frame and length of the stretches without a missing frame that have `least` frames or more."""
    known = ~from_ranges(missing, num_frames)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int64)))
    first, end = edges[::2], edges[1::2]
    found = np.stack([first, end - first], axis=1).astype(np.int64)
    return found[found[:, 1] >= least]
