"""An adaptive smoother as a part of a network: what a Gaussian expects of a window, before anything is learnt.

Shapes: B windows of a batch, P parcels, T frames.
"""

import logging

import torch
from torch import Tensor, nn

from brainlm_lightning.evaluation.tuning import Axis, Setting, choose
from brainlm_lightning.model.masked import Moments
from brainlm_lightning.model.smoother.adaptive import adapted
from brainlm_lightning.model.smoother.examples import ROUGH, examples, unexplained
from brainlm_lightning.model.smoother.gradients import Accuracy
from brainlm_lightning.model.smoother.group import GroupGaussian, GroupMoments, linear_axes
from brainlm_lightning.model.smoother.kronecker import KroneckerGaussian, Spectrum, posterior

LOGGER = logging.getLogger(__name__)
WINDOWS = 4  # by which settings are chosen
MIXING = Axis("mixing", (0.2, 0.4, 0.6, 0.8), 0.0, 1.0)


class SmootherPrior(nn.Module):
    """E[window | visible] of a Gaussian, parcels ⊗ time, that moves towards the window; see `adapted`.

    Nothing of it is trained: its buffers, float64, are set by `learn` and are part of a checkpoint.

    Args:
        num_parcels: P.
        window_frames: T.

    Attributes:
        accuracy: of the conjugate gradients.
    """

    def __init__(self, num_parcels: int, window_frames: int) -> None:
        super().__init__()
        self.accuracy = Accuracy()
        self.mean_P: Tensor
        self.parcels_PP: Tensor
        self.time_TT: Tensor
        self.noise: Tensor
        self.mixing: Tensor
        self.register_buffer("mean_P", torch.zeros(num_parcels, dtype=torch.float64))
        self.register_buffer("parcels_PP", torch.eye(num_parcels, dtype=torch.float64))
        self.register_buffer("time_TT", torch.eye(window_frames, dtype=torch.float64))
        self.register_buffer("noise", torch.ones((), dtype=torch.float64))
        self.register_buffer("mixing", torch.zeros((), dtype=torch.float64))

    def learn(self, moments: Moments, patch_frames: int) -> None:
        """Chooses settings on some of the training subjects by moments of the others; then takes moments of all.

        Args:
            moments: of the training subjects' scaled signal.
            patch_frames: of the masks that settings are chosen with.

        Raises:
            ValueError: too few training subjects, or none with a whole window.
        """
        num_frames = len(self.time_TT)
        shown = examples(moments.recordings("choose"), num_frames, patch_frames, WINDOWS)
        learnt = GroupGaussian(GroupMoments.of(lambda: moments.recordings("learn"), num_frames))

        def error(setting: Setting) -> float:
            model = learnt.model(setting, torch.device("cpu"))
            mixing = setting.get("mixing", 0.0)
            return unexplained(lambda *seen: smoothed(model, learnt.mean_P, mixing, Accuracy(ROUGH), *seen), shown)

        linear = choose(error, linear_axes()).setting
        mixed = choose(lambda mixing: error(linear | mixing), [MIXING])
        LOGGER.info("the prior: %s, R² %.3f of training subjects left out", linear | mixed.setting, 1 - mixed.error)
        everybody = GroupMoments.of(moments.recordings, num_frames)
        model = GroupGaussian(everybody).model(linear, torch.device("cpu"))
        self.mean_P.copy_(everybody.mean_P)
        self.parcels_PP.copy_(model.parcels.covariance)
        self.time_TT.copy_(model.time.covariance)
        self.noise.fill_(model.noise)
        self.mixing.fill_(mixed.setting["mixing"])

    def forward(self, signal_BPT: Tensor, visible_BPT: Tensor) -> Tensor:
        """E[window | visible], (B, P, T) float64, without gradient.

        Args:
            signal_BPT: scaled; what is not visible may be anything.
            visible_BPT: bool.
        """
        with torch.no_grad(), torch.autocast(signal_BPT.device.type, enabled=False):
            parcels, time = Spectrum.of(self.parcels_PP), Spectrum.of(self.time_TT)
            model = KroneckerGaussian.of(parcels, time, float(self.noise))
            return smoothed(model, self.mean_P, float(self.mixing), self.accuracy, signal_BPT, visible_BPT)


def smoothed(
    model: KroneckerGaussian,
    mean_P: Tensor,
    mixing: float,
    accuracy: Accuracy,
    signal_BPT: Tensor,
    visible_BPT: Tensor,
) -> Tensor:
    """E[window | visible] after the model has moved towards the windows, (B, P, T) float64."""
    centred_BPT = signal_BPT.double() - mean_P[:, None]
    near_BPT = None
    if mixing > 0:
        model, near_BPT = adapted(model, centred_BPT, visible_BPT, mixing, accuracy)
    return mean_P[:, None] + posterior(model, centred_BPT, visible_BPT, accuracy, near_BPT).values_BPT
