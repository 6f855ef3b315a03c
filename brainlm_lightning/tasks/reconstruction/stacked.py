"""A network and a smoother together: does the one know what the other does not?

Shapes: B batch (windows), P parcels, T frames.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from brainlm_lightning.model.smoother.examples import Example, examples
from brainlm_lightning.tasks.compare import LearningData, Numbers
from brainlm_lightning.tasks.reconstruction.methods import MaskedWindows, NetworkReconstruction, ReconstructionMethod
from brainlm_lightning.tasks.reconstruction.tuned import TunedSmoother

WINDOWS = 16  # of validation subjects, by which the weight is chosen


class Stacked(ReconstructionMethod):
    """The weighted mean of a network's and a smoother's prediction; the weight is chosen on validation subjects.

    Stacking (Wolpert 1992). Where it is better than both, each knows something that the other does not.

    Args:
        network: trained.
        smoother: fitted before this is.
    """

    mixed_precision = True  # the network; the smoother stays exact

    def __init__(self, network: NetworkReconstruction, smoother: TunedSmoother) -> None:
        self.network, self.smoother = network, smoother

    def fit(self, learning: LearningData) -> Numbers:
        """Chooses the weight of the network, 0 to 1, that has the least squared error on validation windows."""
        patch_frames = self.smoother.patch_frames
        shown = examples(learning.recordings("val"), learning.data.window_frames, patch_frames, WINDOWS)
        device = next(self.network.net.parameters()).device
        apart, missing = torch.zeros(2, dtype=torch.float64)
        for example in shown:
            windows = _windows(example, patch_frames, device)
            own, other = (part[windows.hidden_BPT].double() for part in self._both(windows))
            apart += (own - other).square().sum().cpu()
            missing += ((example.truth.to(device) - other) * (own - other)).sum().cpu()
        self.weight = float((missing / apart).clamp(0, 1)) if apart > 0 else 0.0
        return {"weight": self.weight}

    def reconstruct(self, windows: MaskedWindows) -> Tensor:
        """See `ReconstructionMethod.reconstruct`."""
        own_BPT, other_BPT = self._both(windows)
        return self.weight * own_BPT.float() + (1 - self.weight) * other_BPT.float()

    def _both(self, windows: MaskedWindows) -> tuple[Tensor, Tensor]:
        """The network's prediction and the smoother's."""
        with torch.no_grad():
            own_BPT = self.network.reconstruct(windows)
        with self.smoother.precision(windows.signal_BPT.device):
            return own_BPT, self.smoother.reconstruct(windows)


def stacked(methods: Mapping[str, ReconstructionMethod], name: str, smoother: str) -> dict[str, ReconstructionMethod]:
    """The mean of a network and a smoother, `<network>_and_<smoother>`.

    Args:
        methods: of the comparison.
        name: of the network.
        smoother: name of the smoother.

    Raises:
        ValueError: no such smoother is among the methods.
    """
    network, other = methods[name], methods.get(smoother)
    smoothers = [key for key, method in methods.items() if isinstance(method, TunedSmoother)]
    if not isinstance(network, NetworkReconstruction) or not isinstance(other, TunedSmoother):
        raise ValueError(f"stack_with is {smoother!r}; expected one of the smoothers of this test: {smoothers}")
    return {f"{name}_and_{smoother}": Stacked(network, other)}


def _windows(example: Example, patch_frames: int, device: torch.device) -> MaskedWindows:
    """An example as every method is given windows."""
    hidden_BPN = example.hidden_BPT[:, :, ::patch_frames]
    observed_BP = (example.visible_BPT | example.hidden_BPT).any(2)
    signal_BPT, number = example.signal_BPT.float().to(device), len(hidden_BPN)
    first_frame_B = torch.zeros(number, dtype=torch.int64, device=device)
    return MaskedWindows(signal_BPT, hidden_BPN.to(device), observed_BP.to(device), [""] * number, first_frame_B)
