"""A start from which a masked autoencoder learns at once: untrained, it is a kernel regressor over parcels and time.

To predict a hidden patch the network has to find visible tokens of the same time and of parcels that co-vary, and
tokens of the same parcel just before and after, and carry their frames through. At the usual start attention averages
everything, the average carries nothing, and the loss stays on a plateau for thousands of steps. Here the width is split
into orthogonal subspaces:

- *signal*: the patch projection writes the S frames there, the head reads them back;
- *time*: the N temporal embeddings are orthogonal vectors;
- *space*: the spatial embeddings are the leading principal directions of the training covariance across parcels, scaled
  by the roots of their variances and to unit length, so that inner products are similarities;
- *visible*: one direction that visible tokens have and mask tokens lack, so that nobody looks where no data are.

In every block the queries and keys of a head start tied on those: a token looks at visible tokens of similar parcels,
in the head's own place in time — now, the patch before, or the patch after. In the first decoder block values carry the
signal: as it is for *now*, through the linear prediction of a patch from its neighbour (from the training
autocovariance) for *before* and *after*. Every other branch starts small. Only initial values change: the architecture
is the paper's, and every weight is trained.

Shapes: P parcels, N patches per parcel, S frames per patch, D width, d width of a head, K directions of space.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from brainlm_lightning.model.embedding import PositionEmbedding
from brainlm_lightning.model.masked import Moments
from brainlm_lightning.model.transformer import Attention, Block, Transformer

Place = Literal["now", "before", "after"]

PLACES: tuple[Place, ...] = ("now", "before", "after", "now")  # of a block's heads in turn
POSITION_NORM = 1.5  # of each embedding; a patch of unit variance has 1, so that layer norm hardly bends the signal
VISIBLE_NORM = 0.5  # of the direction that visible tokens have
# What a head's attention logit gains where the time matches, from a perfectly correlated parcel, where there are data:
TIME_LOGIT, SPACE_LOGIT, VISIBLE_LOGIT = 5.0, 5.0, 4.0
BRANCH_GAIN = 0.1  # of the branches that start small, on the standard start
RIDGE = 0.1  # of the linear prediction from a neighbouring patch, as a share of the variance


@dataclass(frozen=True)
class Subspaces:
    """Orthonormal columns that split a width: signal (D, S), time (D, N), space (D, D - S - N - 1), visible (D, 1)."""

    signal: Tensor
    time: Tensor
    space: Tensor
    visible: Tensor


def split_width(width: int, patch_frames: int, num_patches: int, generator: torch.Generator) -> Subspaces:
    """Draws the subspaces.

    Raises:
        ValueError: the width does not hold the signal, the times, the visible direction and one direction of space.
    """
    space = width - patch_frames - num_patches - 1
    if space < 1:
        raise ValueError(
            f"a width of {width} is too narrow for the kernel start: it takes {patch_frames} dimensions for the frames "
            f"of a patch, {num_patches} for the patches, one for what is visible and some for space; widen it or "
            "choose initialisation: standard"
        )
    basis = random_orthonormal(width, width, generator)
    return Subspaces(*basis.split([patch_frames, num_patches, space, 1], dim=1))


def random_orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A random matrix with orthonormal columns (or rows, where there are fewer rows than columns)."""
    q = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns), generator=generator)).Q
    return q if rows >= columns else q.T


def parcel_directions(covariance_PP: Tensor, count: int) -> Tensor:
    """Unit vectors, one a parcel, whose inner products approximate the parcels' correlations, (P, min(P, count)).

    The signs of the principal directions are fixed by their sums, so that permuting parcels permutes the vectors. A
    parcel without variance gets the zero vector.
    """
    values, vectors = torch.linalg.eigh(covariance_PP.double())
    order = values.argsort(descending=True)[: min(count, len(values))]
    vectors = vectors[:, order] * torch.where(vectors[:, order].sum(dim=0) < 0, -1.0, 1.0)
    scaled_PK = vectors * values[order].clamp(min=0).sqrt()
    variance_P = covariance_PP.diagonal()
    scaled_PK[variance_P <= 1e-12 * variance_P.max()] = 0  # rounding gave it a direction
    return (scaled_PK / scaled_PK.norm(dim=1, keepdim=True).clamp(min=1e-12)).float()


def neighbour_prediction(autocovariance: Tensor, place: Place) -> Tensor:
    """The linear map (S, S) that predicts a patch from the one before or after it: ridge regression in closed form."""
    frames = len(autocovariance) // 2
    step = torch.arange(frames)
    variance_SS = autocovariance[(step[:, None] - step).abs()]
    lag_SS = frames + step[:, None] - step if place == "before" else frames - step[:, None] + step
    ridge_SS = RIDGE * autocovariance[0] * torch.eye(frames, dtype=autocovariance.dtype)
    return torch.linalg.solve(variance_SS + ridge_SS, autocovariance[lag_SS].T).T.float()


