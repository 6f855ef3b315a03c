"""Linear smoothers: what a Gaussian over all parcels and frames of a window expects where values are hidden.

They are the strongest linear opponents of a masked model: a band-passed signal can be interpolated in time, parcels are
correlated, and both together are what a linear method can know. See `brainlm_lightning.model.smoother.kronecker` for
the mathematics and the cost.

Shapes: B batch (windows), P parcels, T frames.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from brainlm_lightning.evaluation.tuning import Axis, Setting
from brainlm_lightning.model.smoother.adaptive import adapted
from brainlm_lightning.model.smoother.gradients import Accuracy
from brainlm_lightning.model.smoother.group import NUGGETS, RIDGES, GroupGaussian, GroupMoments, linear_axes
from brainlm_lightning.model.smoother.kronecker import KroneckerGaussian, posterior
from brainlm_lightning.tasks.compare import LearningData
from brainlm_lightning.tasks.reconstruction.tuned import TunedSmoother

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
        ridges: Sequence[float] = RIDGES,
        nuggets: Sequence[float] = NUGGETS,
        patch_frames: int = 20,
        validation_windows: int = 4,
        accuracy: Accuracy | None = None,
    ) -> None:
        if time not in TIMES:
            raise ValueError(f"time is {time!r}; expected 'window', 'stationary' or None")
        super().__init__(linear_axes(nuggets, ridges, TIMES[time]), patch_frames, validation_windows, accuracy)
        self.iterations = 0  # of the last windows

    def learn(self, learning: LearningData) -> None:
        """See `TunedSmoother.learn`."""
        name = type(self).__name__
        moments = GroupMoments.of(lambda: learning.recordings("train", name), learning.data.window_frames)
        self.group = GroupGaussian(self._between(moments))

    def _between(self, moments: GroupMoments) -> GroupMoments:
        """What the smoother knows of the group."""
        return moments

    def expected(self, signal_BPT: Tensor, visible_BPT: Tensor, setting: Setting, accuracy: Accuracy) -> Tensor:
        """See `TunedSmoother.expected`."""
        mean_P1 = self.group.mean_P.to(signal_BPT.device)[:, None]
        model = self.group.model(setting, signal_BPT.device)
        centred_BPT = signal_BPT.double() - mean_P1
        model, near_BPT = self._adapted(model, centred_BPT, visible_BPT, setting, accuracy)
        found = posterior(model, centred_BPT, visible_BPT, accuracy, near_BPT)
        self.iterations = found.iterations
        return mean_P1 + found.values_BPT

    def _adapted(
        self,
        model: KroneckerGaussian,
        centred_BPT: Tensor,
        visible_BPT: Tensor,
        setting: Setting,
        accuracy: Accuracy,
    ) -> tuple[KroneckerGaussian, Tensor | None]:
        """The Gaussian that these windows are smoothed with, and what they may be near, if that is known."""
        return model, None


class TimeOnlySmoother(LinearSmoother):
    """The same without other parcels: each parcel's own visible frames alone, what interpolation can reach.

    Args:
        settings: those of `LinearSmoother`. There is no ridge to choose: nothing stands between parcels.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"ridges": (0.0,), **settings})

    def _between(self, moments: GroupMoments) -> GroupMoments:
        return replace(moments, covariance_PP=moments.covariance_PP.diagonal().diag())


class AdaptiveSmoother(LinearSmoother):
    """A linear smoother whose covariance of parcels moves towards each window's own; see `adapted`.

    The mixing weight is chosen with ridge and nugget on validation subjects.

    Args:
        mixings: weights to choose from.
        settings: those of `LinearSmoother`.
    """

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
    ) -> tuple[KroneckerGaussian, Tensor | None]:
        return adapted(model, centred_BPT, visible_BPT, setting["mixing"], accuracy)
