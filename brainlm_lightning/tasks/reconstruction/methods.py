"""Reconstruction without a network: nothing, interpolation in time, and the Gaussian across parcels.

Shapes: B batch (windows), P parcels, T frames, F = lags x P features of a frame, G frames of one pattern.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainlm_lightning.tasks.reconstruction.reconstructor import visible_BPT


class Zero:
    """Predicts 0, the centre of scaled data: R² of 0 is its score where the centre is the mean."""

    def predict(
        self,
        signal_BPT: Tensor,
        hidden_BPT: Tensor,
        observed_BP: Tensor,
        recording_ids: Sequence[str],
        first_frame_B: Tensor,
    ) -> Tensor:
        """See `Reconstructor.predict`."""
        return signal_BPT.where(visible_BPT(hidden_BPT, observed_BP), 0.0)


class LinearInterpolation:
    """Joins a parcel's nearest visible frames by a line; flat beyond the outermost ones, 0 where nothing is visible."""

    def predict(
        self,
        signal_BPT: Tensor,
        hidden_BPT: Tensor,
        observed_BP: Tensor,
        recording_ids: Sequence[str],
        first_frame_B: Tensor,
    ) -> Tensor:
        """See `Reconstructor.predict`."""
        visible = visible_BPT(hidden_BPT, observed_BP)
        num_frames = visible.shape[2]
        frame_T = torch.arange(num_frames, device=visible.device)
        before = frame_T.where(visible, -1).cummax(2).values
        after = frame_T.where(visible, num_frames).flip(2).cummin(2).values.flip(2)
        left = before.where(before >= 0, after).clamp(max=num_frames - 1)
        right = after.where(after < num_frames, before).clamp(min=0)
        known = signal_BPT.where(visible, 0.0)
        low, high = known.gather(2, left), known.gather(2, right)
        share = (frame_T - left).to(known) / (right - left).clamp(min=1)  # where left = right, low = high: held, or 0
        return known.where(visible, low + share * (high - low))


# Two seconds before and after, for BOLD at 1 Hz. Learnt from 200 ABIDE recordings, tested on 29 of other subjects, R²
# at 20/50/75/90 % hidden: lag 0 alone 0.48/0.44/0.37/0.26; with +-1 0.51/0.46/0.38/0.27; with +-2 0.51/0.46/0.39/0.28;
# with +-1 and +-2 0.53/0.47/0.39/0.28. But a frame at a patch's end then has its own pattern: some 30 times the cost.
BOLD_LAGS = (-2, 0, 2)


