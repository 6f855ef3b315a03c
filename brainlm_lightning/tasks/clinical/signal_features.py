"""What is simple in a recording: autocorrelation, spectrum, amplitude and connectivity of networks.

A model that predicts no better than these few numbers has learnt nothing beyond them.

Shapes: P parcels, T frames, Q networks (the whole brain where the atlas names none), K bands, F features.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import welch

Floats = NDArray[np.floating]
# Edges of the bands in cycles per frame, each twice the one before; 0.5 is the highest that frames can show.
BANDS = (0.0, 0.0078125, 0.015625, 0.03125, 0.0625, 0.125, 0.25, 0.5)
SEGMENT = 128  # frames of a spectrum's segment: the lowest band holds one of its frequencies
SMALLEST = 1e-6  # logarithms and correlations stay finite


def signal_features(
    raw_PT: Floats, observed_P: NDArray[np.bool_], networks: Sequence[str], unknown: str
) -> NDArray[np.float32]:
    """The features of a recording, (F,) with F = Q (K + 2) + Q (Q + 1) / 2, finite everywhere.

    Of each network the mean over its observed parcels of: Fisher's z of the autocorrelation at one frame, log
    amplitude (standard deviation in the recording's own unit) and the log share of each band in the power; then the
    mean of Fisher's z of the correlations within and between networks. 0 for networks without an observed parcel.

    Args:
        raw_PT: series in the unit of the file, so that amplitude says something.
        observed_P: False for parcels without data.
        networks: name of each parcel's network.
        unknown: the name that stands for none.
    """
    series_PT = np.asarray(raw_PT, dtype=np.float64)
    series_PT = series_PT - series_PT.mean(1, keepdims=True)
    std_P = series_PT.std(1)
    known_P = observed_P & (std_P > 0)
    unit_PT = np.where(known_P[:, None], series_PT / np.where(known_P, std_P, 1)[:, None], 0)
    member_QP = members(networks, unknown) * known_P
    of_parcels_PF = np.column_stack(
        [_z((unit_PT[:, 1:] * unit_PT[:, :-1]).mean(1)), np.log(np.maximum(std_P, SMALLEST)), _log_shares(unit_PT)]
    )
    means_QF = member_QP @ of_parcels_PF / np.maximum(member_QP.sum(1), 1)[:, None]
    z_PP = _z(unit_PT @ unit_PT.T / unit_PT.shape[1])
    return np.concatenate([means_QF.ravel(), _between(z_PP, member_QP)]).astype(np.float32)


def members(networks: Sequence[str], unknown: str) -> Floats:
    """1 where a parcel is in a network, (Q, P), networks in the order of the atlas; all in one where none is named."""
    names = [name for name in dict.fromkeys(networks) if name != unknown]
    if not names:
        return np.ones((1, len(networks)))
    return np.array([[float(own == name) for own in networks] for name in names])


def _z(correlation: Floats) -> Floats:
    return np.arctanh(np.clip(correlation, SMALLEST - 1, 1 - SMALLEST))


def _log_shares(unit_PT: Floats) -> Floats:
    """Log of each band's share in the power of every parcel, (P, K); of short recordings the lowest bands are empty."""
    frequency, power_PF = welch(unit_PT, nperseg=min(SEGMENT, unit_PT.shape[1]), axis=1)
    band_F = np.clip(np.searchsorted(BANDS, frequency) - 1, 0, len(BANDS) - 2)
    power_PK = np.stack([power_PF[:, band_F == band].sum(1) for band in range(len(BANDS) - 1)], axis=1)
    share_PK: Floats = power_PK / np.maximum(power_PK.sum(1, keepdims=True), SMALLEST)
    return np.asarray(np.log(share_PK + SMALLEST))


def _between(z_PP: Floats, member_QP: Floats) -> Floats:
    """Means over pairs of different parcels within and between networks, (Q (Q + 1) / 2,)."""
    pairs_PP = 1 - np.eye(len(z_PP))  # a parcel with itself says nothing
    total_QQ = member_QP @ (z_PP * pairs_PP) @ member_QP.T
    count_QQ = member_QP @ pairs_PP @ member_QP.T
    return np.asarray((total_QQ / np.maximum(count_QQ, 1))[np.tril_indices(len(member_QP))])
