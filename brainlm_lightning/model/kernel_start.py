"""An initialisation that makes the untrained masked autoencoder a kernel regressor over parcels and time.

To predict a hidden patch, the network must attend to visible tokens at the same time in co-varying parcels, and to the
same parcel just before and after, and copy their frames. With the usual initialisation, attention averages all tokens,
the average is uninformative, and the loss stays on a plateau for thousands of steps. Here the width is split into
orthogonal subspaces:

- *signal*: the patch projection writes the S frames there, and the head reads them out;
- *time*: the N temporal embeddings are orthogonal vectors;
- *space*: the spatial embeddings are the leading principal directions of the training covariance across parcels, scaled
  by the roots of their variances and to unit length, so that inner products are similarities;
- *visible*: one direction that visible tokens have and mask tokens lack, so that attention avoids mask tokens.

In every block, each head starts with matching query and key projections onto these subspaces: a token attends to
visible tokens of similar parcels at the head's own shift in time: the same patch (*now*), the one *before* or the one
*after*. In the first decoder block, values carry the signal: unchanged for *now*, and through the linear prediction of
a patch from its neighbour (from the training autocovariance) for *before* and *after*. All other branches start small.
Only initial values change: the architecture is the paper's, and every weight is trained.

Shapes: P parcels, N patches per parcel, S frames per patch, D width, d width of a head, Z directions of space.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from brainlm_lightning.model.embedding import PositionEmbedding
from brainlm_lightning.model.masked import Moments
from brainlm_lightning.model.transformer import Attention, Block, Transformer

Shift = Literal["now", "before", "after"]

SHIFTS: tuple[Shift, ...] = ("now", "before", "after", "now")  # of a block's heads in turn
POSITION_NORM = 1.5  # of each embedding; a patch of unit variance has norm 1, so layer norm is nearly linear in it
VISIBLE_NORM = 0.5  # of the component that marks visible tokens
# Added to a head's attention logit for a key at the right time, in a perfectly correlated parcel, and visible:
TIME_LOGIT, SPACE_LOGIT, VISIBLE_LOGIT = 5.0, 5.0, 4.0
BRANCH_GAIN = 0.1  # of the branches that start small, relative to the standard initialisation
RIDGE = 0.1  # of the linear prediction from a neighbouring patch, as a share of the variance


@dataclass(frozen=True)
class Subspaces:
    """Orthonormal columns that split a width: signal (D, S), time (D, N), space (D, D - S - N - 1), visible (D, 1)."""

    signal: Tensor
    time: Tensor
    space: Tensor
    visible: Tensor


def split_width(width: int, patch_frames: int, num_patches: int, generator: torch.Generator) -> Subspaces:
    """Splits a width into random orthogonal subspaces.

    Raises:
        ValueError: the width is below S + N + 2.
    """
    space = width - patch_frames - num_patches - 1
    if space < 1:
        raise ValueError(
            f"a width of {width} is too narrow for the kernel start: it needs {patch_frames} dimensions for the frames "
            f"of a patch, {num_patches} for the patches, one for visibility and at least one for space; widen it or "
            "choose initialisation: standard"
        )
    basis = random_orthonormal(width, width, generator)
    return Subspaces(*torch.split(basis, [patch_frames, num_patches, space, 1], dim=1))


def random_orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A random matrix with orthonormal columns (or rows, where there are fewer rows than columns)."""
    q: Tensor = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns), generator=generator)).Q
    return q if rows >= columns else q.T


def parcel_directions(covariance_PP: Tensor, count: int) -> Tensor:
    """One unit vector per parcel; their inner products approximate the correlations, (P, min(P, count)).

    Each principal direction is given the sign that makes its sum positive, so permuting parcels permutes the vectors. A
    parcel without variance gets the zero vector.
    """
    values, vectors = torch.linalg.eigh(covariance_PP.double())
    order = values.argsort(descending=True)[: min(count, len(values))]
    vectors = vectors[:, order] * torch.where(vectors[:, order].sum(dim=0) < 0, -1.0, 1.0)
    scaled_PZ = vectors * values[order].clamp(min=0).sqrt()
    variance_P = covariance_PP.diagonal()
    scaled_PZ[variance_P <= 1e-12 * variance_P.max()] = 0  # its direction would be rounding error
    unit_PZ: Tensor = scaled_PZ / scaled_PZ.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return unit_PZ.float()


