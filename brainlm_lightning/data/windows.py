"""Windows of recordings as tensors. The only module that transposes (frame, parcel) to (parcel, frame).

Shapes: B batch, P parcels, T frames, R recordings.
"""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from brainlm_lightning.data.scaling import CentreScale, ScalingStatistics, centre_and_scale
from brainlm_lightning.data.schedule import WindowRequest, recording_hash
from brainlm_lightning.data.store import Store


class Batch(TypedDict):
    """A batch of windows as sent to the device; `scale_on_device` prepares the signal for a model.

    Attributes:
        signal_BPT: stored values (float16 or float32); float32 once scaled.
        centre_BP: what scaling subtracts from the stored values.
        scale_BP: what scaling divides by.
        observed_BP: False where a recording has no data for a parcel; the signal is 0 there.
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
        stores: open for reading, all with the same atlas.
        table: one row per recording: the stores' tables, with columns ``cohort``, ``store`` and ``row`` (in its store).
    """

    stores: tuple[Store, ...]
    table: pd.DataFrame

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
        self.usable = np.stack([usable_parcels(recipe, of) for of in statistics])
        self.dtype = np.result_type(*(store.dtype for store in recordings.stores))

    def __len__(self) -> int:
        return len(self.stored_at)

    def use_statistics(self, statistics: ScalingStatistics) -> None:
        """Scales all recordings with these statistics from now on."""
        self.statistics = [statistics] * len(self.recordings.stores)
        self.usable = np.stack([usable_parcels(self.recipe, of) for of in self.statistics])

    def __getitems__(self, request: WindowRequest) -> Batch:
        stored = [self.stored_at[row] for row in request.rows.tolist()]
        signal = np.empty((len(stored), self.window_frames, self.usable.shape[1]), self.dtype)
        for window, (store, row), start in zip(signal, stored, request.starts.tolist(), strict=True):
            window[:] = self.recordings.stores[store].series(row)[start : start + self.window_frames]
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
        mean, std, observed = self._stored(stored)
        origin = [store for store, _ in stored]
        if len(set(origin)) == 1:
            centre, scale = centre_and_scale(self.recipe, self.statistics[origin[0]], mean, std)
            return centre, scale, observed & self.usable[origin[0]]
        centre, scale = np.empty_like(mean), np.empty_like(mean)
        for store in set(origin):
            here = np.array(origin) == store
            centre[here], scale[here] = centre_and_scale(self.recipe, self.statistics[store], mean[here], std[here])
        return centre, scale, observed & self.usable[origin]

    def _stored(self, stored: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, sd and observed, each (B, P). The loop of copies is faster here than `np.stack`."""
        shape = (len(stored), self.usable.shape[1])
        mean, std, observed = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, bool)
        for window, (store, row) in enumerate(stored):
            mean[window], std[window], observed[window] = self.recordings.stores[store].level(row)
        return mean, std, observed

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
        stored = self.recordings.stores[store].series(stored_row).astype(np.float32)
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