class ConditionalGaussian:
    """E[hidden | visible] if the values at a frame, and at frames `lags` away, were jointly Gaussian.

    Mean and covariance are those of the training subjects; pairs of parcels are counted where both were observed. With
    S the covariance, v the visible and h the hidden values: mean_h + S_hv S_vv^{-1} (y_v - mean_v). Frames of one
    pattern of visibility share one Cholesky factor, so a mask by patches costs few of them.

    Args:
        lags: frames to look at, relative to the one predicted; 0 is among them. See `BOLD_LAGS`.
        ridge: added to the diagonal of the covariance, as a share of its mean: the trust withheld from the average
            subject's covariance. On ABIDE 0.03 to 0.1 are best, by 0.005 in R² over 0.001.
    """

    def __init__(self, lags: Sequence[int] = (0,), ridge: float = 0.05) -> None:
        if 0 not in lags or len(set(lags)) != len(lags):
            raise ValueError(f"lags must differ and contain 0, the frame that is predicted; got {tuple(lags)}")
        self.lags = tuple(lags)
        self.ridge = ridge

    def fit(self, series: Iterable[tuple[NDArray[np.floating], NDArray[np.bool_]]]) -> "ConditionalGaussian":
        """Estimates mean and covariance from scaled recordings.

        Args:
            series: (P, T) values and (P,) observed of each training recording; unobserved values may be anything.

        Raises:
            ValueError: there is no recording longer than the lags reach.
        """
        total_F = gram_FF = count_FF = torch.zeros(())
        for values_PT, observed_P in series:
            known = torch.as_tensor(observed_P)
            signal_PT = torch.as_tensor(values_PT).double().where(known[:, None], 0.0)
            inside = slice(max(0, -min(self.lags)), signal_PT.shape[1] - max(0, *self.lags))
            features_FT = shifted(signal_PT, self.lags)[:, inside]
            known_F = known.repeat(len(self.lags)).double()
            total_F = total_F + features_FT.sum(1)
            gram_FF = gram_FF + features_FT @ features_FT.T
            count_FF = count_FF + features_FT.shape[1] * torch.outer(known_F, known_F)
        if not count_FF.any():
            raise ValueError(f"no training recording with frames at all lags {self.lags}: give longer recordings")
        self._mean_F = total_F / count_FF.diagonal().clamp(min=1)
        moment_FF = gram_FF / count_FF.clamp(min=1)
        self._covariance_FF = torch.where(count_FF > 0, moment_FF - torch.outer(self._mean_F, self._mean_F), 0.0)
        if (count_FF != count_FF[0, 0]).any():  # averages over different recordings need not make a covariance
            values, vectors = torch.linalg.eigh(self._covariance_FF)
            self._covariance_FF = (vectors * values.clamp(min=0)) @ vectors.T
        return self

    @property
    def covariance(self) -> Tensor:
        """(P, P) float64 covariance of the training subjects at lag 0."""
        return self._covariance_FF[self._now, self._now]

    @property
    def _now(self) -> slice:
        """The features of the frame itself."""
        num_parcels, lag = len(self._mean_F) // len(self.lags), self.lags.index(0)
        return slice(lag * num_parcels, (lag + 1) * num_parcels)

    def predict(
        self,
        signal_BPT: Tensor,
        hidden_BPT: Tensor,
        observed_BP: Tensor,
        recording_ids: Sequence[str],
        first_frame_B: Tensor,
    ) -> Tensor:
        """See `Reconstructor.predict`."""
        visible = visible_BPT(hidden_BPT, observed_BP)
        mean_F, covariance_FF = self._mean_F.to(signal_BPT.device), self._covariance_FF.to(signal_BPT.device)
        covariance_FF = covariance_FF + self.ridge * covariance_FF.diagonal().mean() * torch.eye(len(mean_F)).to(mean_F)
        seen = by_frame(shifted(visible, self.lags))
        values = by_frame(shifted(signal_BPT.double().where(visible, 0.0), self.lags)) - mean_F
        filled = mean_F[self._now].repeat(len(values), 1)
        for rows_G, seen_F in patterns(seen):
            solved = cholesky_solve(covariance_FF[seen_F][:, seen_F], values[rows_G][:, seen_F].T)
            filled[rows_G] += (covariance_FF[self._now][:, seen_F] @ solved).T
        filled_BTP = filled.unflatten(0, (len(signal_BPT), -1))
        return signal_BPT.where(visible, filled_BTP.transpose(1, 2).to(signal_BPT.dtype))


def shifted(x: Tensor, lags: Sequence[int]) -> Tensor:
    """Returns (..., lags x P, T): in blocks, (..., P, T) `lag` frames later, 0 or False beyond the ends."""
    reach, num_frames = max(abs(lag) for lag in lags), x.shape[-1]
    padded = torch.nn.functional.pad(x, (reach, reach))
    return torch.cat([padded[..., reach + lag : reach + lag + num_frames] for lag in lags], dim=-2)


def by_frame(x_BFT: Tensor) -> Tensor:
    """Returns (B T, F): frames of all windows one below the other."""
    return x_BFT.transpose(1, 2).flatten(0, 1)


def patterns(seen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields, of bool (rows, F), the rows (G,) that share a pattern of visibility and the visible features of that."""
    packed = np.packbits(seen.cpu().numpy(), axis=1)
    _, first, pattern = np.unique(packed.view(f"V{packed.shape[1]}"), return_index=True, return_inverse=True)
    order = torch.from_numpy(np.argsort(pattern.ravel(), kind="stable")).to(seen.device)
    counts = np.bincount(pattern.ravel()).tolist()
    for rows_G, row in zip(order.split(counts), first.tolist(), strict=True):
        yield rows_G, seen[row].nonzero().ravel()


def cholesky_solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Returns matrix^{-1} right of a positive definite matrix; it may be empty."""
    return torch.cholesky_solve(right, torch.linalg.cholesky(matrix))
