"""What all smoothers share: settings chosen on validation windows, and the filling in of what is hidden.

Shapes: B batch (windows), P parcels, T frames.
"""

import logging
import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from brainlm_lightning.evaluation.tuning import Axis, Setting, choose
from brainlm_lightning.model.smoother.examples import ROUGH, Example, examples, unexplained
from brainlm_lightning.model.smoother.gradients import Accuracy
from brainlm_lightning.tasks.compare import LearningData, Numbers
from brainlm_lightning.tasks.reconstruction.methods import MaskedWindows, ReconstructionMethod

LOGGER = logging.getLogger(__name__)


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
    rough: ClassVar[float] = ROUGH  # tolerance of the solutions by which it is chosen

    def __init__(
        self, axes: Sequence[Axis], patch_frames: int, validation_windows: int, accuracy: Accuracy | None
    ) -> None:
        self.axes = list(axes)
        self.patch_frames, self.validation_windows = patch_frames, validation_windows
        self.accuracy = accuracy or Accuracy()

    def learn(self, learning: LearningData) -> None:
        """Learns from training subjects all that needs no setting."""
        raise NotImplementedError

    def expected(self, signal_BPT: Tensor, visible_BPT: Tensor, setting: Setting, accuracy: Accuracy) -> Tensor:
        """E[window | visible], (B, P, T) float64.

        Args:
            signal_BPT: scaled; what is not visible may be anything.
            visible_BPT: bool.
            setting: a value of each axis.
            accuracy: of the conjugate gradients.
        """
        raise NotImplementedError

    def fit(self, learning: LearningData) -> Numbers:
        """Learns from training subjects; chooses the settings on validation subjects.

        Returns:
            The settings, ``at_edge`` (1 where one is at the end of a grid that was extended as far as it may be), and
            ``r2_val``, on validation windows.

        Raises:
            ArithmeticError: no setting can be solved for.
        """
        self.learn(learning)
        num_frames = learning.data.window_frames
        shown = examples(learning.recordings("val"), num_frames, self.patch_frames, self.validation_windows)
        chosen = choose(lambda setting: self._error(setting, shown), self.axes)
        if chosen.error == math.inf:
            raise ArithmeticError(
                f"{type(self).__name__}: none of its settings can be solved for in {self.accuracy.max_iterations} "
                "steps; give other nuggets, or an accuracy with more max_iterations"
            )
        self.setting = chosen.setting
        return {**chosen.numbers(), "r2_val": 1 - chosen.error}

    def reconstruct(self, windows: MaskedWindows) -> Tensor:
        """See `ReconstructionMethod.reconstruct`.

        Raises:
            ArithmeticError: the conjugate gradients did not converge.
        """
        filled_BPT = self.expected(windows.signal_BPT, windows.visible_BPT, self.setting, self.accuracy)
        return windows.signal_BPT.where(windows.visible_BPT, filled_BPT.to(windows.signal_BPT.dtype))

    def _error(self, setting: Setting, shown: Sequence[Example]) -> float:
        """See `unexplained`; infinite where conjugate gradients cannot solve for a setting."""
        rough = Accuracy(max(self.accuracy.tolerance, self.rough), self.accuracy.max_iterations)
        try:
            return unexplained(lambda signal_BPT, seen_BPT: self.expected(signal_BPT, seen_BPT, setting, rough), shown)
        except ArithmeticError as failure:
            LOGGER.warning("%s is not tried with %s: %s", type(self).__name__, setting, failure)
            return math.inf
