"""What every method that fills in hidden values is: the model, the baselines and the optimum answer to one call.

Shapes: B batch (windows), P parcels, T frames.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Reconstructor(Protocol):
    """Predicts hidden values from visible ones.

    The contract, tested by poisoning: a prediction depends on no hidden value and on no unobserved parcel, which may
    hold anything, NaN too.
    """

    def predict(
        self,
        signal_BPT: Tensor,
        hidden_BPT: Tensor,
        observed_BP: Tensor,
        recording_ids: Sequence[str],
        first_frame_B: Tensor,
    ) -> Tensor:
        """Returns the windows (B, P, T), finite everywhere, in the signal's dtype, with what is not visible predicted.

        Only hidden values are scored; the baselines hand visible ones back as they are.

        Args:
            signal_BPT: scaled windows.
            hidden_BPT: bool, True = hidden.
            observed_BP: bool, False = the recording has no such parcel.
            recording_ids: B names, for methods that know something of a recording.
            first_frame_B: where in its recording each window starts, in frames.
        """
        ...


def visible_BPT(hidden_BPT: Tensor, observed_BP: Tensor) -> Tensor:
    """Returns bool (B, P, T): True where a method may look."""
    return ~hidden_BPT & observed_BP[:, :, None]
