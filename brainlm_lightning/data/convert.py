"""One recording from its file to what the store holds: the work of one process of `prepare`."""

import json
import os
import zipfile
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy.io.matlab import MatReadError

from brainlm_lightning.data.read import Orientation, read_series
from brainlm_lightning.data.resample import resample
from brainlm_lightning.data.shard import ARRAYS, StoredRecording

DEAD_SHARE = 1e-3  # of the median parcel's standard deviation: below it, a parcel is rounding noise
LARGEST_ROUNDING = 1e-3  # of a parcel's standard deviation: what float16 may cost
# What the readers raise on a file that is absent, damaged or of another shape.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, MatReadError)


@dataclass(frozen=True)
class Task:
    """One recording to convert.

    Attributes:
        recording_id: Its name.
        location: For `read_series`.
        path: Where the converted recording goes.
        orientation: Of the series in the file.
        num_parcels: Of the atlas.
        tr_s: Seconds from frame to frame as recorded.
        target_tr_s: The same in the store.
        dtype: Of the stored series.
        made_by: Package version and manifest: what else the result depends on.
    """

    recording_id: str
    location: str
    path: Path
    orientation: Orientation
    num_parcels: int
    tr_s: float
    target_tr_s: float
    dtype: str
    made_by: str


@dataclass(frozen=True)
class Outcome:
    """What is known of a recording after it was converted, or could not be.

    Attributes:
        recording_id: Its name.
        unreadable: Why it could not be read; '' where it was.
        num_frames: At the store's tr_s.
        num_dead: Parcels that were exactly constant.
        num_non_finite: Parcels with a value that is NaN or infinite.
        sha256: Of what is stored.
        continued: It had been converted by an earlier call.
    """

    recording_id: str
    unreadable: str = ""
    num_frames: int = 0
    num_dead: int = 0
    num_non_finite: int = 0
    sha256: str = ""
    continued: bool = False

    @property
    def num_unobserved(self) -> int:
        """Parcels that the store marks as unobserved."""
        return self.num_dead + self.num_non_finite


def convert(task: Task) -> Outcome:
    """Reads, checks, resamples and centres a recording and writes it to `task.path`; nothing where that is done.

    Raises:
        ValueError: float16 costs a parcel more than 0.1 % of its standard deviation.
    """
    try:
        fingerprint = _fingerprint(task)
        done = _done(task, fingerprint)
        if done is not None:
            return done
        series = read_series(task.location, orientation=task.orientation, num_parcels=task.num_parcels)
    except UNREADABLE as error:
        return Outcome(task.recording_id, unreadable=_explained(task, error))
    finite = np.isfinite(series).all(axis=0)
    dead = finite & dead_parcels(series, finite)  # before resampling, which makes a constant nearly constant
    observed = finite & ~dead
    series = resample(np.where(observed, series, 0), task.tr_s, task.target_tr_s)
    recording = StoredRecording.centred(series, observed, task.dtype)
    _check_rounding(task, series, recording)
    outcome = Outcome(
        task.recording_id,
        num_frames=len(series),
        num_dead=int(dead.sum()),
        num_non_finite=int((~finite).sum()),
        sha256=recording.sha256,
    )
    _save(task.path, recording, fingerprint, outcome)
    return outcome


def dead_parcels(series: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Returns which parcels carry nothing, (P,) bool: constant, or with under a thousandth of a typical parcel's sd.

    The latter are constants that a filter has left with rounding noise; to scale them would make it as loud as data.

    Args:
        series: (frames, P) as recorded.
        finite: (P,) parcels without NaN or infinity.
    """
    constant = (series == series[0]).all(axis=0)
    moving = finite & ~constant
    spread = np.where(moving, np.where(finite, series, 0).std(axis=0, dtype=np.float64), 0)
    typical = np.median(spread[moving]) if moving.any() else 0.0
    return spread <= DEAD_SHARE * typical


def load_converted(path: Path) -> StoredRecording:
    """Reads what `convert` wrote."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return StoredRecording(**{name: archive[name] for name in ARRAYS})


def _explained(task: Task, error: Exception) -> str:
    """One line without ';', which separates problems."""
    reason = " ".join(str(error).replace(";", ",").split())
    return f"unreadable: {task.location}: {reason}. Replace the file, or take the recording out of the table"


def _fingerprint(task: Task) -> str:
    """Everything that the result depends on: the task, and the state of the file."""
    state = os.stat(task.location.partition("::")[0])
    return json.dumps(
        {**asdict(task), "path": "", "modified": state.st_mtime_ns, "bytes": state.st_size}, sort_keys=True
    )


def _done(task: Task, fingerprint: str) -> Outcome | None:
    """Returns the outcome of an earlier call if its result is there, whole, and of the same file and manifest."""
    if not task.path.is_file():
        return None
    try:
        with task.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if str(archive["fingerprint"]) != fingerprint:
                return None
            outcome = Outcome(**json.loads(str(archive["outcome"])))
        load_converted(task.path)  # whole: the archive's checksums are compared on reading
    except UNREADABLE:
        return None
    return replace(outcome, continued=True)


def _save(path: Path, recording: StoredRecording, fingerprint: str, outcome: Outcome) -> None:
    """Writes under a name of this process's own, then renames: a reader sees a whole file or none."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    arrays = {name: getattr(recording, name) for name in ARRAYS}
    with part.open("wb") as file:
        np.savez(file, **arrays, fingerprint=np.array(fingerprint), outcome=np.array(json.dumps(asdict(outcome))))
    os.replace(part, path)


def _check_rounding(task: Task, series: np.ndarray, recording: StoredRecording) -> None:
    """Refuses a type that blurs a parcel. The values are centred, so their level costs nothing."""
    if task.dtype != "float16":
        return
    centred = np.where(recording.observed, series - recording.mean.astype(np.float64), 0)
    error = np.sqrt(np.mean((recording.series.astype(np.float64) - centred) ** 2, axis=0))
    std = centred.std(axis=0)
    worst = int(np.argmax(np.divide(error, std, out=np.zeros_like(std), where=std > 0)))
    if error[worst] > LARGEST_ROUNDING * std[worst]:
        raise ValueError(
            f"recording {task.recording_id!r}, column {worst} (counted from 0): float16 costs {error[worst]:.3g} of a "
            f"standard deviation of {std[worst]:.3g}, more than 0.1 %; set `dtype: float32` in the manifest"
        )
