"""What a completed window keeps of connectivity and spectrum, which R² of its hidden values does not tell.

A window is completed by putting predictions where values were hidden. A prediction that is smooth or close to the mean
can have a high R² and still change how strongly parcels are connected.

Shapes: B windows of a batch, P parcels, T frames, R recordings, E edges (pairs of observed parcels), K = 6 sums.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainlm_lightning.evaluation.metrics import HiddenSums, r2
from brainlm_lightning.tasks.reconstruction.score import named, with_interval

LAG = 1  # frames between the parcels of a pair in lagged connectivity
KEPT = ("connectivity", "lagged_connectivity", "spectrum")


class CompletedSums:
    """Six sums over what is kept of every recording's windows; see `HiddenSums`.

    Args:
        num_recordings: R.
        device: where the windows are.
    """

    def __init__(self, num_recordings: int, device: torch.device) -> None:
        self._sums = {name: HiddenSums(num_recordings, 1).to(device) for name in KEPT}

    def update(self, completed_BPT: Tensor, signal_BPT: Tensor, observed_BP: Tensor, index_B: Tensor) -> None:
        """Adds a batch.

        Args:
            completed_BPT: truth where it was visible, a prediction where it was hidden.
            signal_BPT: the truth.
            observed_BP: parcels that count.
            index_B: the recording of each window.
        """
        for completed_PT, signal_PT, observed_P, index in zip(
            completed_BPT.double(), signal_BPT.double(), observed_BP, index_B, strict=True
        ):
            found, true = kept(completed_PT[observed_P]), kept(signal_PT[observed_P])
            for name, sums in self._sums.items():
                # A parcel completed by a constant is connected to nothing: 0, not left out.
                y_hat, y = found[name].nan_to_num(nan=0)[None, None], true[name][None, None]
                sums.update(y_hat, y, y.isfinite(), index[None])

    def scores(self, subject_R: Sequence[str] | NDArray[np.str_]) -> dict[str, float]:
        """`r2_connectivity`, … with 95 % intervals over subjects: R² over all edges, or frequencies, of all windows."""
        numbers: dict[str, float] = {}
        for name, sums in self._sums.items():
            sums_RK = sums.compute().cpu().numpy()[:, 0]
            numbers |= named(f"r2_{name}", with_interval(r2, sums_RK, subject_R))
        return numbers


def kept(signal_PT: Tensor) -> dict[str, Tensor]:
    """What `KEPT` names of one window, of parcels that are all observed.

    Returns:
        ``connectivity``: correlation of each pair of parcels, (E,). ``lagged_connectivity``: of one parcel with another
        `LAG` frames later, all ordered pairs, (2 E,). Both are NaN where a parcel is constant. ``spectrum``: log10 of
        the power at each frequency but 0, the mean over parcels, (T // 2,).
    """
    num_parcels, num_frames = signal_PT.shape
    centred_PT = signal_PT - signal_PT.mean(1, keepdim=True)
    unit_PT = centred_PT / centred_PT.norm(dim=1, keepdim=True)
    first, second = torch.triu_indices(num_parcels, num_parcels, 1, device=signal_PT.device)
    lagged_PP = unit_PT[:, :-LAG] @ unit_PT[:, LAG:].T
    power_PF = torch.fft.rfft(centred_PT)[:, 1:].abs().square() / num_frames
    return {
        "connectivity": (unit_PT @ unit_PT.T)[first, second],
        "lagged_connectivity": torch.cat([lagged_PP[first, second], lagged_PP[second, first]]),
        "spectrum": power_PF.mean(0).log10(),
    }
