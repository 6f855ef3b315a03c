"""What all smoothers share: settings chosen on validation windows, and the filling in of what is hidden.

Shapes: B batch (windows), P parcels, T frames, N patches per parcel.
"""

import logging
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from brainlm_lightning.evaluation.covariance import ScaledRecording
from brainlm_lightning.model.masking import Grid, draw_mask
from brainlm_lightning.tasks.compare import LearningData, Numbers
from brainlm_lightning.tasks.reconstruction.gradients import Accuracy
from brainlm_lightning.tasks.reconstruction.kronecker import window_starts
from brainlm_lightning.tasks.reconstruction.methods import MaskedWindows, ReconstructionMethod
from brainlm_lightning.tasks.tuning import Axis, Setting, choose

LOGGER = logging.getLogger(__name__)
TUNING_RATIOS = (0.2, 0.75)  # shares hidden at random where settings are chosen
# Tolerance where settings are compared, and for steps of EM. On restpain with a nugget of 0.001 R² at 75 % hidden is
# 0.180 with 1e-2, 0.619 with 1e-3, 0.701 with 1e-4 and 0.703 from 1e-5: a looser one would speak against small nuggets.
ROUGH = 1e-4


class TunedSmoother(ReconstructionMethod):
    """What a Gaussian expects where values are hidden; its settings are chosen on validation subjects.

    A subclass learns from training subjects (`learn`) and says what it expects under a setting (`expected`). Settings
    are those with the highest R², averaged over `TUNING_RATIOS`, on windows of validation subjects.

    Args:
        axes: the settings to choose from.
        patch_frames: of the masks on validation windows.
        validation_windows: how many windows settings are chosen by, spread over the validation recordings.
        accuracy: of the conjugate gradients; None = the defaults of `Accuracy`.
    """

    setting: Setting  # the chosen one, after `fit`

    def __init__(
        self, axes: Sequence[Axis], patch_frames: int, validation_windows: int, accuracy: Accuracy | None
    ) -> None:
        self.axes = list(axes)
        self.patch_frames, self.validation_windows = patch_frames, validation_windows
        self.accuracy = accuracy or Accuracy()

    def learn(self, learning: LearningData) -> None:
        """Learns from training subjects all that needs no setting."""
        raise NotImplementedError

    def expected(self, windows: MaskedWindows, setting: Setting, accuracy: Accuracy) -> Tensor:
        """E[window | visible], (B, P, T) float64."""
        raise NotImplementedError

    def fit(self, learning: LearningData) -> Numbers:
        """Learns from training subjects; chooses the settings on validation subjects.

        Returns:
            The settings, ``at_edge`` (1 where one is at the end of a grid that was extended as far as it may be), and
            ``r2_val``, on validation windows.
        """
        self.learn(learning)
        examples = self._examples(learning.recordings("val"), learning.data.window_frames)
        chosen = choose(lambda setting: self._error(setting, examples), self.axes)
        self.setting = chosen.setting
        return {**chosen.numbers(), "r2_val": 1 - chosen.error}

    def reconstruct(self, windows: MaskedWindows) -> Tensor:
        """See `ReconstructionMethod.reconstruct`.

        Raises:
            ArithmeticError: the conjugate gradients did not converge.
        """
        filled_BPT = self.expected(windows, self.setting, self.accuracy)
        return windows.signal_BPT.where(windows.visible_BPT, filled_BPT.to(windows.signal_BPT.dtype))

    def _error(self, setting: Setting, examples: Sequence[tuple[Tensor, MaskedWindows]]) -> float:
        """1 - R², averaged over the shares hidden; infinite where conjugate gradients cannot solve for a setting."""
        rough = Accuracy(max(self.accuracy.tolerance, ROUGH), self.accuracy.max_iterations)
        shares = []
        for signal_BPT, windows in examples:
            hidden_BPT = windows.hidden_BPT
            truth = signal_BPT[hidden_BPT].double()
            try:
                error = self.expected(windows, setting, rough)[hidden_BPT] - truth
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
