"""One recording from its file to what the store holds: the work of one process of `prepare`."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from brainlm_lightning.atomic import naming
from brainlm_lightning.data.clean import CleaningPlan, clean_series
from brainlm_lightning.data.missing import as_ranges, fill_frames, missing_frames, resample_missing
from brainlm_lightning.data.nuisance import Nuisance
from brainlm_lightning.data.read import Expected, agreed_tr_s, check_there, read_series
from brainlm_lightning.data.resample import resample
from brainlm_lightning.data.shard import ARRAYS, StoredRecording
from brainlm_lightning.failure import printable

DEAD_SHARE = 1e-3  # of the median parcel's standard deviation: below it, a parcel is rounding noise
LARGEST_ROUNDING = 1e-3  # of a parcel's standard deviation: what float16 may cost


@dataclass(frozen=True)
class Conversion:
    """One recording to convert.

    Attributes:
        recording_id: Its name.
        location: For `read_series`.
        path: Where the converted recording goes.
        expected: What the file should hold.
        tr_s: Seconds from frame to frame as recorded; NaN where the file says it.
        target_tr_s: The same in the store.
        dtype: Of the stored series.
        skip_frames: First frames of the file that are left out.
        mark_missing: Frames without data are listed; otherwise they only are interpolated.
        cleaning: What is removed before resampling.
        motion: Motion and outliers are looked for beside the file.
        made_by: Package version and manifest: what else the result depends on.
    """

    recording_id: str
    location: str
    path: Path
    expected: Expected
    tr_s: float
    target_tr_s: float
    dtype: str
    made_by: str
    skip_frames: int = 0
    mark_missing: bool = True
    cleaning: CleaningPlan = field(default_factory=CleaningPlan)
    motion: bool = False


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
        num_missing: Frames at the store's tr_s that had no data in any parcel, and were interpolated.
        missing: Which, as `4,17-19`; '' where they are not to be marked.
        mean_fd_mm: Mean framewise displacement, where it is known.
        remarks: What was recognised in the file, separated by ';'.
        continued: It had been converted by an earlier call.
    """

    recording_id: str
    unreadable: str = ""
    num_frames: int = 0
    num_dead: int = 0
    num_non_finite: int = 0
    sha256: str = ""
    num_missing: int = 0
    missing: str = ""
    mean_fd_mm: float | None = None
    remarks: str = ""
    continued: bool = False

    @property
    def num_unobserved(self) -> int:
        """Parcels that the store marks as unobserved."""
        return self.num_dead + self.num_non_finite


def convert(conversion: Conversion) -> Outcome:
    """Reads, checks, resamples and centres a recording and writes it to `conversion.path`; nothing where that is done.

    Raises:
        ValueError: float16 costs a parcel more than 0.1 % of its standard deviation.
    """
    try:
        fingerprint = _fingerprint(conversion)
        done = _done(conversion, fingerprint)
        if done is not None:
            return done
        prepared = prepare_recording(conversion)
    except Exception as error:  # whatever a reader raises on a file is that recording's problem, not the cohort's
        return Outcome(conversion.recording_id, unreadable=explained(conversion, error))
    recording = StoredRecording.centred(prepared.series, prepared.observed, conversion.dtype)
    _check_rounding(conversion, prepared.series, recording)
    outcome = replace(prepared.outcome, num_frames=len(prepared.series), sha256=recording.sha256)
    _save(conversion.path, recording, fingerprint, outcome)
    return outcome


@dataclass(frozen=True, eq=False)
class Prepared:
    """A recording at the store's tr_s, before it is centred."""

    series: np.ndarray
    observed: np.ndarray
    outcome: Outcome


