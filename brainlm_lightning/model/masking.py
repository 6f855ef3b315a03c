"""Which tokens are hidden: a pure function of one integer key per window, identical on every device.

Shapes: B batch, P parcels, N patches per parcel, L tokens (parcel-major, L = P·N). In a mask True = hidden.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MaskingName = Literal["random", "future", "parcels", "networks"]

# The constants of SplitMix64 (Steele, Lea & Flood 2014) as signed 64-bit integers: torch has no unsigned arithmetic.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MULTIPLIER_2 = 0x94D049BB133111EB - (1 << 64)

_SHARE_STREAM = 0x5348415245  # tells the numbers of `draw_share` from those of masks


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch's is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def counter_noise(key_B: Tensor, count: int) -> Tensor:
    """Pseudo-random 63-bit integers, one counter-based stream per key (SplitMix64).

    Integers rather than floats, so that CPU and GPU rank them identically.

    Args:
        key_B: int64 key of each window.
        count: numbers per key.

    Returns:
        int64 (B, count), each in [0, 2^63).
    """
    steps = torch.arange(1, count + 1, device=key_B.device, dtype=torch.int64)
    x = key_B[:, None] + steps * _GAMMA
    x = (x ^ _shift_right(x, 30)) * _MULTIPLIER_1
    x = (x ^ _shift_right(x, 27)) * _MULTIPLIER_2
    return _shift_right(x ^ _shift_right(x, 31), 1)


def _lowest(noise: Tensor, eligible: Tensor, ratio: float) -> Tensor:
    """True for the ``round(ratio · eligible)`` eligible columns with the lowest noise in each row."""
    noise = noise.masked_fill(~eligible, torch.iinfo(torch.int64).max)
    rank = noise.argsort(dim=1, stable=True).argsort(dim=1)
    count_B = (eligible.sum(dim=1).double() * ratio).round().long()  # in float32 some halves round the other way
    return rank < count_B[:, None]


@dataclass(frozen=True)
class Grid:
    """The token grid of a batch: all that a masking strategy depends on; never the signal.

    Attributes:
        observed_BP: False where a recording has no data of a parcel.
        num_patches: N.
        network_P: number of each parcel's functional network, −1 for none.
    """

    observed_BP: Tensor
    num_patches: int
    network_P: Tensor | None = None


def random_tokens(key_B: Tensor, ratio: float, grid: Grid) -> Tensor:
    """Hides a share of each window's tokens, drawn over parcels and patches together (paper, section 3.3)."""
    observed_BL = grid.observed_BP.repeat_interleave(grid.num_patches, dim=1)
    hidden_BL = _lowest(counter_noise(key_B, observed_BL.shape[1]), observed_BL, ratio)
    return torch.unflatten(hidden_BL, 1, (-1, grid.num_patches))


def future_patches(key_B: Tensor, ratio: float, grid: Grid) -> Tensor:
    """Hides the last ``round(ratio · N)`` patches of every parcel (paper, figure 2B); the key is not used."""
    first_hidden = grid.num_patches - round(ratio * grid.num_patches)
    future_N = torch.arange(grid.num_patches, device=key_B.device) >= first_hidden
    return grid.observed_BP[:, :, None] & future_N


def whole_parcels(key_B: Tensor, ratio: float, grid: Grid) -> Tensor:
    """Hides a share of the parcels, each for the whole window."""
    hidden_BP = _lowest(counter_noise(key_B, grid.observed_BP.shape[1]), grid.observed_BP, ratio)
    return hidden_BP[:, :, None].expand(-1, -1, grid.num_patches)


def whole_networks(key_B: Tensor, ratio: float, grid: Grid) -> Tensor:
    """Hides a share of the functional networks with data: all parcels of each, for the whole window.

    Raises:
        ValueError: the grid has no networks.
    """
    if grid.network_P is None:
        raise ValueError(
            "masking 'networks' needs a network label for each parcel; the atlas table has none. Leave networks out of "
            "masking.strategy and test_strategies, or prepare the cohort with atlas.network"
        )
    num_networks = int(grid.network_P.max()) + 1
    has_network_P = grid.network_P >= 0
    observed_BP = grid.observed_BP & has_network_P
    seen_BQ = torch.zeros(len(key_B), num_networks, dtype=torch.int64, device=key_B.device)
    number_BP = grid.network_P.clamp(min=0).expand_as(observed_BP)
    eligible_BQ = seen_BQ.scatter_add(1, number_BP, observed_BP.long()) > 0
    hidden_BQ = _lowest(counter_noise(key_B, num_networks), eligible_BQ, ratio)
    hidden_BP = hidden_BQ[:, grid.network_P] & observed_BP
    return hidden_BP[:, :, None].expand(-1, -1, grid.num_patches)


MASKINGS: dict[MaskingName, Callable[[Tensor, float, Grid], Tensor]] = {
    "random": random_tokens,
    "future": future_patches,
    "parcels": whole_parcels,
    "networks": whole_networks,
}


def draw_mask(name: MaskingName, key_B: Tensor, ratio: float, grid: Grid) -> Tensor:
    """Draws the hidden tokens of a batch.

    Args:
        name: strategy, a key of ``MASKINGS``.
        key_B: int64 key of each window.
        ratio: share to hide, 0 to 1.
        grid: observed parcels, patches and networks.

    Returns:
        bool (B, P, N), True = hidden; unobserved parcels are never hidden, since there is nothing to reconstruct.

    Raises:
        ValueError: the ratio is outside 0 to 1.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"mask ratio {ratio} is outside 0 to 1")
    return MASKINGS[name](key_B, ratio, grid)


def draw_share(key_B: Tensor, mask_BPN: Tensor, share: float) -> Tensor:
    """Draws a share of each window's tokens that are True in a mask, independently of how the mask was drawn."""
    mask_BL = mask_BPN.flatten(1)
    return _lowest(counter_noise(key_B ^ _SHARE_STREAM, mask_BL.shape[1]), mask_BL, share).view_as(mask_BPN)


def deal_tokens(key_B: Tensor, grid: Grid, parts: int) -> Tensor:
    """Assigns each window's tokens at random to parts of equal size, to be encoded one part at a time.

    With four parts, an encoder that was trained on a quarter of the tokens gets as many as in training, and every token
    is encoded once. Attention over four quarters costs a quarter of attention over all tokens.

    Returns:
        (B, P, N) int64, the part of each token, 0 to ``parts`` − 1.
    """
    observed_BL = grid.observed_BP.repeat_interleave(grid.num_patches, dim=1)
    noise_BL = counter_noise(key_B, observed_BL.shape[1]).masked_fill(~observed_BL, torch.iinfo(torch.int64).max)
    rank_BL = noise_BL.argsort(dim=1, stable=True).argsort(dim=1)
    return torch.unflatten(rank_BL % parts, 1, (-1, grid.num_patches))
