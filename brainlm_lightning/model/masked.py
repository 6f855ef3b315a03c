"""What every model that fills in hidden patches takes and gives, and how it is scored in training.

Shapes: B batch, P parcels, T frames, N patches per parcel, D width. In a mask True = hidden.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Reconstruction:
    """What a reconstructing model gives back.

    Attributes:
        prediction_BPT: the whole window in the scale of the input.
        cls_BD: the encoder's summary of the visible tokens.
        regularisation: what training adds to the reconstruction loss, a scalar; 0 for most models.
    """

    prediction_BPT: Tensor
    cls_BD: Tensor
    regularisation: Tensor | float = 0.0


@dataclass(frozen=True)
class Embedding:
    """What a model makes of a window with nothing hidden.

    Attributes:
        cls_BD: of the window.
        parcel_BPD: of each parcel; NaN for parcels that the recording does not observe.
    """

    cls_BD: Tensor
    parcel_BPD: Tensor


class MaskedModel(nn.Module):
    """A model that `PretrainTask` can train.

    Attributes:
        name: of its rows in tables.
        config: a frozen dataclass of plain values: with the geometry all that is needed to build it again.
        num_patches: N.
    """

    name: str
    config: Any
    num_patches: int

    def forward(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> Reconstruction:
        """Reconstructs a window from its visible patches; the values of hidden patches are never read.

        Args:
            signal_BPT: scaled signal.
            hidden_BPN: True = hidden.
            observed_BP: False where a recording has no data of a parcel.
        """
        raise NotImplementedError

    def embed(self, signal_BPT: Tensor, observed_BP: Tensor) -> Embedding:
        """Represents a window and each of its parcels, nothing hidden.

        Args:
            signal_BPT: scaled signal.
            observed_BP: False where a recording has no data of a parcel.
        """
        raise NotImplementedError

    def check_signal(self, signal_BPT: Tensor, num_parcels: int, window_frames: int) -> None:
        """Compares a signal with what the model was built for.

        Raises:
            ValueError: its parcels or frames are of another number.
        """
        if signal_BPT.shape[1:] != (num_parcels, window_frames):
            raise ValueError(
                f"the signal is (batch, parcels, frames) = {tuple(signal_BPT.shape)}, the model was built for "
                f"{num_parcels} parcels and {window_frames} frames"
            )


def reconstruction_loss(prediction_BPT: Tensor, signal_BPT: Tensor, scored_BPN: Tensor) -> Tensor:
    """Mean over windows of each window's mean squared error over the scored patches (paper, section 3.3).

    A mean of means, so that ranks and micro-batches of equal size average to the loss of the whole batch. A window
    with nothing to score counts as zero.

    Args:
        prediction_BPT: prediction.
        signal_BPT: truth.
        scored_BPN: True for patches that count.
    """
    error_BPN = (prediction_BPT.float() - signal_BPT).square().unflatten(2, (scored_BPN.shape[2], -1)).mean(dim=3)
    total_B = (error_BPN * scored_BPN).sum(dim=(1, 2))
    return (total_B / scored_BPN.sum(dim=(1, 2)).clamp(min=1)).mean()
