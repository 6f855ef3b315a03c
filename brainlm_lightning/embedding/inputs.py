"""Recordings that are embedded one by one: read, filled, resampled and centred as `prepare` would.

Shapes: P parcels.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainlm_lightning.data.convert import dead_parcels
from brainlm_lightning.data.missing import fill_frames, missing_frames
from brainlm_lightning.data.read import Expected, agreed_tr_s, read_series
from brainlm_lightning.data.resample import resample
from brainlm_lightning.data.shard import StoredRecording

Series = NDArray[np.floating[Any]]


def prepared(series: Series, tr_s: float, target_tr_s: float) -> StoredRecording:
    """A recording as `prepare` would store it in float32: gaps filled, resampled, centred, dead parcels unobserved.

    Args:
        series: (frames, P) raw values.
        tr_s: seconds from one frame to the next.
        target_tr_s: the same, wanted.
    """
    missing = missing_frames(series)
    filled = fill_frames(series, missing)
    finite = np.isfinite(filled).all(axis=0)
    observed = finite & ~dead_parcels(filled, finite)
    if not observed.any():
        raise ValueError(f"none of {series.shape[1]} parcels has data: all are constant or not finite")
    return StoredRecording.centred(resample(np.where(observed, filled, 0), tr_s, target_tr_s), observed, "float32")


def read_recording(
    recording: Series | Path | str, tr_s: float | None, expected: Expected, named: bool
) -> tuple[Series, float]:
    """Series (frames, P) float32, and the seconds between its frames."""
    if isinstance(recording, Path | str):
        reading = read_series(recording, expected)
        if not (named or reading.named):
            raise ValueError(
                f"{recording}: nothing in the file says that its columns are the checkpoint's parcels; give atlas, a "
                "parcel table or the atlas's name, to say it yourself"
            )
        return reading.series, agreed_tr_s({"you say": tr_s, "the file says": reading.tr_s}, str(recording))
    values = np.asarray(recording, np.float32)
    values = values.T if expected.turned else values
    if values.ndim != 2 or values.shape[1] != expected.num_parcels:
        raise ValueError(
            f"the array is {np.shape(recording)}, expected ({expected.orientation.replace('_', ', ')}) with "
            f"{expected.num_parcels} parcels; turn it, or set orientation"
        )
    if not named:
        raise ValueError("an array does not say what its columns are; give atlas, a parcel table or the atlas's name")
    if tr_s is None:
        raise ValueError("an array does not say how many seconds lie between its frames; give tr_s")
    return values, tr_s
