"""Does the model read its CLS token at all? What exchanging it between two recordings does to a reconstruction.

The loss trains CLS through the reconstruction of hidden patches alone. If these stay as they are when CLS is another
recording's, nothing trains what is in it, and a distance between CLS tokens says nothing that was learnt. What the
exchange of all other tokens does stands beside it, as the measure.

Shapes: B batch of pairs, P parcels, T frames, N patches per parcel.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from brainlm_lightning.evaluation.resampling import subject_mean
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.masking import Grid, draw_mask
from brainlm_lightning.tasks.contrasts.states import same_keys

HIDDEN_SHARE = 0.75  # at random, as in the paper's training
EXCHANGES = ("cls_swap", "token_swap")


@dataclass(frozen=True)
class Exchanged:
    """Mean squared change of the hidden values' reconstruction, as a share of the hidden signal's variance.

    Attributes:
        cls_swap_B: the first window's tokens with the second one's CLS.
        token_swap_B: the second window's tokens with the first one's CLS.
    """

    cls_swap_B: Tensor
    token_swap_B: Tensor


@torch.no_grad()
def exchange(model: MaskedAutoencoder, first_BPT: Tensor, second_BPT: Tensor, observed_BP: Tensor) -> Exchanged:
    """Reconstructs hidden patches of the first window, of which a part is exchanged for the second's.

    Args:
        model: in evaluation mode.
        first_BPT: scaled windows.
        second_BPT: scaled windows of other recordings, hidden at the same places.
        observed_BP: True where both windows of a pair have data.
    """
    grid = Grid(observed_BP, model.num_patches)
    hidden_BPN = draw_mask("random", same_keys(observed_BP), HIDDEN_SHARE, grid)
    seen_BP1 = observed_BP[:, :, None]
    first, second = (model.encode(x_BPT * seen_BP1, hidden_BPN, observed_BP) for x_BPT in (first_BPT, second_BPT))
    own_BPT = model.decode(first, observed_BP)
    hidden_BPT = hidden_BPN.repeat_interleave(model.config.patch_frames, dim=2)
    count_B = hidden_BPT.sum((1, 2))
    mean_B = first_BPT.where(hidden_BPT, 0).sum((1, 2)) / count_B
    variance_B = (first_BPT - mean_B[:, None, None]).where(hidden_BPT, 0).square().sum((1, 2))

    parts = (replace(first, cls_BD=second.cls_BD), replace(second, cls_BD=first.cls_BD))
    changes = [(model.decode(part, observed_BP) - own_BPT).float().where(hidden_BPT, 0) for part in parts]
    return Exchanged(*(change_BPT.square().sum((1, 2)) / variance_B for change_BPT in changes))


def exchange_numbers(
    found: Mapping[str, np.ndarray], method: str, chosen: np.ndarray, subjects: np.ndarray
) -> dict[str, float]:
    """Means over pairs with intervals from resampling subjects, `cls_swap_mse` and `token_swap_mse`.

    Args:
        found: arrays of all pairs.
        method: name of the model; {} where it has no CLS to exchange.
        chosen: pairs to average.
        subjects: of all pairs.
    """
    numbers: dict[str, float] = {}
    for name in EXCHANGES:
        values = found.get(f"{method}/{name}_B")
        if values is not None:
            mean = subject_mean(values[chosen], subjects[chosen])
            numbers |= {f"{name}_mse{end}": value for end, value in mean.items()}
    return numbers
