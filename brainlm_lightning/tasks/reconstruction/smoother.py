"""Linear smoothers: what a Gaussian over all parcels and frames of a window expects where values are hidden.

They are the strongest linear opponents of a masked model: a band-passed signal can be interpolated in time, parcels are
correlated, and both together are what a linear method can know. See `kronecker` for the mathematics and the cost.

Shapes: B batch (windows), P parcels, T frames, N patches per parcel.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from brainlm_lightning.evaluation.covariance import ScaledRecording, lagged_moments
from brainlm_lightning.model.masking import Grid, draw_mask
from brainlm_lightning.tasks.compare import LearningData, Numbers
from brainlm_lightning.tasks.reconstruction.kronecker import (
    Accuracy,
    KroneckerGaussian,
    Spectrum,
    expected_parcels,
    posterior,
    stationary,
    time_moment,
    window_starts,
)
from brainlm_lightning.tasks.reconstruction.methods import MaskedWindows, ReconstructionMethod
from brainlm_lightning.tasks.tuning import Axis, Setting, choose

LOGGER = logging.getLogger(__name__)
TUNING_RATIOS = (0.2, 0.75)  # shares hidden at random where settings are chosen
# Tolerance where settings are compared, and for steps of EM. On restpain with a nugget of 0.001 R² at 75 % hidden is
# 0.180 with 1e-2, 0.619 with 1e-3, 0.701 with 1e-4 and 0.703 from 1e-5: a looser one would speak against small nuggets.
ROUGH = 1e-4
TIMES = {"window": (0.0,), "stationary": (1.0,), None: (0.0, 1.0)}  # values of the setting ``stationary``


class LinearSmoother(ReconstructionMethod):
    """E[hidden | visible] of a window with covariance parcels ⊗ time and white noise, all from training subjects.

    Ridge and nugget are those with the highest R², averaged over `TUNING_RATIOS`, on windows of validation subjects.

    Args:
        time: covariance in time: ``window``, the second moment of training windows, which knows of the edges that
            filters leave; ``stationary``, a function of the lag alone; None = the better on validation windows.
        ridges: added to the diagonal of the parcels' covariance, as shares of its mean, to choose from.
        nuggets: variances of white noise, as shares of the mean variance, to choose from.
        patch_frames: of the masks on validation windows.
        validation_windows: how many windows settings are chosen by, spread over the validation recordings.
        accuracy: of the conjugate gradients; None = the defaults of `Accuracy`.
    """

    def __init__(
        self,
        time: Literal["window", "stationary"] | None = None,
        ridges: Sequence[float] = (0.01, 0.03, 0.1),
        nuggets: Sequence[float] = (0.003, 0.01, 0.03, 0.1),
        patch_frames: int = 20,
        validation_windows: int = 4,
        accuracy: Accuracy | None = None,
    ) -> None:
        if time not in TIMES:
            raise ValueError(f"time is {time!r}; expected 'window', 'stationary' or None")
        self.patch_frames, self.validation_windows = patch_frames, validation_windows
        self.accuracy = accuracy or Accuracy()
        self.axes = [
            Axis("nugget", tuple(nuggets)),
            Axis("ridge", tuple(ridges)),
            Axis("stationary", TIMES[time], 0.0, 1.0),
        ]
        self.iterations = 0  # of the last windows

    def fit(self, learning: LearningData) -> Numbers:
        """Learns mean and covariances from training subjects; chooses ridge and nugget on validation subjects.

        Returns:
            The settings (``stationary``: 0 or 1), ``at_edge`` (1 where one is at the end of a grid that was extended as
            far as it may be), and ``r2_val``, on validation windows.
        """
        name, num_frames = type(self).__name__, learning.data.window_frames
        self._mean_P, covariance_PP = lagged_moments(learning.recordings("train", name))
        self._parcels = Spectrum.of(self._between(covariance_PP))
        spread_P = covariance_PP.diagonal().sqrt()
        moment_TT = time_moment(learning.recordings("train", name), self._mean_P, spread_P, num_frames)
        self._times = [Spectrum.of(moment_TT), Spectrum.of(stationary(moment_TT))]
        examples = self._examples(learning.recordings("val"), num_frames)
        chosen = choose(lambda setting: self._error(setting, examples), self.axes)
        self.setting = chosen.setting
        return {**chosen.numbers(), "r2_val": 1 - chosen.error}

    def reconstruct(self, windows: MaskedWindows) -> Tensor:
        """See `ReconstructionMethod.reconstruct`.

        Raises:
            ArithmeticError: the conjugate gradients did not converge.
        """
        filled_BPT = self._expected(windows, self.setting, self.accuracy)
        return windows.signal_BPT.where(windows.visible_BPT, filled_BPT.to(windows.signal_BPT.dtype))

    def model(self, setting: Setting, device: torch.device) -> KroneckerGaussian:
        """The Gaussian that a ridge and a nugget make of what was learnt."""
        scale = float(self._parcels.values.mean())
        parcels = Spectrum(self._parcels.values + setting["ridge"] * scale, self._parcels.vectors).to(device)
        return KroneckerGaussian.of(
            parcels, self._times[int(setting["stationary"])].to(device), setting["nugget"] * scale
        )

    def _between(self, covariance_PP: Tensor) -> Tensor:
        """What the smoother knows of the covariance of parcels."""
        return covariance_PP

    def _expected(self, windows: MaskedWindows, setting: Setting, accuracy: Accuracy) -> Tensor:
        """E[window | visible], (B, P, T) float64."""
        mean_P1 = self._mean_P.to(windows.signal_BPT.device)[:, None]
        model = self.model(setting, windows.signal_BPT.device)
        centred_BPT = windows.signal_BPT.double() - mean_P1
        model = self._adapted(model, centred_BPT, windows.visible_BPT, setting, accuracy)
        found = posterior(model, centred_BPT, windows.visible_BPT, accuracy)
        self.iterations = found.iterations
        return mean_P1 + model.values(found.white_BPZ)

    def _adapted(
        self,
        model: KroneckerGaussian,
        centred_BPT: Tensor,
        visible_BPT: Tensor,
        setting: Setting,
        accuracy: Accuracy,
    ) -> KroneckerGaussian:
        """The Gaussian that these windows are smoothed with."""
        return model

    def _error(self, setting: Setting, examples: Sequence[tuple[Tensor, MaskedWindows]]) -> float:
        """1 - R², averaged over the shares hidden; infinite where conjugate gradients cannot solve for a setting."""
        rough = Accuracy(max(self.accuracy.tolerance, ROUGH), self.accuracy.max_iterations)
        shares = []
        for signal_BPT, windows in examples:
            hidden_BPT = windows.hidden_BPT
            truth = signal_BPT[hidden_BPT].double()
            try:
                error = self._expected(windows, setting, rough)[hidden_BPT] - truth
            except ArithmeticError as failure:
                LOGGER.warning("%s is not tried with %s: %s", type(self).__name__, setting, failure)
                return math.inf
            shares.append(float(error.square().sum() / (truth - truth.mean()).square().sum()))
        return sum(shares) / len(shares)

    def _examples(self, recordings: Iterable[ScaledRecording], num_frames: int) -> list[tuple[Tensor, MaskedWindows]]:
        """Validation windows, at each share hidden: their values, and what is visible of them."""
        cut = [
            (torch.as_tensor(values_PT[:, start : start + num_frames]), torch.as_tensor(observed_P))
            for values_PT, observed_P in recordings
            for start in window_starts(values_PT.shape[1], num_frames)
        ]
        if not cut or num_frames % self.patch_frames:
            raise ValueError(
                f"{len(cut)} validation windows of {num_frames} frames, hidden by patches of {self.patch_frames}: "
                "settings are chosen on one or more, and a window is a whole number of patches. Give validation "
                "subjects (split.val), longer recordings, or another patch_frames"
            )
        chosen = torch.linspace(0, len(cut) - 1, min(self.validation_windows, len(cut))).round().long().tolist()
        signal_BPT, observed_BP = (torch.stack(parts) for parts in zip(*(cut[i] for i in chosen), strict=True))
        grid, key_B, none_B = Grid(observed_BP, num_frames // self.patch_frames), torch.arange(len(chosen)), [""]
        return [
            (
                signal_BPT,
                MaskedWindows.of(
                    signal_BPT, draw_mask("random", key_B, ratio, grid), observed_BP, none_B * len(chosen), 0 * key_B
                ),
            )
            for ratio in TUNING_RATIOS
        ]


class TimeOnlySmoother(LinearSmoother):
    """The same without other parcels: each parcel's own visible frames alone, what interpolation can reach.

    Args:
        settings: those of `LinearSmoother`. There is no ridge to choose: nothing stands between parcels.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"ridges": (0.0,), **settings})

    def _between(self, covariance_PP: Tensor) -> Tensor:
        return covariance_PP.diagonal().diag()