def prepare_recording(conversion: Conversion) -> Prepared:
    """Reads a recording, finds what is missing in it, cleans it, and resamples it, in this order."""
    reading = read_series(conversion.location, conversion.expected)
    tr_s = agreed_tr_s({"the manifest says": conversion.tr_s, "the file says": reading.tr_s}, conversion.location)
    nuisance = _nuisance(conversion, len(reading.series))
    series = reading.series[conversion.skip_frames :]
    if not len(series):
        raise ValueError(
            f"{conversion.location}: {len(reading.series)} frames, and skip_frames is {conversion.skip_frames}"
        )
    missing = missing_frames(series)
    if nuisance.censored is not None:
        missing |= nuisance.censored[conversion.skip_frames :]
    if missing.all():
        missing[:] = False  # no frame has data: then no parcel has
    filled = fill_frames(series, missing)
    finite = np.isfinite(filled).all(axis=0)
    dead = finite & dead_parcels(filled, finite)  # before filters, which make a constant nearly constant
    observed = finite & ~dead
    filled = np.where(observed, filled, 0)
    if conversion.cleaning.needed and observed.any():
        regressors = nuisance.regressors[conversion.skip_frames :] if nuisance.regressors is not None else None
        cleaned = clean_series(filled[:, observed], conversion.cleaning, tr_s, missing, regressors)
        filled[:, observed] = fill_frames(cleaned, missing)
    missing = resample_missing(missing, tr_s, conversion.target_tr_s)
    outcome = Outcome(
        conversion.recording_id,
        num_dead=int(dead.sum()),
        num_non_finite=int((~finite).sum()),
        num_missing=int(missing.sum()),
        missing=as_ranges(missing) if conversion.mark_missing else "",
        mean_fd_mm=nuisance.mean_fd_mm,
        remarks=";".join(remark.replace(";", ",") for remark in reading.remarks),
    )
    return Prepared(resample(filled, tr_s, conversion.target_tr_s), observed, outcome)


def _nuisance(conversion: Conversion, frames: int) -> Nuisance:
    """Reads confounds, outliers and motion where the manifest asks for them."""
    if not (conversion.motion or conversion.cleaning.confounds):
        return Nuisance()
    from brainlm_lightning.data.read.confounds import read_nuisance  # slow to import

    path = Path(conversion.location.partition("::")[0])
    return read_nuisance(path, tuple(conversion.cleaning.confounds), conversion.cleaning.options, frames)


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


def explained(conversion: Conversion, error: Exception) -> str:
    """One line without ';', which separates problems."""
    reason = printable(" ".join(str(error).replace(";", ",").split())).rstrip(".")
    file = conversion.location.partition("::")[0]
    kind = "" if isinstance(error, (ValueError, OSError)) else f"damaged ({type(error).__name__}): "
    where = "" if file in reason else f"{conversion.location}: "
    return f"unreadable: {where}{kind}{reason}. Replace the file, or take the recording out of the table"


def _fingerprint(conversion: Conversion) -> str:
    """Everything that the result depends on: the conversion, and the state of the file."""
    file = Path(conversion.location.partition("::")[0])
    check_there(file)
    state = file.stat()
    expected = hashlib.sha256(repr(conversion.expected).encode()).hexdigest()
    content = asdict(conversion) | {"path": "", "expected": expected}
    return json.dumps({**content, "modified": state.st_mtime_ns, "bytes": state.st_size}, sort_keys=True)


def _done(conversion: Conversion, fingerprint: str) -> Outcome | None:
    """Returns the outcome of an earlier call if its result is there, whole, and of the same file and manifest."""
    if not conversion.path.is_file():
        return None
    try:
        with conversion.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if str(archive["fingerprint"]) != fingerprint:
                return None
            outcome = Outcome(**json.loads(str(archive["outcome"])))
        load_converted(conversion.path)  # whole: the archive's checksums are compared on reading
    except Exception:  # half written or damaged: it is made again
        return None
    return replace(outcome, continued=True)


def _save(path: Path, recording: StoredRecording, fingerprint: str, outcome: Outcome) -> None:
    """Writes under a name of this process's own, then renames: a reader sees a whole file or none."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    arrays = {name: getattr(recording, name) for name in ARRAYS}
    with naming(part), part.open("wb") as file:
        np.savez(file, **arrays, fingerprint=np.array(fingerprint), outcome=np.array(json.dumps(asdict(outcome))))
    os.replace(part, path)


def _check_rounding(conversion: Conversion, series: np.ndarray, recording: StoredRecording) -> None:
    """Refuses a type that blurs a parcel. The values are centred, so their level costs nothing."""
    if conversion.dtype != "float16":
        return
    centred = np.where(recording.observed, series - recording.mean.astype(np.float64), 0)
    error = np.sqrt(np.mean((recording.series.astype(np.float64) - centred) ** 2, axis=0))
    std = centred.std(axis=0)
    worst = int(np.argmax(np.divide(error, std, out=np.zeros_like(std), where=std > 0)))
    if error[worst] > LARGEST_ROUNDING * std[worst]:
        raise ValueError(
            f"recording {conversion.recording_id!r}, column {worst} (counted from 0): float16 costs {error[worst]:.3g} "
            f"of a standard deviation of {std[worst]:.3g}, more than 0.1 %; set `dtype: float32` in the manifest"
        )
