"""What fills in hidden values: networks, and the optimum of a simulated cohort. Their opponents are in `baselines`.

Shapes: B windows of a batch, P parcels, T frames, N patches per parcel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.simulation.optimum import Optimum
from brainlm_lightning.tasks.compare import LearningData, Method, Numbers


@dataclass(frozen=True)
class MaskedWindows:
    """Windows with hidden values, as every method is given them.

    Attributes:
        signal_BPT: scaled; 0 where hidden or unobserved, so that no method can look at what it is asked for.
        hidden_BPN: bool by patch, True = hidden.
        observed_BP: bool, False = the recording has no such parcel.
        recording_ids: B names, for methods that know something of a recording.
        first_frame_B: where in its recording each window starts, in frames.
    """

    signal_BPT: Tensor
    hidden_BPN: Tensor
    observed_BP: Tensor
    recording_ids: Sequence[str]
    first_frame_B: Tensor

    @classmethod
    def of(
        cls,
        signal_BPT: Tensor,
        hidden_BPN: Tensor,
        observed_BP: Tensor,
        recording_ids: Sequence[str],
        first_frame_B: Tensor,
    ) -> "MaskedWindows":
        """Hides values of whole windows; those of hidden and unobserved places may be anything, NaN too."""
        visible_BPT = by_value(~hidden_BPN & observed_BP[:, :, None], signal_BPT.shape[2])
        return cls(signal_BPT.where(visible_BPT, 0), hidden_BPN, observed_BP, recording_ids, first_frame_B)

    @property
    def hidden_BPT(self) -> Tensor:
        """True = hidden, by value."""
        return by_value(self.hidden_BPN, self.signal_BPT.shape[2])

    @property
    def visible_BPT(self) -> Tensor:
        """True where a method may look: neither hidden nor unobserved."""
        return ~self.hidden_BPT & self.observed_BP[:, :, None]


def by_value(mask_BPN: Tensor, num_frames: int) -> Tensor:
    """A mask of patches as a mask of values, (B, P, T)."""
    return mask_BPN.repeat_interleave(num_frames // mask_BPN.shape[2], dim=2)


class ReconstructionMethod(Method):
    """Predicts hidden values from visible ones."""

    def fit(self, learning: LearningData) -> Numbers:
        """See `Method.fit`."""
        return {}

    def reconstruct(self, windows: MaskedWindows) -> Tensor:
        """Returns the windows with a prediction at every hidden place, (B, P, T), finite everywhere.

        Only hidden values are scored. A prediction depends on visible values alone.
        """
        raise NotImplementedError


class NetworkReconstruction(ReconstructionMethod):
    """A masked model, as it is."""

    mixed_precision = True

    def __init__(self, net: MaskedModel) -> None:
        self.net = net

    def reconstruct(self, windows: MaskedWindows) -> Tensor:
        """See `ReconstructionMethod.reconstruct`."""
        prediction: Tensor = self.net(windows.signal_BPT, windows.hidden_BPN, windows.observed_BP).prediction_BPT
        return prediction


class OptimalReconstruction(ReconstructionMethod):
    """The Kalman smoother that knows how a simulated recording was made."""

    def __init__(self, optimum: Optimum) -> None:
        self.optimum = optimum

    def reconstruct(self, windows: MaskedWindows) -> Tensor:
        """See `ReconstructionMethod.reconstruct`."""
        return self.optimum.predict(
            windows.signal_BPT, windows.visible_BPT, windows.recording_ids, windows.first_frame_B
        )