class AdaptiveSmoother(LinearSmoother):
    """A linear smoother whose covariance of parcels moves towards each window's own, by steps of EM.

    From the visible values alone: C ← (1 - m) C_training + m EM(C), `steps` times, then the smoother with that C. The
    mixing weight m is chosen with ridge and nugget on validation subjects; 1 would be EM itself, 0 the linear smoother.

    Args:
        mixings: weights to choose from.
        settings: those of `LinearSmoother`.
    """

    steps: ClassVar[int] = 2

    def __init__(self, mixings: Sequence[float] = (0.2, 0.4, 0.6, 0.8), **settings: Any) -> None:
        super().__init__(**settings)
        self.axes.append(Axis("mixing", tuple(mixings), 0.0, 1.0))

    def _adapted(
        self,
        model: KroneckerGaussian,
        centred_BPT: Tensor,
        visible_BPT: Tensor,
        setting: Setting,
        accuracy: Accuracy,
    ) -> KroneckerGaussian:
        group_PP, mixing = model.parcels.covariance, setting["mixing"]
        rough = Accuracy(max(accuracy.tolerance, ROUGH), accuracy.max_iterations)
        for _ in range(self.steps):
            found = posterior(model, centred_BPT, visible_BPT, rough)
            own_BPP = expected_parcels(model, found, visible_BPT)
            model = model.with_parcels((1 - mixing) * group_PP + mixing * own_BPP)
        return model
