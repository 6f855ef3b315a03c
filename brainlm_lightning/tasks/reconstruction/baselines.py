"""Baselines of reconstruction: zero, interpolation, the Gaussian of neighbouring frames, and the list of them all.

The strongest of the list are in `smoother`.

Shapes: B windows of a batch, P parcels, T frames, F = lags x P features of a frame.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from brainlm_lightning.evaluation.covariance import lagged_moments, shifted
from brainlm_lightning.tasks.compare import LearningData, Numbers
from brainlm_lightning.tasks.reconstruction.lagged import LaggedSmoother
from brainlm_lightning.tasks.reconstruction.methods import MaskedWindows, ReconstructionMethod
from brainlm_lightning.tasks.reconstruction.smoother import AdaptiveSmoother, LinearSmoother, TimeOnlySmoother


class ZeroReconstruction(ReconstructionMethod):
    """Predicts 0, the centre of scaled data: R² of 0 is its score where the centre is the mean."""

    def reconstruct(self, windows: MaskedWindows) -> Tensor:
        """See `ReconstructionMethod.reconstruct`."""
        return windows.signal_BPT


class LinearInterpolation(ReconstructionMethod):
    """Joins a parcel's nearest visible frames by a line; flat beyond the outermost ones, 0 where nothing is visible."""

    def reconstruct(self, windows: MaskedWindows) -> Tensor:
        """See `ReconstructionMethod.reconstruct`."""
        known, visible = windows.signal_BPT, windows.visible_BPT
        num_frames = visible.shape[2]
        frame_T = torch.arange(num_frames, device=visible.device)
        before = frame_T.where(visible, -1).cummax(2).values
        after = frame_T.where(visible, num_frames).flip(2).cummin(2).values.flip(2)
        left = before.where(before >= 0, after).clamp(max=num_frames - 1)
        right = after.where(after < num_frames, before).clamp(min=0)
        low, high = known.gather(2, left), known.gather(2, right)
        share = (frame_T - left).to(known) / (right - left).clamp(min=1)  # where left = right, low = high: held, or 0
        return known.where(visible, low + share * (high - low))


# Two seconds before and after, for BOLD at 1 Hz. Learnt from 200 ABIDE recordings, tested on 29 of other subjects, R²
# at 20/50/75/90 % hidden: lag 0 alone 0.48/0.44/0.37/0.26; with +-1 0.51/0.46/0.38/0.27; with +-2 0.51/0.46/0.39/0.28;
# with +-1 and +-2 0.53/0.47/0.39/0.28. But a frame at a patch's end then has its own pattern: some 30 times the cost.
BOLD_LAGS = (-2, 0, 2)


class ConditionalGaussian(ReconstructionMethod):
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

    def fit(self, learning: LearningData) -> Numbers:
        """Estimates mean and covariance from the training recordings.

        Raises:
            ValueError: there is no recording longer than the lags reach.
        """
        recordings = learning.recordings("train", type(self).__name__)
        self._mean_F, self._covariance_FF = lagged_moments(recordings, self.lags)
        return {}

    @property
    def _now(self) -> slice:
        """The features of the frame itself."""
        num_parcels, lag = len(self._mean_F) // len(self.lags), self.lags.index(0)
        return slice(lag * num_parcels, (lag + 1) * num_parcels)

    def reconstruct(self, windows: MaskedWindows) -> Tensor:
        """See `ReconstructionMethod.reconstruct`."""
        signal_BPT, visible_BPT = windows.signal_BPT, windows.visible_BPT
        mean_F, covariance_FF = self._mean_F.to(signal_BPT.device), self._covariance_FF.to(signal_BPT.device)
        covariance_FF = covariance_FF + self.ridge * covariance_FF.diagonal().mean() * torch.eye(len(mean_F)).to(mean_F)
        seen = by_frame(shifted(visible_BPT, self.lags))
        values = by_frame(shifted(signal_BPT.double(), self.lags)) - mean_F
        filled = mean_F[self._now].repeat(len(values), 1)
        for rows, seen_F in patterns(seen):
            solved = cholesky_solve(covariance_FF[seen_F][:, seen_F], values[rows][:, seen_F].T)
            filled[rows] += (covariance_FF[self._now][:, seen_F] @ solved).T
        filled_BTP = torch.unflatten(filled, 0, (len(signal_BPT), -1))
        return signal_BPT.where(visible_BPT, filled_BTP.transpose(1, 2).to(signal_BPT.dtype))


def default_baselines(patch_frames: int) -> dict[str, ReconstructionMethod]:
    """What every reconstruction is compared with.

    Args:
        patch_frames: of the masks that settings are chosen with, on validation windows.
    """
    return {
        "zero": ZeroReconstruction(),
        "linear_interpolation": LinearInterpolation(),
        "conditional_gaussian": ConditionalGaussian(),
        "conditional_gaussian_lagged": ConditionalGaussian(lags=BOLD_LAGS),
        "time_only": TimeOnlySmoother(patch_frames=patch_frames),
        "linear_smoother": LinearSmoother(patch_frames=patch_frames),
        "lagged_smoother": LaggedSmoother(patch_frames=patch_frames),
        "adaptive_smoother": AdaptiveSmoother(patch_frames=patch_frames),
    }


def by_frame(x_BFT: Tensor) -> Tensor:
    """Returns (B T, F): frames of all windows one below the other."""
    return x_BFT.transpose(1, 2).flatten(0, 1)


def patterns(seen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields, of bool (rows, F), the rows that share a pattern of visibility and the visible features of that."""
    packed = np.ascontiguousarray(np.packbits(seen.cpu().numpy(), axis=1))  # of one window it is a transposed view
    _, first, pattern = np.unique(packed.view(f"V{packed.shape[1]}"), return_index=True, return_inverse=True)
    order = torch.from_numpy(np.argsort(pattern.ravel(), kind="stable")).to(seen.device)
    counts = np.bincount(pattern.ravel()).tolist()
    for rows, row in zip(torch.split(order, counts), first.tolist(), strict=True):
        yield rows, seen[row].nonzero().ravel()


def cholesky_solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Returns matrix^{-1} right of a positive definite matrix; it may be empty."""
    return torch.cholesky_solve(right, torch.linalg.cholesky(matrix))
