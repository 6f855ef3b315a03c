"""Whether a recording looks like those that a model was trained on: level, spectrum, dimensions and connectivity.

A model's embedding is finite for any input. Where level, filter or connectivity differ from what it was trained on, it
means little, so the numbers of a recording are compared with those of the training recordings.

Shapes: P parcels, T frames of a window, F frames of all windows of a recording, Z directions of connectivity.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainlm_lightning.data.dimensions import effective_dimensions

SLOW_HZ, FAST_HZ = 0.01, 0.1  # the usual band of resting-state BOLD
DIRECTIONS = 16  # of the group's connectivity that are kept
QUANTILES = (0.005, 0.5, 0.995)
SLACK, LEAST_SLACK = 1.0, 0.05  # beyond the quantiles: of their distance, and at least of the median's size
MEANINGS = {
    "mean_abs": "level: median over parcels of the size of the mean, scaled units",
    "sd": "level: median over parcels of the standard deviation, scaled units",
    "power_slow": f"spectrum: share of power below {SLOW_HZ} Hz",
    "power_fast": f"spectrum: share of power above {FAST_HZ} Hz",
    "dimensions": "effective dimensions in time of a window",
    "connectivity_mean": "connectivity: mean correlation of two parcels",
    "connectivity_likeness": "connectivity: correlation with the training group's",
}

Array = NDArray[np.floating[Any]]
Scaled = tuple[Array, NDArray[np.bool_]]  # the scaled windows of a recording, one after the other, (P, F), and (P,)


@dataclass(frozen=True)
class Reference:
    """What training recordings look like.

    Attributes:
        tr_s: seconds from one frame to the next.
        window_frames: T.
        num_recordings: that the numbers come from.
        quantiles: statistic -> its `QUANTILES` over recordings.
        directions: (P, Z), whose products approximate the group's correlations; None where the parcels are others.
    """

    tr_s: float
    window_frames: int
    num_recordings: int
    quantiles: Mapping[str, tuple[float, float, float]]
    directions: Array | None

    @classmethod
    def of(cls, recordings: Iterable[Scaled], tr_s: float, window_frames: int) -> "Reference":
        """The reference of some training recordings.

        Raises:
            ValueError: there is none.
        """
        kept = [(whole_windows(series, window_frames), observed) for series, observed in recordings]
        if not kept:
            raise ValueError("no training recording to say what recordings look like; expected one or more")
        directions = group_directions(kept)
        found = [statistics(each, tr_s, window_frames, directions) for each in kept]
        by_name = {name: np.quantile([each[name] for each in found], QUANTILES).tolist() for name in found[0]}
        quantiles = {name: (low, middle, high) for name, (low, middle, high) in by_name.items()}
        return cls(tr_s, window_frames, len(kept), quantiles, directions)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers for a description; directions to four digits."""
        rows = None if self.directions is None else [[round(float(x), 4) for x in row] for row in self.directions]
        return {
            "num_recordings": self.num_recordings,
            "quantiles": {name: list(values) for name, values in self.quantiles.items()},
            "directions": rows,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], tr_s: float, window_frames: int) -> "Reference":
        """Inverse of `to_json`."""
        rows = values["directions"]
        quantiles = {name: (low, middle, high) for name, (low, middle, high) in values["quantiles"].items()}
        directions = None if rows is None else np.array(rows, np.float64)
        return cls(tr_s, window_frames, values["num_recordings"], quantiles, directions)

    def unlike(self, recording: Scaled) -> list[str]:
        """Says in which numbers a recording lies outside the training recordings'; empty where it looks like them.

        Args:
            recording: its windows, scaled as the training recordings were.
        """
        found = statistics(recording, self.tr_s, self.window_frames, self.directions)
        return [
            f"{MEANINGS[name]}: {value:.3g}, training {low:.3g} to {high:.3g}"
            for name, value in found.items()
            if name in self.quantiles
            for low, middle, high in (self.quantiles[name],)
            if not low - _slack(low, middle, high) <= value <= high + _slack(low, middle, high)
        ]


def _slack(low: float, middle: float, high: float) -> float:
    return max(SLACK * (high - low), LEAST_SLACK * abs(middle))


def whole_windows(series_PF: Array, window_frames: int) -> Array:
    """The frames of whole windows, from the first on."""
    return series_PF[:, : series_PF.shape[1] // window_frames * window_frames]


def statistics(recording: Scaled, tr_s: float, window_frames: int, directions: Array | None) -> dict[str, float]:
    """The numbers of `MEANINGS` of one recording; that of likeness only where the group's directions are given."""
    series_PF, observed_P = recording
    series_PF = np.asarray(series_PF, np.float64)[observed_P]
    correlation_PP = correlations(series_PF)
    above = np.triu_indices(len(series_PF), 1)
    dimensions = effective_dimensions([series_PF.T - series_PF.mean(1)], window_frames)
    found = {
        "mean_abs": float(np.median(np.abs(series_PF.mean(1)))),
        "sd": float(np.median(series_PF.std(1))),
        **_power(series_PF, tr_s, window_frames),
        "dimensions": float("nan") if dimensions is None else dimensions,
        "connectivity_mean": float(correlation_PP[above].mean()) if len(above[0]) else 0.0,
    }
    if directions is not None:
        group_PP = directions[observed_P] @ directions[observed_P].T
        found["connectivity_likeness"] = _likeness(correlation_PP[above], group_PP[above])
    return found


def correlations(series_PF: Array) -> Array:
    """Correlations of parcels, (P, P); 0 for a parcel without variance."""
    centred_PF = series_PF - series_PF.mean(axis=1, keepdims=True)
    size_P1 = np.linalg.norm(centred_PF, axis=1, keepdims=True)
    unit_PF = np.divide(centred_PF, size_P1, out=np.zeros_like(centred_PF), where=size_P1 > 0)
    found_PP: Array = unit_PF @ unit_PF.T
    return found_PP


def group_directions(recordings: Iterable[Scaled]) -> Array:
    """The leading directions of the mean correlations of recordings, (P, Z), scaled by the roots of their variances."""
    total_PP = count_PP = np.zeros(())
    for series_PF, observed_P in recordings:
        known_PP = np.outer(observed_P, observed_P)
        total_PP = total_PP + np.where(known_PP, correlations(np.where(observed_P[:, None], series_PF, 0.0)), 0)
        count_PP = count_PP + known_PP
    values, vectors = np.linalg.eigh(total_PP / np.maximum(count_PP, 1))
    leading: Array = (vectors * np.sqrt(np.maximum(values, 0)))[:, ::-1][:, :DIRECTIONS]
    return leading


def _likeness(one: Array, other: Array) -> float:
    spread = one.std() * other.std()
    return float(((one - one.mean()) * (other - other.mean())).mean() / spread) if spread > 0 else 0.0


def _power(series_PF: Array, tr_s: float, window_frames: int) -> dict[str, float]:
    """Shares of the power of windows, mean over parcels, below and above the usual band."""
    windows = series_PF.reshape(len(series_PF), -1, window_frames)
    spectrum = np.abs(np.fft.rfft(windows - windows.mean(2, keepdims=True), axis=2)) ** 2
    power = spectrum.sum(axis=(0, 1))
    hertz = np.fft.rfftfreq(window_frames, tr_s)
    total = power.sum() or 1.0
    return {
        "power_slow": float(power[hertz < SLOW_HZ].sum() / total),
        "power_fast": float(power[hertz > FAST_HZ].sum() / total),
    }
