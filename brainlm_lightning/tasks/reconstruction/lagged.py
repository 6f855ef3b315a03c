"""The stationary Gaussian process with a covariance of parcels at every lag, and the smoother that it makes.

Parcels ⊗ time says that two parcels are related in the same way at every lag. Where one leads another, or where
networks differ in speed, that is wrong. Here each frequency k has a covariance of its own, F_k (P, P), complex. A
window is the first T frames of a process on a circle of L frames: with roots F_k = G_k G_k* and white W it is A W, the
inverse Fourier transform of G_k W_k, cut to T frames. As in `kronecker` the mean of W given the visible values y solves

    (1 + A* M A / v) w = A* y / v        M = 1 where visible, else 0

by conjugate gradients, in the eigenvectors of the F_k. One product costs 2 L P² complex multiplications and two Fourier
transforms a parcel. Memory: L P² / 2 complex numbers for each of three arrays, 0.25 GB each at 400 parcels, 200 frames.

Shapes: B batch (windows), P parcels, T frames, L frames of the circle (lags), K frequencies kept of L / 2 + 1.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fft import irfft, rfft

from brainlm_lightning.evaluation.covariance import ScaledRecording, lagged_moments
from brainlm_lightning.evaluation.tuning import Axis, Setting
from brainlm_lightning.model.smoother.gradients import Accuracy, conjugate_gradients
from brainlm_lightning.model.smoother.kronecker import NEGLIGIBLE
from brainlm_lightning.tasks.compare import LearningData
from brainlm_lightning.tasks.reconstruction.tuned import TunedSmoother

REACH = 4  # standard deviations of the lag window at which lags are cut off


@dataclass(frozen=True)
class LaggedGaussian:
    """A stationary process, seen through white noise.

    Attributes:
        values_KP: eigenvalues of F_k, 0 or above.
        vectors_KPP: their eigenvectors, complex.
        frequency_K: the numbers k.
        circle: L.
        window_frames: T.
        noise: variance.
    """

    values_KP: Tensor
    vectors_KPP: Tensor
    frequency_K: Tensor
    circle: int
    window_frames: int
    noise: float

    @classmethod
    def of(cls, values: Tensor, vectors: Tensor, circle: int, window_frames: int, noise: float) -> "LaggedGaussian":
        """Leaves out frequencies that noise drowns.

        Raises:
            ValueError: the noise is not above 0.
        """
        if not noise > 0:
            raise ValueError(f"the variance of the noise is {noise}; expected above 0")
        values = values.clamp(min=0)
        kept_K = (values.amax(1) > NEGLIGIBLE * noise).nonzero()[:, 0]
        return cls(values[kept_K], vectors[kept_K], kept_K, circle, window_frames, noise)

    def windows(self, white_BKP: Tensor) -> Tensor:
        """A w, (B, P, T)."""
        coloured_KPB = self.vectors_KPP @ (self.values_KP.sqrt() * white_BKP).permute(1, 2, 0)
        spectrum = coloured_KPB.new_zeros(len(white_BKP), coloured_KPB.shape[1], self.circle // 2 + 1)
        spectrum[:, :, self.frequency_K] = coloured_KPB.permute(2, 1, 0)
        on_circle: Tensor = irfft(spectrum, n=self.circle, norm="ortho")
        return on_circle[:, :, : self.window_frames]

    def whitened(self, signal_BPT: Tensor) -> Tensor:
        """A* x, (B, K, P)."""
        spectrum = rfft(signal_BPT, n=self.circle, norm="ortho")[:, :, self.frequency_K]
        own_KPB = self.vectors_KPP.mH @ spectrum.permute(2, 1, 0)
        whitened: Tensor = self.values_KP.sqrt() * own_KPB.permute(2, 0, 1)
        return whitened

    def inner(self, a_BKP: Tensor, b_BKP: Tensor) -> Tensor:
        """Inner products on the circle, (B,): frequencies with a conjugate partner count twice."""
        alone_K = (self.frequency_K == 0) | (2 * self.frequency_K == self.circle)
        weight_K = torch.where(alone_K, 1.0, 2.0).to(self.values_KP)
        product_B: Tensor = ((a_BKP.conj() * b_BKP).real * weight_K[:, None]).sum((1, 2))
        return product_B

    def expected(self, signal_BPT: Tensor, visible_BPT: Tensor, accuracy: Accuracy) -> Tensor:
        """E[window | visible], (B, P, T).

        Args:
            signal_BPT: about the mean; what is not visible may be anything.
            visible_BPT: bool.
            accuracy: of the conjugate gradients.

        Raises:
            ArithmeticError: the tolerance was not reached.
        """
        known = visible_BPT.to(self.values_KP)
        right = self.whitened(signal_BPT.to(known).where(visible_BPT, 0)) / self.noise
        share_B = known.mean((1, 2)) * self.window_frames / self.circle
        inverse = 1 / (1 + share_B[:, None, None] * self.values_KP / self.noise)

        def product(white_BKP: Tensor) -> Tensor:
            return white_BKP + self.whitened(self.windows(white_BKP) * known) / self.noise

        def precondition(residual: Tensor) -> Tensor:
            return inverse * residual

        return self.windows(conjugate_gradients(product, precondition, right, self.inner, accuracy)[0])


class LaggedSmoother(TunedSmoother):
    """E[hidden | visible] of a window under a stationary process with lagged covariances of parcels.

    F_k = (1 - s) F̂_k + s f_k C + r f_k c. F̂ are the cross-spectra of training windows, their lags multiplied by a
    Gaussian (``memory`` is its standard deviation), C the covariance at one frame, c its mean diagonal, f the mean
    spectrum. With ``separable``, s = 1, it is parcels ⊗ stationary time; r is the ``ridge``.

    Args:
        memories: frames, to choose from.
        separables: shares, to choose from.
        ridges: to choose from.
        nuggets: variances of white noise, as shares of the mean variance, to choose from.
        patch_frames: of the masks on validation windows.
        validation_windows: how many windows settings are chosen by, spread over the validation recordings.
        accuracy: of the conjugate gradients; None = a tolerance of 1e-4, since their preconditioner, which takes the
            visible values as spread evenly, underrates the error.
    """

    rough = 3e-4

    def __init__(
        self,
        memories: Sequence[float] = (10.0, 30.0, 90.0),
        separables: Sequence[float] = (0.1, 0.3, 0.9),
        ridges: Sequence[float] = (0.01, 0.03, 0.1),
        nuggets: Sequence[float] = (0.003, 0.01, 0.03, 0.1),
        patch_frames: int = 20,
        validation_windows: int = 4,
        accuracy: Accuracy | None = None,
    ) -> None:
        axes = [
            Axis("nugget", tuple(nuggets)),
            Axis("memory", tuple(memories), lowest=1.0),
            Axis("separable", tuple(separables), highest=1.0),
            Axis("ridge", tuple(ridges)),
        ]
        super().__init__(axes, patch_frames, validation_windows, accuracy or Accuracy(1e-4))

    def learn(self, learning: LearningData) -> None:
        """See `TunedSmoother.learn`."""
        name, self._frames = type(self).__name__, learning.data.window_frames
        self._mean_P, self._covariance_PP = lagged_moments(learning.recordings("train", name))
        spectra = cross_spectra(learning.recordings("train", name), self._mean_P, self._frames)
        self._lags_LPP = irfft(spectra, n=2 * self._frames, dim=0)
        self._last: tuple[tuple[float, float], tuple[Tensor, Tensor, Tensor]] | None = None

    def expected(self, signal_BPT: Tensor, visible_BPT: Tensor, setting: Setting, accuracy: Accuracy) -> Tensor:
        """See `TunedSmoother.expected`."""
        mean_P1 = self._mean_P.to(signal_BPT.device)[:, None]
        model = self.model(setting, signal_BPT.device)
        return mean_P1 + model.expected(signal_BPT.double() - mean_P1, visible_BPT, accuracy)

    def model(self, setting: Setting, device: torch.device) -> LaggedGaussian:
        """The process that a setting makes of what was learnt."""
        key = (setting["memory"], setting["separable"])
        if self._last is None or self._last[0] != key:
            self._last = key, self._decomposed(*key)
        values_KP, vectors_KPP, shape_K = (part.to(device) for part in self._last[1])
        scale = float(self._covariance_PP.diagonal().mean())
        values_KP = values_KP + setting["ridge"] * scale * shape_K[:, None]
        circle = 2 * (len(shape_K) - 1)
        return LaggedGaussian.of(values_KP, vectors_KPP, circle, self._frames, setting["nugget"] * scale)

    def _decomposed(self, memory: float, separable: float) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues and eigenvectors of F without its ridge, and the mean spectrum f."""
        spectra = rfft(windowed(self._lags_LPP, memory, self._frames), dim=0)
        own_P = self._covariance_PP.diagonal()
        shape_K = (spectra.diagonal(dim1=1, dim2=2).real[:, own_P > 0] / own_P[own_P > 0]).mean(1).clamp(min=0)
        mixed = (1 - separable) * spectra + separable * shape_K[:, None, None] * self._covariance_PP
        values_KP, vectors_KPP = torch.linalg.eigh(mixed)
        return values_KP, vectors_KPP, shape_K


