"""An initialisation that makes the untrained `TiedAutoencoder` a kernel regressor by the window's own covariance.

The width is split as in `kernel_start`. What is new are queries and keys of the attention among parcels: half of each
head compares positions (parcels that are similar in the training subjects), half compares signals, whose mean product
over the visible patches is the correlation of two parcels in this window. The last head starts with the opposite sign,
for parcels that go against each other. In the first block values carry the signal; all other branches start small.

Shapes: P parcels, D width, Z directions of space.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from brainlm_lightning.model.embedding import PositionEmbedding
from brainlm_lightning.model.kernel_start import (
    BRANCH_GAIN,
    SHIFTS,
    VISIBLE_NORM,
    Subspaces,
    carry_signal,
    check_heads,
    compared_space,
    parcel_directions,
    pass_through,
    random_orthonormal,
    set_positions,
    split_width,
    tie_head,
    undo_norm,
)
from brainlm_lightning.model.masked import Moments
from brainlm_lightning.model.tied_block import ParcelAttention, TiedBlock
from brainlm_lightning.model.transformer import Attention

SIGNAL_LOGIT = 5.0  # of a parcel whose signal is the same in all visible patches
AGAINST_SHARE = 0.3  # of what the head for opposite parcels takes, relative to another head
NOW_SHARE, OTHER_SHARE = 0.1, 0.5  # of what a token takes of itself, and of its neighbours in time


class Parts(Protocol):
    """The parts of a model that the start sets."""

    config: Any
    num_patches: int
    patch_projection: nn.Linear
    position: PositionEmbedding
    visible_D: nn.Parameter
    blocks: nn.ModuleList
    head: nn.Linear


@torch.no_grad()
def tied_start(model: Parts, moments: Moments, seed: int = 0) -> None:
    """Sets a model's weights so that, before training, it is a kernel regressor.

    Args:
        model: changed in place.
        moments: of the scaled training signal.
        seed: of the random subspaces.

    Raises:
        ValueError: the model is too narrow.
    """
    config = model.config
    check_heads(config.embed_dim // config.num_heads)
    generator = torch.Generator().manual_seed(seed)
    subspaces = split_width(config.embed_dim, config.patch_frames, model.num_patches, generator)
    set_positions(model.position, moments.covariance_PP, subspaces)
    pass_through(model.patch_projection, subspaces.signal / config.patch_frames**0.5)
    model.visible_D.copy_(VISIBLE_NORM * subspaces.visible[:, 0])
    direction_PZ = parcel_directions(moments.covariance_PP, subspaces.space.shape[1])
    spectrum_Z = direction_PZ.square().mean(dim=0)
    autocovariance = moments.autocovariance(2 * config.patch_frames)
    for number, block in enumerate(model.blocks):
        assert isinstance(block, TiedBlock)
        parcels = block.parcels
        block.mlp_output.weight.mul_(BRANCH_GAIN)
        for head in range(config.num_heads):
            _compare(parcels, head, subspaces, spectrum_Z, generator)
            tie_head(block.time, head, subspaces, spectrum_Z, generator)
        if number == 0:
            _carry(parcels, subspaces, generator)
            carry_signal(block.time, subspaces, autocovariance, generator)
            _weigh_shifts(block.time)
        else:
            parcels.output.weight.mul_(BRANCH_GAIN)
            block.time.output.weight.mul_(BRANCH_GAIN)
    pass_through(model.head, subspaces.signal.T * config.patch_frames**0.5 * undo_norm(config.embed_dim))


def _sign(attention: ParcelAttention, head: int) -> float:
    """-1 for the head of parcels that go against each other: the last, where there are several."""
    return -1.0 if head and head == attention.num_heads - 1 else 1.0


def _rows(attention: ParcelAttention | Attention, head: int) -> slice:
    """Of a head's width."""
    width = attention.output.weight.shape[0] // attention.num_heads
    return slice(head * width, (head + 1) * width)


def _compare(
    attention: ParcelAttention, head: int, subspaces: Subspaces, spectrum_Z: Tensor, generator: torch.Generator
) -> None:
    """Queries and keys of one head: half of its width for positions, the other half for signals."""
    width, frames = subspaces.signal.shape
    head_width = width // attention.num_heads
    signals = min(frames, head_width // 2)
    directions = min(len(spectrum_Z), head_width - signals)
    scale = head_width**0.5 * undo_norm(width) ** 2
    space = compared_space(directions, subspaces, spectrum_Z, scale, generator)
    signal = random_orthonormal(signals, frames, generator)
    signal = signal * (SIGNAL_LOGIT * scale * frames / signals) ** 0.5 @ subspaces.signal.T
    compared = torch.cat([space, signal, torch.zeros(head_width - directions - signals, width)])
    rows = _rows(attention, head)
    attention.qkv.weight[:width][rows] = compared
    attention.qkv.weight[width : 2 * width][rows] = _sign(attention, head) * compared


def _carry(attention: ParcelAttention, subspaces: Subspaces, generator: torch.Generator) -> None:
    """Values read the signal; the output adds its mean over the heads, less a share of what goes against it."""
    width, frames = subspaces.signal.shape
    head_width = width // attention.num_heads
    signs = [_sign(attention, head) for head in range(attention.num_heads)]
    for head, sign in enumerate(signs):
        part = random_orthonormal(head_width, frames, generator)
        rows = _rows(attention, head)
        attention.qkv.weight[2 * width :][rows] = part @ subspaces.signal.T * undo_norm(width)
        share = (sign if sign > 0 else -AGAINST_SHARE) / signs.count(1.0) / min(1.0, head_width / frames)
        attention.output.weight[:, rows] = share * subspaces.signal @ part.T


def _weigh_shifts(attention: Attention) -> None:
    """Takes down what a token takes of its neighbours in time, and more so what it takes of itself."""
    for head in range(attention.num_heads):
        share = NOW_SHARE if SHIFTS[head % len(SHIFTS)] == "now" else OTHER_SHARE
        attention.output.weight[:, _rows(attention, head)] *= share
