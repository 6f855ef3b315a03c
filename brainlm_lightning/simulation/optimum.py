"""The best possible reconstruction of simulated recordings: a Kalman smoother with the true parameters.

A recording y_t = C x_t + N(0, R), x_t = A x_{t-1} + d_t + N(0, Q), is drawn with R diagonal and x_0 - d_0 stationary,
N(0, S). The known input affects only the mean, m_t = A m_{t-1} + d_t, so the smoother works on the signal minus C m_t,
and starts every window from N(0, S). Hidden values are missing observations. With J = C' R^{-1} C and b = C' R^{-1} y
over the visible parcels of a frame, the predicted state (x, V) is updated by

    M = (I + J V)^{-1}        x' = A (x + V M (b - J x))        V' = A V M A' + Q

and the smoothed state is x + V r, where r = M (b - J x + A' r') runs backwards in time from r = 0 after the last frame.
This is the information form of the filter and de Jong's smoother (1989): covariances are never inverted (they may be
singular), the eigenvalues of I + J V are at least 1, and a frame costs O(P Z²) instead of O(P³).

Shapes: B batch (windows), P parcels, T frames, Z states.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]


class StateSpace(Protocol):
    """The true model of one recording, in its own units: `state_space.LinearGaussian` is one."""

    @property
    def transition(self) -> Array:
        """A, (Z, Z)."""

    @property
    def process_cov(self) -> Array:
        """Q, (Z, Z), may be singular."""

    @property
    def loading(self) -> Array:
        """C, (P, Z)."""

    @property
    def noise_var(self) -> Array:
        """The diagonal of R, (P,), above 0."""

    @property
    def initial_cov(self) -> Array:
        """S, (Z, Z), the stationary covariance."""

    @property
    def drive(self) -> Array | None:
        """d, (T, Z) of the whole recording, or None."""


class Optimum:
    """E[hidden | visible] of each window under its recording's true model: no method can have a higher expected R².

    Windows are predicted independently, as by all other methods: frames before and after a window are not used.

    Args:
        truth: recording id -> true model.
        centre: recording id -> (P,) total offset that was subtracted from the signal, in the recording's own units.
        scale: recording id -> (P,) divisor that was applied next; NaN or 0 for unobserved parcels.
    """

    def __init__(
        self, truth: Mapping[str, StateSpace], centre: Mapping[str, Array], scale: Mapping[str, Array]
    ) -> None:
        self._models = {name: scaled(truth[name], centre[name], scale[name]) for name in truth}

    def predict(
        self,
        signal_BPT: Tensor,
        visible_BPT: Tensor,
        recording_ids: Sequence[str],
        first_frame_B: Tensor,
    ) -> Tensor:
        """Returns the windows, (B, P, T), with hidden values replaced by their expectation.

        Args:
            signal_BPT: scaled windows; values that are not visible are ignored.
            visible_BPT: bool, True = visible.
            recording_ids: B recording ids.
            first_frame_B: index of each window's first frame in its recording.

        Raises:
            KeyError: a recording has no true model.
            ValueError: a window extends beyond the known input of its recording.
        """
        unknown = sorted(set(recording_ids) - set(self._models))
        if unknown:
            raise KeyError(f"no true model of {unknown[:5]}: the optimum is known only for simulated recordings")
        models = [self._models[name] for name in recording_ids]
        stacked = {name: torch.stack([model[name] for model in models]).to(signal_BPT.device) for name in FIELDS}
        frames = [(int(first), int(first) + signal_BPT.shape[2]) for first in first_frame_B]
        expected_PT = [expected(model["mean"], *span) for model, span in zip(models, frames, strict=True)]
        expected_BPT = torch.stack(expected_PT).to(signal_BPT.device)
        surprise_BPT = (signal_BPT.double() - expected_BPT).where(visible_BPT, 0.0)
        states_BTZ = smooth(stacked, surprise_BPT, visible_BPT)
        filled_BPT = expected_BPT + stacked["loading"] @ states_BTZ.transpose(1, 2)
        return signal_BPT.where(visible_BPT, filled_BPT.to(signal_BPT.dtype))


FIELDS = ("transition", "process_cov", "initial_cov", "loading", "precision")


def scaled(model: StateSpace, centre_P: Array, scale_P: Array) -> dict[str, Tensor]:
    """Returns the model of (y - centre) / scale: FIELDS, and `mean` (P, T), or (P, 1) without input.

    Parcels without a scale get loading, precision and mean 0: they carry no information and are predicted as 0.
    """
    if not np.all(model.noise_var > 0):
        raise ValueError(f"sensor noise must have a variance above 0 in every parcel, got {np.min(model.noise_var)}")
    usable_P = np.isfinite(scale_P) & (np.nan_to_num(scale_P) > 0)
    gain_P = np.where(usable_P, 1 / np.where(usable_P, scale_P, 1.0), 0.0)
    drive = np.zeros((1, len(model.transition))) if model.drive is None else model.drive
    state_TZ = np.array(list(accumulate(drive, lambda state, push: model.transition @ state + push)))
    mean_PT = gain_P[:, None] * (model.loading @ state_TZ.T - np.where(usable_P, centre_P, 0.0)[:, None])
    arrays = {
        "transition": model.transition,
        "process_cov": model.process_cov,
        "initial_cov": model.initial_cov,
        "loading": gain_P[:, None] * model.loading,
        "precision": np.where(usable_P, scale_P, 0.0) ** 2 / model.noise_var,
        "mean": mean_PT,
    }
    return {name: torch.as_tensor(np.asarray(array, dtype=float)) for name, array in arrays.items()}


def expected(mean_PT: Tensor, first: int, stop: int) -> Tensor:
    """Returns the mean of the signal in the frames from `first` to before `stop`, (P, T)."""
    if mean_PT.shape[1] == 1:
        return mean_PT.expand(-1, stop - first)
    if first < 0 or stop > mean_PT.shape[1]:
        raise ValueError(f"window of frames {first} to {stop}, but the input is known for {mean_PT.shape[1]} frames")
    return mean_PT[:, first:stop]


def smooth(model: Mapping[str, Tensor], surprise_BPT: Tensor, visible: Tensor) -> Tensor:
    """Returns the expected states (B, T, Z) given the visible values, by the recursions in the module docstring."""
    A, Q, V, C = (model[name] for name in FIELDS[:4])
    weight_BTP = (visible * model["precision"][:, :, None]).transpose(1, 2)
    J = weight_BTP @ (C[:, :, :, None] * C[:, :, None, :]).flatten(2)
    J = torch.unflatten(J, 2, A.shape[1:])
    b = ((weight_BTP * surprise_BPT.transpose(1, 2)) @ C)[..., None]
    x, identity, past = torch.zeros_like(b[:, 0]), torch.eye(A.shape[1]).to(A), []
    for t in range(b.shape[1]):
        M = torch.linalg.inv(identity + J[:, t] @ V)
        past.append((x, V, M, b[:, t] - J[:, t] @ x))
        filtered_cov = V @ M
        x = A @ (x + filtered_cov @ past[-1][3])
        V = A @ ((filtered_cov + filtered_cov.mT) / 2) @ A.mT + Q  # keeps V exactly symmetric
    r, smoothed = torch.zeros_like(x), []
    for x, V, M, news in reversed(past):
        r = M @ (news + A.mT @ r)
        smoothed.append(x + V @ r)
    return torch.stack(smoothed[::-1], dim=1)[..., 0]
