"""The Gaussian whose covariance is parcels ⊗ time, and what it expects where nothing is visible.

A window X (P, T) has covariance C ⊗ S, and white noise of variance v on top. With roots C = R R' and S = Q Q' a window
is X = R W Q', W white (P, J). Given the visible values y the mean of W solves

    (1 + A' M A / v) w = A' y / v        A w = R W Q'        M = 1 where visible, else 0

by conjugate gradients, whole batches at once: one product with the matrix is four products with matrices no larger than
(P, P) or (T, J), and the (P T)² matrix is never formed. The system is no smaller than 1, and with M replaced by the
visible share of the window it is diagonal in the eigenvectors of C and S: that is the preconditioner. On 391 parcels,
200 frames and noise of 0.3 it takes 19 steps at 20 % hidden and 59 at 90 %. Solving for the visible values instead,
preconditioned by the complete window, takes 60 to 75 steps that cost three times as much.

Shapes: B batch (windows), P parcels, T frames, Z kept directions in time.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from brainlm_lightning.model.smoother.gradients import Accuracy, conjugate_gradients

# Directions in time whose variance, in the strongest direction of parcels, is this share of the noise tell nothing; a
# root is not inverted in directions whose variance is this share of the largest.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues, (..., K) 0 or above in rising order, and eigenvectors, (..., N, K), of covariances."""

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, covariance: Tensor) -> "Spectrum":
        """Of float64 (..., N, N); what falls below 0 is rounding, or an average over different recordings."""
        values, vectors = torch.linalg.eigh(covariance)
        return cls(values.clamp(min=0), vectors)

    @property
    def root(self) -> Tensor:
        """R with R R' = the covariance, (..., N, K)."""
        return self.vectors * self.values.sqrt()[..., None, :]

    @property
    def inverse_root(self) -> Tensor:
        """R⁺, (..., K, N): 0 for directions of negligible variance."""
        counts = self.values > NEGLIGIBLE * self.values.amax(-1, keepdim=True)
        return torch.where(counts, self.values, torch.inf).rsqrt()[..., None] * self.vectors.mT

    @property
    def covariance(self) -> Tensor:
        """(..., N, N)."""
        return self.root @ self.root.mT

    def to(self, device: torch.device) -> "Spectrum":
        """On a device."""
        return Spectrum(self.values.to(device), self.vectors.to(device))


@dataclass(frozen=True)
class KroneckerGaussian:
    """Covariance parcels ⊗ time, and white noise.

    Attributes:
        parcels: (P, P), or of each window (B, P, P).
        time: (T, J).
        noise: variance.
    """

    parcels: Spectrum
    time: Spectrum
    noise: float

    @classmethod
    def of(cls, parcels: Spectrum, time: Spectrum, noise: float) -> "KroneckerGaussian":
        """Leaves out directions in time that noise drowns.

        Raises:
            ValueError: the noise is not above 0.
        """
        if not noise > 0:
            raise ValueError(f"the variance of the noise is {noise}; expected above 0")
        kept = time.values * parcels.values.max() > NEGLIGIBLE * noise
        return cls(parcels, Spectrum(time.values[kept], time.vectors[:, kept]), noise)

    def with_parcels(self, covariance: Tensor) -> "KroneckerGaussian":
        """The same in time, with another covariance of parcels: (P, P) or, of each window, (B, P, P)."""
        return replace(self, parcels=Spectrum.of(covariance))

    def values(self, white_BPZ: Tensor) -> Tensor:
        """A w: windows (B, P, T)."""
        return self.parcels.root @ white_BPZ @ self.time.root.mT

    def white(self, window_BPT: Tensor) -> Tensor:
        """The least w with A w = a window that another Gaussian with the same time draws, (B, P, J)."""
        return self.parcels.inverse_root @ window_BPT @ self.time.inverse_root.mT

    def whitened(self, signal_BPT: Tensor) -> Tensor:
        """A' x, (B, P, J)."""
        return self.parcels.root.mT @ signal_BPT @ self.time.root

    def precision(self, share_B: Tensor) -> Tensor:
        """1 + s d / v, (B, P, J): the system's eigenvalues if each window's visible share s was spread evenly."""
        variance_PZ = self.parcels.values[..., :, None] * self.time.values
        return 1 + share_B[:, None, None] * variance_PZ / self.noise


@dataclass(frozen=True)
class Posterior:
    """The mean of W given the visible values, (B, P, J), and the steps that it took."""

    white_BPZ: Tensor
    iterations: int


def posterior(
    model: KroneckerGaussian,
    signal_BPT: Tensor,
    visible_BPT: Tensor,
    accuracy: Accuracy,
    near_BPT: Tensor | None = None,
) -> Posterior:
    """Solves for W by preconditioned conjugate gradients.

    Args:
        model: float64, on the device of the windows.
        signal_BPT: values; what is not visible may be anything.
        visible_BPT: bool.
        accuracy: when it ends.
        near_BPT: what a Gaussian of other parcels' covariance expects of the window, to begin from; None = nothing.

    Raises:
        ArithmeticError: the tolerance was not reached.
    """
    known = visible_BPT.to(model.time.values)
    parcel_root, time_root = model.parcels.root, model.time.root
    right = parcel_root.mT @ signal_BPT.to(known).where(visible_BPT, 0) @ time_root / model.noise
    inverse = 1 / model.precision(known.mean((1, 2)))

    def product(direction: Tensor) -> Tensor:
        seen = (parcel_root @ direction @ time_root.mT) * known
        return direction + parcel_root.mT @ seen @ time_root / model.noise

    begin = None if near_BPT is None else model.white(near_BPT)
    return Posterior(*conjugate_gradients(product, inverse, right, dot, accuracy, begin))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of each window, (B,)."""
    return (a * b).sum((1, 2))


def expected_parcels(model: KroneckerGaussian, found: Posterior, visible_BPT: Tensor) -> Tensor:
    """One step of EM for the covariance of parcels of each window, (B, P, P): E[X S^{-1} X'] / T given the visible.

    In white directions that is R E[W W'] R' / T. The mean of W is known; its covariance is taken as if the visible
    share was spread evenly. That is exact where all is visible: the likelihood of the visible values then cannot fall.
    """
    num_frames = visible_BPT.shape[2]
    share_B = visible_BPT.to(found.white_BPZ).mean((1, 2))
    spread_BP = (1 / model.precision(share_B)).sum(2) + num_frames - found.white_BPZ.shape[2]
    second_BPP = found.white_BPZ @ found.white_BPZ.mT + torch.diag_embed(spread_BP)
    return model.parcels.root @ second_BPP @ model.parcels.root.mT / num_frames