class Parts(Protocol):
    """The parts of a masked autoencoder that the start sets."""

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
    """Sets a model's initial weights so that, untrained, it is a kernel regressor.

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
    if narrowest < 3:
        raise ValueError(f"heads are {narrowest} wide; the kernel start needs 3: for time, space and what is visible")
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = (
        split_width(width, config.patch_frames, model.num_patches, generator)
        for width in (config.embed_dim, config.decoder_embed_dim)
    )
    frames_root = config.patch_frames**0.5
    for position, subspaces in ((model.position, encoder), (model.decoder_position, decoder)):
        _set_positions(position, moments.covariance_PP, subspaces)
    for transformer, subspaces in ((model.encoder, encoder), (model.decoder, decoder)):
        _tie_attention(transformer, subspaces, moments.covariance_PP, generator)
    _pass_through(model.patch_projection, encoder.signal / frames_root)
    signal_DD = decoder.signal @ encoder.signal.T * _undo_norm(config.embed_dim)
    _pass_through(model.decoder_projection, BRANCH_GAIN * model.decoder_projection.weight + signal_DD)
    model.decoder_projection.bias.copy_(VISIBLE_NORM * decoder.visible[:, 0])
    nn.init.zeros_(model.mask_token_D)
    first = model.decoder.blocks[0]
    assert isinstance(first, Block)
    _carry_signal(first.attention, decoder, moments.autocovariance(2 * config.patch_frames), generator)
    _pass_through(model.head, decoder.signal.T * frames_root * _undo_norm(config.decoder_embed_dim))


def _undo_norm(width: int) -> float:
    """Layer norm brings a token to norm √D; this brings it back to what its parts add up to."""
    return (1 + 2 * POSITION_NORM**2) ** 0.5 / width**0.5


def _pass_through(linear: nn.Linear, weight: Tensor) -> None:
    linear.weight.copy_(weight)
    nn.init.zeros_(linear.bias)


def _set_positions(position: PositionEmbedding, covariance_PP: Tensor, subspaces: Subspaces) -> None:
    direction_PK = parcel_directions(covariance_PP, subspaces.space.shape[1])
    assert position.spatial_PD is not None
    position.spatial_PD.copy_(POSITION_NORM * direction_PK @ subspaces.space[:, : direction_PK.shape[1]].T)
    position.temporal_ND.copy_(POSITION_NORM * subspaces.time.T)


def _tie_attention(
    transformer: Transformer, subspaces: Subspaces, covariance_PP: Tensor, generator: torch.Generator
) -> None:
    """Ties query to key in every block, and starts what the branches add small."""
    direction_PK = parcel_directions(covariance_PP, subspaces.space.shape[1])
    spectrum_K = direction_PK.square().mean(dim=0)
    for block in transformer.blocks:
        assert isinstance(block, Block)
        for head in range(block.attention.num_heads):
            _tie_head(block.attention, head, subspaces, spectrum_K, generator)
        block.attention.output.weight.mul_(BRANCH_GAIN)
        block.mlp_output.weight.mul_(BRANCH_GAIN)


def _tie_head(
    attention: Attention, head: int, subspaces: Subspaces, spectrum_K: Tensor, generator: torch.Generator
) -> None:
    """Queries and keys of one head: up to half its width for time, one dimension for visible, the rest for space.

    Attention divides by √d, and layer norm has scaled a position's inner products with itself by D times its share of
    a token; both are undone, so that logits are those named above. A head too narrow for a whole subspace sees a
    random part of it: of time any, of space one drawn towards the leading directions.
    """
    width, num_patches = subspaces.time.shape
    head_width = width // attention.num_heads
    scale = head_width**0.5 * _undo_norm(width) ** 2
    times = min(num_patches, head_width // 2)
    directions = min(len(spectrum_K), head_width - times - 1)
    time = random_orthonormal(times, num_patches, generator)
    space = random_orthonormal(directions, len(spectrum_K), generator)
    if directions < len(spectrum_K):
        drawn = torch.randn(directions, len(spectrum_K), generator=generator) * spectrum_K.sqrt()
        space = torch.linalg.qr(drawn.T).Q.T
    kept = float((space.square() @ spectrum_K).sum() / spectrum_K.sum())
    time = time * (TIME_LOGIT * scale / POSITION_NORM**2 * num_patches / times) ** 0.5
    space = space * (SPACE_LOGIT * scale / POSITION_NORM**2 / kept) ** 0.5 @ subspaces.space[:, : len(spectrum_K)].T
    visible = subspaces.visible.T * _undo_norm(width) / VISIBLE_NORM
    key_time = _shifted_time(subspaces.time, PLACES[head % len(PLACES)])
    padding = torch.zeros(head_width - times - directions - 1, width)
    query_rows, key_rows = (slice(at + head * head_width, at + (head + 1) * head_width) for at in (0, width))
    attention.qkv.weight[query_rows] = torch.cat([time @ subspaces.time.T, space, torch.zeros(1, width), padding])
    attention.qkv.weight[key_rows] = torch.cat([time @ key_time.T, space, visible, padding])
    attention.qkv.bias[query_rows][times + directions] = VISIBLE_LOGIT * head_width**0.5


def _shifted_time(time_DN: Tensor, place: Place) -> Tensor:
    """Column n is the time that patch n looks at: its own, the one before or the one after; none at the ends."""
    shifted = time_DN.clone() if place == "now" else time_DN.roll(1 if place == "before" else -1, dims=1)
    if place != "now":
        shifted[:, 0 if place == "before" else -1] = 0
    return shifted


def _carry_signal(
    attention: Attention, subspaces: Subspaces, autocovariance: Tensor, generator: torch.Generator
) -> None:
    """Values read the signal; the output adds the heads' mean of it now, and predictions from before and after."""
    width, frames = subspaces.signal.shape
    head_width = width // attention.num_heads
    kept = min(1.0, head_width / frames)
    places = [PLACES[head % len(PLACES)] for head in range(attention.num_heads)]
    for head, place in enumerate(places):
        part = random_orthonormal(head_width, frames, generator)
        rows = slice(head * head_width, (head + 1) * head_width)
        attention.qkv.weight[2 * width :][rows] = part @ subspaces.signal.T * _undo_norm(width)
        carried_SS = torch.eye(frames) if place == "now" else 0.5 * neighbour_prediction(autocovariance, place)
        attention.output.weight[:, rows] = subspaces.signal @ carried_SS @ part.T / (kept * places.count(place))
