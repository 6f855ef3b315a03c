"""Windows with hidden patches, by which the settings of a smoother are chosen.

Shapes: B windows, P parcels, T frames, N patches per parcel.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brainlm_lightning.evaluation.covariance import ScaledRecording
from brainlm_lightning.model.masking import Grid, draw_mask
from brainlm_lightning.model.smoother.group import window_starts

TUNING_RATIOS = (0.2, 0.75)  # shares hidden at random where settings are chosen
ROUGH = 3e-3  # tolerance of the solutions by which settings are chosen: R² is within 0.001 of the exact one


@dataclass(frozen=True)
class Example:
    """The same windows at one share hidden.

    Attributes:
        signal_BPT: scaled values, 0 where they are not visible.
        visible_BPT: neither hidden nor unobserved.
        hidden_BPT: hidden, of observed parcels.
        truth: the hidden values, one after the other, float64.
    """

    signal_BPT: Tensor
    visible_BPT: Tensor
    hidden_BPT: Tensor
    truth: Tensor


def examples(
    recordings: Iterable[ScaledRecording], num_frames: int, patch_frames: int, num_windows: int
) -> list[Example]:
    """An `Example` of each of the `TUNING_RATIOS`.

    Args:
        recordings: of subjects that nothing is learnt from.
        num_frames: T.
        patch_frames: of the masks.
        num_windows: how many windows are taken, spread over the recordings; fewer where there are fewer.

    Raises:
        ValueError: there is no such window, or it is no whole number of patches.
    """
    cut = [
        (torch.as_tensor(values_PT[:, start : start + num_frames]), torch.as_tensor(observed_P))
        for values_PT, observed_P in recordings
        for start in window_starts(values_PT.shape[1], num_frames)
    ]
    if not cut or num_frames % patch_frames:
        raise ValueError(
            f"{len(cut)} validation windows of {num_frames} frames, hidden by patches of {patch_frames}: "
            "settings are chosen on one or more, and a window is a whole number of patches. Give validation "
            "subjects (split.val), longer recordings, or another patch_frames"
        )
    chosen = torch.linspace(0, len(cut) - 1, min(num_windows, len(cut))).round().long().tolist()
    signal_BPT, observed_BP = (torch.stack(parts) for parts in zip(*(cut[i] for i in chosen), strict=True))
    grid = Grid(observed_BP, num_frames // patch_frames)
    return [_hidden(signal_BPT, grid, ratio) for ratio in TUNING_RATIOS]


def _hidden(signal_BPT: Tensor, grid: Grid, ratio: float) -> Example:
    hidden_BPN = draw_mask("random", torch.arange(len(signal_BPT)), ratio, grid)
    hidden_BPT = hidden_BPN.repeat_interleave(signal_BPT.shape[2] // hidden_BPN.shape[2], dim=2)
    visible_BPT = ~hidden_BPT & grid.observed_BP[:, :, None]
    truth = signal_BPT[hidden_BPT].double()
    return Example(signal_BPT.where(visible_BPT, 0), visible_BPT, hidden_BPT, truth)


def unexplained(expected: Callable[[Tensor, Tensor], Tensor], shown: Sequence[Example]) -> float:
    """1 - R² of hidden values, averaged over the examples.

    Args:
        expected: E[window | visible] of a signal and of what is visible of it, (B, P, T).
        shown: the examples.
    """
    shares = []
    for example in shown:
        error = expected(example.signal_BPT, example.visible_BPT)[example.hidden_BPT] - example.truth
        shares.append(float(error.square().sum() / (example.truth - example.truth.mean()).square().sum()))
    return sum(shares) / len(shares)