def neighbour_prediction(autocovariance: Tensor, shift: Shift) -> Tensor:
    """The (S, S) matrix that predicts a patch from the one before or after it: ridge regression in closed form."""
    frames = len(autocovariance) // 2
    step = torch.arange(frames)
    variance_SS = autocovariance[(step[:, None] - step).abs()]
    lag_SS = frames + step[:, None] - step if shift == "before" else frames - step[:, None] + step
    ridge_SS = RIDGE * autocovariance[0] * torch.eye(frames, dtype=autocovariance.dtype)
    map_SS: Tensor = torch.linalg.solve(variance_SS + ridge_SS, autocovariance[lag_SS].T).T
    return map_SS.float()


class Parts(Protocol):
    """The parts of a masked autoencoder that the kernel start sets."""

    config: Any
    num_patches: int
    patch_projection: nn.Linear
    position: PositionEmbedding
    encoder: Transformer
    decoder_projection: nn.Linear
    decoder_position: PositionEmbedding
    mask_token_D: nn.Parameter
    decoder: Transformer
    head: nn.Linear


@torch.no_grad()
def kernel_start(model: Parts, moments: Moments, seed: int = 0) -> None:
    """Sets a model's weights so that, before training, it is a kernel regressor.

    Args:
        model: pre-norm, with learnable embeddings; changed in place.
        moments: of the scaled training signal.
        seed: of the random subspaces.

    Raises:
        ValueError: the model is post-norm, has fixed embeddings or is too narrow.
    """
    config = model.config
    if config.norm != "pre" or (config.spatial_embedding, config.temporal_embedding) != ("learnable", "learnable"):
        raise ValueError(
            "the kernel start needs norm: pre and learnable spatial and temporal embeddings; "
            "change those or choose initialisation: standard"
        )
    narrowest = min(config.embed_dim // config.num_heads, config.decoder_embed_dim // config.decoder_num_heads)
    check_heads(narrowest)
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = (
        split_width(width, config.patch_frames, model.num_patches, generator)
        for width in (config.embed_dim, config.decoder_embed_dim)
    )
    frames_root = config.patch_frames**0.5
    for position, subspaces in ((model.position, encoder), (model.decoder_position, decoder)):
        set_positions(position, moments.covariance_PP, subspaces)
    for transformer, subspaces in ((model.encoder, encoder), (model.decoder, decoder)):
        _tie_attention(transformer, subspaces, moments.covariance_PP, generator)
    pass_through(model.patch_projection, encoder.signal / frames_root)
    signal_DD = decoder.signal @ encoder.signal.T * undo_norm(config.embed_dim)
    pass_through(model.decoder_projection, BRANCH_GAIN * model.decoder_projection.weight + signal_DD)
    model.decoder_projection.bias.copy_(VISIBLE_NORM * decoder.visible[:, 0])
    nn.init.zeros_(model.mask_token_D)
    first = model.decoder.blocks[0]
    assert isinstance(first, Block)
    carry_signal(first.attention, decoder, moments.autocovariance(2 * config.patch_frames), generator)
    pass_through(model.head, decoder.signal.T * frames_root * undo_norm(config.decoder_embed_dim))


def undo_norm(width: int) -> float:
    """Inverts layer norm: the norm that a token's parts add up to, over the norm √D that layer norm gives it."""
    factor: float = (1 + 2 * POSITION_NORM**2) ** 0.5 / width**0.5
    return factor


def pass_through(linear: nn.Linear, weight: Tensor) -> None:
    """Sets the weight; the bias is 0."""
    linear.weight.copy_(weight)
    nn.init.zeros_(linear.bias)


def set_positions(position: PositionEmbedding, covariance_PP: Tensor, subspaces: Subspaces) -> None:
    """Sets the embeddings of parcels and of patches."""
    direction_PZ = parcel_directions(covariance_PP, subspaces.space.shape[1])
    assert position.spatial_PD is not None
    position.spatial_PD.copy_(POSITION_NORM * direction_PZ @ subspaces.space[:, : direction_PZ.shape[1]].T)
    position.temporal_ND.copy_(POSITION_NORM * subspaces.time.T)


def _tie_attention(
    transformer: Transformer, subspaces: Subspaces, covariance_PP: Tensor, generator: torch.Generator
) -> None:
    """Sets matching queries and keys in every block, and scales down the outputs of its branches."""
    direction_PZ = parcel_directions(covariance_PP, subspaces.space.shape[1])
    spectrum_Z = direction_PZ.square().mean(dim=0)
    for block in transformer.blocks:
        assert isinstance(block, Block)
        for head in range(block.attention.num_heads):
            tie_head(block.attention, head, subspaces, spectrum_Z, generator)
        block.attention.output.weight.mul_(BRANCH_GAIN)
        block.mlp_output.weight.mul_(BRANCH_GAIN)


def tie_head(
    attention: Attention, head: int, subspaces: Subspaces, spectrum_Z: Tensor, generator: torch.Generator
) -> None:
    """Queries and keys of one head: up to half its width for time, one dimension for visibility, the rest for space.

    Both the division by √d in attention and the scaling by layer norm are undone, so the logits are the constants at
    the top of this file. A head too narrow for a whole subspace gets a random projection of it: uniform for time,
    weighted towards the leading directions for space.
    """
    width, num_patches = subspaces.time.shape
    head_width = width // attention.num_heads
    scale = head_width**0.5 * undo_norm(width) ** 2
    times = min(num_patches, head_width // 2)
    directions = min(len(spectrum_Z), head_width - times - 1)
    time = random_orthonormal(times, num_patches, generator)
    time = time * (TIME_LOGIT * scale / POSITION_NORM**2 * num_patches / times) ** 0.5
    space = compared_space(directions, subspaces, spectrum_Z, scale, generator)
    visible = subspaces.visible.T * undo_norm(width) / VISIBLE_NORM
    key_time = _shifted_time(subspaces.time, SHIFTS[head % len(SHIFTS)])
    padding = torch.zeros(head_width - times - directions - 1, width)
    query_rows, key_rows = (slice(at + head * head_width, at + (head + 1) * head_width) for at in (0, width))
    attention.qkv.weight[query_rows] = torch.cat([time @ subspaces.time.T, space, torch.zeros(1, width), padding])
    attention.qkv.weight[key_rows] = torch.cat([time @ key_time.T, space, visible, padding])
    attention.qkv.bias[query_rows][times + directions] = VISIBLE_LOGIT * head_width**0.5


def compared_space(
    directions: int, subspaces: Subspaces, spectrum_Z: Tensor, scale: float, generator: torch.Generator
) -> Tensor:
    """Rows (directions, D) that compare parcels, alike in queries and keys; see `tie_head`."""
    space = random_orthonormal(directions, len(spectrum_Z), generator)
    if directions < len(spectrum_Z):
        drawn = torch.randn(directions, len(spectrum_Z), generator=generator) * spectrum_Z.sqrt()
        space = torch.linalg.qr(drawn.T).Q.T
    kept = float((space.square() @ spectrum_Z).sum() / spectrum_Z.sum())
    rows: Tensor = space * (SPACE_LOGIT * scale / POSITION_NORM**2 / kept) ** 0.5
    return rows @ subspaces.space[:, : len(spectrum_Z)].T


def check_heads(narrowest: int) -> None:
    """Raises ValueError where heads are too narrow for a start."""
    if narrowest < 3:
        raise ValueError(
            f"heads are {narrowest} wide; the kernel start needs at least 3: one each for time, space and visibility"
        )


def _shifted_time(time_DN: Tensor, shift: Shift) -> Tensor:
    """Column n is the time vector that patch n attends to: its own, the previous or the next; zero beyond the ends."""
    shifted = time_DN.clone() if shift == "now" else time_DN.roll(1 if shift == "before" else -1, dims=1)
    if shift != "now":
        shifted[:, 0 if shift == "before" else -1] = 0
    return shifted


def carry_signal(
    attention: Attention, subspaces: Subspaces, autocovariance: Tensor, generator: torch.Generator
) -> None:
    """Values read the signal; the output adds its mean over *now* heads and half the predictions of the others."""
    width, frames = subspaces.signal.shape
    head_width = width // attention.num_heads
    kept = min(1.0, head_width / frames)
    shifts = [SHIFTS[head % len(SHIFTS)] for head in range(attention.num_heads)]
    for head, shift in enumerate(shifts):
        part = random_orthonormal(head_width, frames, generator)
        rows = slice(head * head_width, (head + 1) * head_width)
        attention.qkv.weight[2 * width :][rows] = part @ subspaces.signal.T * undo_norm(width)
        carried_SS = torch.eye(frames) if shift == "now" else 0.5 * neighbour_prediction(autocovariance, shift)
        attention.output.weight[:, rows] = subspaces.signal @ carried_SS @ part.T / (kept * shifts.count(shift))
