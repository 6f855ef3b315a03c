"""Windows of recordings as tensors. The only module that transposes (frame, parcel) to (parcel, frame).

Shapes: B batch, P parcels, T frames, R recordings.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from brainlm_lightning.data.joined_atlas import JoinedAtlas, part_of_statistics
from brainlm_lightning.data.scaling import CentreScale, ScalingStatistics, centre_and_scale
from brainlm_lightning.data.schedule import WindowRequest, recording_hash
from brainlm_lightning.data.store import Store


class Batch(TypedDict):
    """A batch of windows as sent to the device; `scale_on_device` prepares the signal for a model.

    Attributes:
        signal_BPT: stored values (float16 or float32); float32 once scaled.
        centre_BP: what scaling subtracts from the stored values.
        scale_BP: what scaling divides by.
        observed_BP: False where a recording has no data for a parcel, or another atlas; the signal is 0 there.
        recording_index_B: row in the table of recordings.
        start_B: first frame of the window in its recording.
        key_B: key from which the window's mask is drawn.
    """

    signal_BPT: Tensor
    centre_BP: Tensor
    scale_BP: Tensor
    observed_BP: Tensor
    recording_index_B: Tensor
    start_B: Tensor
    key_B: Tensor


@dataclass(frozen=True)
class Recordings:
    """Recordings of several stores as one table.

    Attributes:
        stores: open for reading.
        table: one row per recording: the stores' tables, with columns ``cohort``, ``store`` and ``row`` (in its store).
    """

    stores: tuple[Store, ...]
    table: pd.DataFrame

    @cached_property
    def atlases(self) -> JoinedAtlas:
        """The atlas of all stores, or their atlases joined."""
        return JoinedAtlas.of([store.atlas for store in self.stores])

    @classmethod
    def of(cls, stores: list[Store]) -> "Recordings":
        """All recordings of some stores."""
        tables = [
            store.recordings.assign(cohort=store.name, store=index, row=np.arange(len(store.recordings)))
            for index, store in enumerate(stores)
        ]
        return cls(tuple(stores), pd.concat(tables, ignore_index=True))

    @property
    def hashes(self) -> np.ndarray:
        """`recording_hash` of each recording within its cohort, uint64."""
        names = self.table["cohort"] + "/" + self.table["recording_id"]
        return np.array([recording_hash(name) for name in names], dtype=np.uint64)


class WindowDataset(Dataset[Batch]):
    """Reads whole batches of windows; each window is copied once from the memory-mapped store.

    Args:
        recordings: the recordings to read from.
        recipe: scaling recipe.
        statistics: scaling statistics for each store; a test-only cohort is given those of the training cohort.
        window_frames: T.
    """

    def __init__(
        self, recordings: Recordings, recipe: str, statistics: list[ScalingStatistics], window_frames: int
    ) -> None:
        self.recordings = recordings
        self.recipe = recipe
        self.statistics = statistics
        self.window_frames = window_frames
        self.stored_at = list(zip(recordings.table["store"].tolist(), recordings.table["row"].tolist(), strict=True))
        self.columns = [recordings.atlases.columns(store.atlas) for store in recordings.stores]
        self.usable = [usable_parcels(recipe, of) for of in statistics]
        self.dtype = np.result_type(*(store.dtype for store in recordings.stores))

    def __len__(self) -> int:
        return len(self.stored_at)

    def use_statistics(self, statistics: ScalingStatistics) -> None:
        """Scales all recordings with these statistics of all parcels from now on."""
        self.statistics = [part_of_statistics(statistics, columns) for columns in self.columns]
        self.usable = [usable_parcels(self.recipe, of) for of in self.statistics]

    def __getitems__(self, request: WindowRequest) -> Batch:
        stored = [self.stored_at[row] for row in request.rows.tolist()]
        atlases = self.recordings.atlases
        empty = np.empty if atlases.is_single else np.zeros  # of other atlases' parcels nothing is copied
        signal = empty((len(stored), self.window_frames, atlases.whole.num_parcels), self.dtype)
        for window, (store, row), start in zip(signal, stored, request.starts.tolist(), strict=True):
            series = self.recordings.stores[store].series(row)
            window[:, self.columns[store]] = series[start : start + self.window_frames]
        centre, scale, observed = self._scaling(stored)
        return {
            "signal_BPT": torch.from_numpy(signal).transpose(1, 2),
            "centre_BP": torch.from_numpy(centre),
            "scale_BP": torch.from_numpy(scale),
            "observed_BP": torch.from_numpy(observed),
            "recording_index_B": torch.from_numpy(request.rows.astype(np.int64)),
            "start_B": torch.from_numpy(request.starts.astype(np.int64)),
            "key_B": torch.from_numpy(request.keys.view(np.int64).copy()),
        }

    def scaling(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centre and scale of the stored values of recordings, each (B, P) float32."""
        return self._scaling([self.stored_at[row] for row in rows.tolist()])[:2]

    def observed(self, rows: np.ndarray) -> np.ndarray:
        """True where a recording has data for a parcel that can be scaled, (B, P)."""
        return self._scaling([self.stored_at[row] for row in rows.tolist()])[2]

    def _scaling(self, stored: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centre, scale and observed of the recordings at (store, row), each (B, P)."""
        stores = {store for store, _ in stored}
        if len(stores) == 1 and self.recordings.atlases.is_single:
            return self._scaling_of(stored[0][0], [row for _, row in stored])
        origin = np.array([store for store, _ in stored])
        shape = (len(stored), self.recordings.atlases.whole.num_parcels)
        centre, scale = np.zeros(shape, np.float32), np.ones(shape, np.float32)
        observed = np.zeros(shape, bool)
        for store in stores:
            here, columns = np.flatnonzero(origin == store), self.columns[store]
            found = self._scaling_of(store, [stored[at][1] for at in here])
            centre[here, columns], scale[here, columns], observed[here, columns] = found
        return centre, scale, observed

    def _scaling_of(self, store: int, rows: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same of recordings of one store, for its own parcels. The loop of copies is faster than `np.stack`."""
        shape = (len(rows), len(self.usable[store]))
        mean, std, observed = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, bool)
        for window, row in enumerate(rows):
            mean[window], std[window], observed[window] = self.recordings.stores[store].level(row)
        centre, scale = centre_and_scale(self.recipe, self.statistics[store], mean, std)
        return centre, scale, observed & self.usable[store]

    def missing_frames(self, row: int) -> np.ndarray:
        """Which frames of a recording are marked as missing, and were interpolated, (frames,) bool."""
        store, stored_row = self.stored_at[row]
        missing: np.ndarray = self.recordings.stores[store].missing_frames(stored_row)
        return missing

    def scaled_recording(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """A whole recording as the model sees it, (P, frames) float32, and its observed parcels, (P,)."""
        store, stored_row = self.stored_at[row]
        (centre,), (scale,) = self.scaling(np.array([row]))
        (observed,) = self.observed(np.array([row]))
        series = self.recordings.stores[store].series(stored_row)
        stored = np.zeros((len(series), len(observed)), np.float32)
        stored[:, self.columns[store]] = series
        return np.where(observed, (stored - centre) / scale, 0).T, observed


def usable_parcels(recipe: str, statistics: ScalingStatistics) -> np.ndarray:
    """True for parcels that a recipe can scale, (P,): those that vary over the training subjects."""
    used: dict[str, CentreScale] = {"robust": statistics.robust, "robust_centred": statistics.robust_centred}
    if recipe not in used:
        return np.ones(len(statistics.robust.scale), dtype=bool)
    return np.asarray(np.isfinite(used[recipe].scale) & np.isfinite(used[recipe].centre))


def scale_on_device(batch: Batch) -> Batch:
    """Returns the batch with its signal scaled, float32; unobserved parcels are 0."""
    stored_BPT = batch["signal_BPT"].float()
    scaled_BPT = (stored_BPT - batch["centre_BP"][:, :, None]) / batch["scale_BP"][:, :, None]
    return {**batch, "signal_BPT": scaled_BPT * batch["observed_BP"][:, :, None]}