def cross_spectra(recordings: Iterable[ScaledRecording], mean_P: Tensor, num_frames: int) -> Tensor:
    """Mean cross-spectra of half overlapping Hann windows, on a circle of two windows, (T + 1, P, P) complex128.

    Their inverse Fourier transform is the covariance at each lag; at long lags, where few frames of a window meet, it
    is smaller than it should be.

    Args:
        recordings: scaled.
        mean_P: subtracted.
        num_frames: T.

    Raises:
        ValueError: no recording has a window's frames.
    """
    taper_T = torch.hann_window(num_frames + 2, periodic=False, dtype=torch.float64)[1:-1]
    taper_T /= taper_T.square().sum().sqrt()
    total = torch.zeros(num_frames + 1, len(mean_P), len(mean_P), dtype=torch.complex128)
    count_PP = torch.zeros(len(mean_P), len(mean_P), dtype=torch.float64)
    for values_PT, observed_P in recordings:
        known_P = torch.as_tensor(observed_P)
        centred_PT = (torch.as_tensor(values_PT).double() - mean_P[:, None]).where(known_P[:, None], 0)
        for start in range(0, centred_PT.shape[1] - num_frames + 1, max(1, num_frames // 2)):
            spectrum_KP = rfft(centred_PT[:, start : start + num_frames] * taper_T, n=2 * num_frames).T
            total += spectrum_KP[:, :, None] * spectrum_KP[:, None, :].conj()
            count_PP += torch.outer(known_P, known_P)
    if not count_PP.any():
        raise ValueError(f"no training recording has a window of {num_frames} frames: give longer recordings")
    return total / count_PP.clamp(min=1)


def windowed(lags_LPP: Tensor, memory: float, num_frames: int) -> Tensor:
    """Multiplies lags by a Gaussian and cuts them off at `REACH` of it.

    Args:
        lags_LPP: covariance at lags 0, 1, …, −1 on a circle of 2 T frames.
        memory: standard deviation, frames.
        num_frames: T.

    Returns:
        The same on the smallest circle with an even number of frames on which no two frames of a window are as near
        the other way round as the longest lag.
    """
    longest = min(num_frames - 1, math.ceil(REACH * memory))
    circle = num_frames + longest + (num_frames + longest) % 2
    lag_N = torch.arange(-longest, longest + 1)
    weight_N = torch.exp(-0.5 * (lag_N / memory) ** 2).to(lags_LPP)
    kept = lags_LPP.new_zeros(circle, *lags_LPP.shape[1:])
    return kept.index_add(0, lag_N % circle, lags_LPP[lag_N % len(lags_LPP)] * weight_N[:, None, None])
