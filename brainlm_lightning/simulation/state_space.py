"""Linear-Gaussian state-space models of simulated recordings: their parameters, and sampling from them.

    x_0 = drive_0 + N(0, initial_cov)        x_t = transition x_{t-1} + drive_t + N(0, process_cov)
    y_t = loading x_t + N(0, diag(noise_var))

Arrays are stacked over recordings or subjects on the first axis. The Z = STAGES x networks states are ordered by stage.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STAGES = 4  # states of a network: activity, previous activity, first and second haemodynamic stage


@dataclass(frozen=True)
class LinearGaussian:
    """The model that one recording was drawn from; Z states, P parcels, T frames, in the recording's own units."""

    transition: Array  # (Z, Z)
    process_cov: Array  # (Z, Z), of rank `networks`
    loading: Array  # (P, Z)
    noise_var: Array  # (P,)
    initial_cov: Array  # (Z, Z), the stationary one
    drive: Array | None = None  # (T, Z), the known input of a task recording


def load_truth(path: str | Path) -> dict[str, LinearGaussian]:
    """Reads the true models of a `truth.npz`: recording id -> model."""
    with np.load(path, allow_pickle=False) as file:
        arrays: dict[str, Any] = {name: file[name] for name in file.files}
    drives = dict(zip(arrays.pop("driven"), arrays.pop("drive"), strict=True))
    names = [field.name for field in fields(LinearGaussian) if field.name != "drive"]
    return {
        str(recording): LinearGaussian(**{name: arrays[name][row] for name in names}, drive=drives.get(row))
        for row, recording in enumerate(arrays["recording"])
    }


def resonators(
    frequency_hz: Array, *, tr_s: float, bandwidth_hz: float, haemodynamic_s: float, correlation: float
) -> dict[str, Array]:
    """Returns `transition`, `process_cov` and `initial_cov` of networks with resonances at `frequency_hz`.

    A resonator has poles of radius exp(-pi bandwidth tr) at angles +-2 pi frequency tr; each haemodynamic stage is
    h_t = c h_{t-1} + (1 - c) input_{t-1} with c = exp(-tr / haemodynamic_s). The last stage, which reaches the parcels,
    is scaled to variance 1 in every network.

    Args:
        frequency_hz: (subjects, networks).
        tr_s: seconds between frames.
        bandwidth_hz: width of the resonances; a wider one has a shorter memory.
        haemodynamic_s: time constant of each of the two haemodynamic stages.
        correlation: between the driving noise of any two networks.
    """
    networks = frequency_hz.shape[1]
    radius, keep = np.exp(-np.pi * bandwidth_hz * tr_s), np.exp(-tr_s / haemodynamic_s)
    stage = np.zeros((*frequency_hz.shape, STAGES, STAGES))
    stage[..., 0, 0], stage[..., 0, 1] = 2 * radius * np.cos(2 * np.pi * frequency_hz * tr_s), -(radius**2)
    stage[..., 1, 0] = 1
    stage[..., 2, 2] = stage[..., 3, 3] = keep
    stage[..., 2, 0] = stage[..., 3, 2] = 1 - keep
    states = STAGES * networks
    transition = np.einsum("skij,kl->sikjl", stage, np.eye(networks)).reshape(-1, states, states)
    process_cov = np.zeros_like(transition)  # only the activity is driven by noise
    process_cov[:, :networks, :networks] = correlation + (1 - correlation) * np.eye(networks)
    seen = np.diagonal(stationary_cov(transition, process_cov), axis1=1, axis2=2)[:, -networks:]
    scale = np.tile(seen**-0.5, STAGES)  # the transition is unchanged, since networks are not coupled
    process_cov = process_cov * scale[:, :, None] * scale[:, None]
    initial_cov = stationary_cov(transition, process_cov)
    return {"transition": transition, "process_cov": process_cov, "initial_cov": initial_cov}


def stationary_cov(transition: Array, process_cov: Array) -> Array:
    """Solves S = A S A' + Q for stacked stable A: sums A^k Q A'^k by repeated doubling until A^k vanishes."""
    total, power = process_cov, transition
    while np.abs(power).max() > 1e-18:
        total = total + power @ total @ power.swapaxes(1, 2)
        power = power @ power
    return (total + total.swapaxes(1, 2)) / 2


def draw_series(truth: dict[str, Array], start: Array, pushes: Array, sensor: Array) -> NDArray[np.float32]:
    """Samples (recordings, frames, parcels) float32 from stacked models, frame by frame for all recordings at once.

    Args:
        truth: the fields of `LinearGaussian`, stacked; `drive` has the rows listed in `driven`.
        start: (recordings, 1, states) standard normal.
        pushes: (recordings, frames, networks) standard normal.
        sensor: (recordings, frames, parcels) standard normal.
    """
    x = pushes @ root(truth["process_cov"])[:, : pushes.shape[2]]  # the other rows of the root are zero
    x[:, :1] = start @ root(truth["initial_cov"])
    x[truth["driven"]] += truth["drive"]
    transposed = truth["transition"].swapaxes(1, 2)
    for t in range(1, x.shape[1]):
        x[:, t] += (x[:, t - 1, None] @ transposed)[:, 0]
    noise = sensor * np.sqrt(truth["noise_var"])[:, None]
    return (x @ truth["loading"].swapaxes(1, 2) + noise).astype(np.float32)


def root(cov: Array) -> Array:
    """Symmetric square root of stacked covariances, which may be singular."""
    values, vectors = np.linalg.eigh(cov)
    symmetric: Array = (vectors * np.sqrt(values.clip(0))[:, None]) @ vectors.swapaxes(1, 2)
    return symmetric
