"""Linear smoothers: what a Gaussian over all parcels and frames of a window expects where values are hidden.

They are the strongest linear opponents of a masked model: a band-passed signal can be interpolated in time, parcels are
correlated, and both together are what a linear method can know. See `kronecker` for the mathematics and the cost.

Shapes: B batch (windows), P parcels, T frames, N patches per parcel.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from brainlm_lightning.evaluation.covariance import lagged_moments
from brainlm_lightning.tasks.compare import LearningData
from brainlm_lightning.tasks.reconstruction.gradients import Accuracy
from brainlm_lightning.tasks.reconstruction.kronecker import (
    KroneckerGaussian,
    Spectrum,
    expected_parcels,
    posterior,
    stationary,
    time_moment,
)
from brainlm_lightning.tasks.reconstruction.methods import MaskedWindows
from brainlm_lightning.tasks.reconstruction.tuned import ROUGH, TunedSmoother
from brainlm_lightning.tasks.tuning import Axis, Setting

TIMES = {"window": (0.0,), "stationary": (1.0,), None: (0.0, 1.0)}  # values of the setting ``stationary``


class LinearSmoother(TunedSmoother):
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
        axes = [
            Axis("nugget", tuple(nuggets)),
            Axis("ridge", tuple(ridges)),
            Axis("stationary", TIMES[time], 0.0, 1.0),
        ]
        super().__init__(axes, patch_frames, validation_windows, accuracy)
        self.iterations = 0  # of the last windows

    def learn(self, learning: LearningData) -> None:
        """See `TunedSmoother.learn`."""
        name, num_frames = type(self).__name__, learning.data.window_frames
        self._mean_P, covariance_PP = lagged_moments(learning.recordings("train", name))
        self._parcels = Spectrum.of(self._between(covariance_PP))
        spread_P = covariance_PP.diagonal().sqrt()
        moment_TT = time_moment(learning.recordings("train", name), self._mean_P, spread_P, num_frames)
        self._times = [Spectrum.of(moment_TT), Spectrum.of(stationary(moment_TT))]

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

    def expected(self, windows: MaskedWindows, setting: Setting, accuracy: Accuracy) -> Tensor:
        """See `TunedSmoother.expected`."""
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
