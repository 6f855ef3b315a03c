"""Where the encoder looks, with nothing hidden: of CLS on the parcels, and of every parcel on every other.

Sections 4.4 and 4.6 of the paper. Attention is the explicit softmax(q kᵀ / √d), made for a few queries at a time and
summed over the patches of each key parcel at once: memory grows linearly with the tokens, and the L × L matrix is never
there. Tokens stand in natural order (parcel-major), so a map is a function of the window alone. Attention *to* a parcel
that a recording does not observe is 0; attention *of* one is NaN.

Shapes: B batch, E encoder layers, H heads, P parcels, N patches per parcel, T frames, L = 1 + P·N tokens (CLS first),
Q = 1 + P units (CLS, then the parcels), D width, d width of a head, C queries of a chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.transformer import Block

QUERIES_AT_ONCE = 64  # over all windows of a batch: of 4 heads and 4,241 tokens 4 MB, which stays in a core's cache
RESIDUAL_SHARE = 0.5  # of a layer's output that is its input (Abnar & Zuidema 2020, section 3)


@dataclass(frozen=True)
class Reading:
    """Which attention a parcel matrix is made of.

    Attributes:
        layers: encoder layers to average, from 0, negative from the last; None = all.
        heads: heads to average; None = all.
        rollout: attention rollout through all layers (Abnar & Zuidema 2020) instead of the mean over layers: the
            product of half attention, half identity, from the last layer to the first.
    """

    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    rollout: bool = False

    def __post_init__(self) -> None:
        """Refuses what cannot be read."""
        if self.rollout and self.layers is not None:
            raise ValueError(f"rollout goes through all layers, got layers {self.layers}; leave them out")
        if self.layers == () or self.heads == ():
            raise ValueError("layers and heads name at least one each, or are null for all")

    def check(self, depth: int, num_heads: int) -> None:
        """Compares with a model's size.

        Raises:
            ValueError: a layer or head is named that the model does not have.
        """
        for name, chosen, count in (("layer", self.layers, depth), ("head", self.heads, num_heads)):
            wrong = [number for number in chosen or () if not -count <= number < count]
            if wrong:
                raise ValueError(f"the encoder has no {name} {wrong[0]}: it has {count}, numbered from 0")


@dataclass(frozen=True)
class ClsAttention:
    """Attention of the CLS token in every layer and head; patches and itself sum to 1.

    Attributes:
        patches_BEHPN: to each patch; 0 for unobserved parcels.
        itself_BEH: to CLS.
    """

    patches_BEHPN: Tensor
    itself_BEH: Tensor

    @property
    def parcels_BEHP(self) -> Tensor:
        """Mean over the patches of each parcel."""
        return self.patches_BEHPN.mean(dim=-1)


@dataclass(frozen=True)
class ParcelAttention:
    """Attention between units, CLS first and then the parcels: the mean over a unit's queries, summed over its keys.

    Attributes:
        units_BQQ: every row sums to 1: the shares that a unit's patches give to CLS and to each parcel. The row of an
            unobserved parcel is NaN, its column 0.
    """

    units_BQQ: Tensor

    @property
    def parcels_BPP(self) -> Tensor:
        """Of each parcel (row) to each parcel (column), itself included; a row lacks what goes to CLS."""
        return self.units_BQQ[:, 1:, 1:]

    @property
    def cls_BP(self) -> Tensor:
        """Of CLS to each parcel."""
        return self.units_BQQ[:, 0, 1:]


@dataclass(frozen=True)
class Looks:
    """Queries and keys of one layer.

    Attributes:
        q_BHLd: queries, divided by √d.
        k_BHLd: keys.
        key_BL: which tokens may be looked at; None = all.
    """

    q_BHLd: Tensor
    k_BHLd: Tensor
    key_BL: Tensor | None

    def weights(self, queries: slice) -> Tensor:
        """Attention of some tokens to all, (B, H, C, L) float32; sums to 1 over the last axis."""
        logits_BHCL = (self.q_BHLd[:, :, queries] @ self.k_BHLd.transpose(2, 3)).float()
        if self.key_BL is not None:
            logits_BHCL.masked_fill_(~self.key_BL[:, None, None], -torch.inf)
        return logits_BHCL.softmax(dim=-1)


def encoder_layers(model: MaskedAutoencoder, signal_BPT: Tensor, observed_BP: Tensor) -> Iterator[Looks]:
    """Queries and keys of each encoder layer in turn, nothing hidden.

    Args:
        model: in evaluation mode.
        signal_BPT: scaled signal; that of unobserved parcels is not read.
        observed_BP: False where a recording has no data of a parcel.
    """
    known_BPT = signal_BPT.where(observed_BP[:, :, None], 0)
    x_BLD = model.patch_projection(known_BPT.unflatten(2, (model.num_patches, -1))) + model.position()
    cls_B1D = model.cls_D.to(x_BLD.dtype).expand(len(x_BLD), 1, -1)
    x_BLD = torch.cat([cls_B1D, x_BLD.flatten(1, 2)], dim=1)
    seen_BL = nn.functional.pad(observed_BP.repeat_interleave(model.num_patches, dim=1), (1, 0), value=True)
    key_BL = None if bool(seen_BL.all()) else seen_BL
    for number, block in enumerate(model.encoder.blocks):
        assert isinstance(block, Block)
        q_BHLd, k_BHLd, _ = block.attention.heads(block.attention_input(x_BLD))
        yield Looks(q_BHLd / q_BHLd.shape[-1] ** 0.5, k_BHLd, key_BL)
        if number + 1 < len(model.encoder.blocks):  # what the last layer gives, nobody asks for
            x_BLD = block(x_BLD, key_BL)


@torch.no_grad()
def cls_attention(model: MaskedAutoencoder, signal_BPT: Tensor, observed_BP: Tensor) -> ClsAttention:
    """Attention of CLS to each patch in every layer and head (paper, section 4.4 and figures 5 and 9).

    Args:
        model: in evaluation mode.
        signal_BPT: scaled signal.
        observed_BP: False where a recording has no data of a parcel.
    """
    rows = [looks.weights(slice(0, 1))[:, :, 0] for looks in encoder_layers(model, signal_BPT, observed_BP)]
    rows_BEHL = torch.stack(rows, dim=1)
    return ClsAttention(rows_BEHL[..., 1:].unflatten(-1, (-1, model.num_patches)), rows_BEHL[..., 0])


@torch.no_grad()
def parcel_attention(
    model: MaskedAutoencoder, signal_BPT: Tensor, observed_BP: Tensor, reading: Reading = Reading()
) -> ParcelAttention:
    """Attention between parcels (paper, section 4.6), with CLS as a unit of its own.

    A_pq = mean over the patches n of parcel p of the sum over the patches m of parcel q of a_{pn,qm}, where a is the
    mean over the chosen heads, then over the chosen layers; or, as rollout, a = Π (a_layer + 1) / 2.

    Args:
        model: in evaluation mode.
        signal_BPT: scaled signal.
        observed_BP: False where a recording has no data of a parcel.
        reading: which layers and heads.

    Raises:
        ValueError: the reading names a layer or head that the model does not have.
    """
    depth = len(model.encoder.blocks)
    reading.check(depth, model.config.num_heads)
    chosen = {number % depth for number in (range(depth) if reading.layers is None else reading.layers)}
    layers = encoder_layers(model, signal_BPT, observed_BP)
    used = [(looks, reading.heads) for number, looks in enumerate(layers) if number in chosen]
    parts = _rollout(used, model.num_patches) if reading.rollout else _mean(used, model.num_patches)
    unseen_BQ = nn.functional.pad(~observed_BP, (1, 0), value=False)
    return ParcelAttention(parts.masked_fill(unseen_BQ[:, :, None], torch.nan))


def _chunks(looks: Looks, step: int) -> Iterator[slice]:
    """Slices over the tokens: CLS, then whole parcels of `step` patches, some `QUERIES_AT_ONCE` over the batch."""
    batch, _, length, _ = looks.k_BHLd.shape
    size = max(1, QUERIES_AT_ONCE // (batch * step)) * step
    yield slice(0, 1)
    for start in range(1, length, size):
        yield slice(start, min(start + size, length))


def _weights(looks: Looks, heads: tuple[int, ...] | None, queries: slice) -> Tensor:
    """Mean over the chosen heads, (B, C, L)."""
    weights_BHCL = looks.weights(queries)
    return (weights_BHCL if heads is None else weights_BHCL[:, list(heads)]).mean(dim=1)


def _by_key_unit(rows_BCL: Tensor, num_patches: int) -> Tensor:
    """Sums over the patches of each key parcel, (B, C, L) to (B, C, Q)."""
    parcels_BCP = rows_BCL[..., 1:].unflatten(-1, (-1, num_patches)).sum(dim=-1)
    return torch.cat([rows_BCL[..., :1], parcels_BCP], dim=-1)


def _mean(layers: list[tuple[Looks, tuple[int, ...] | None]], num_patches: int) -> Tensor:
    """Mean over layers of the attention between units, (B, Q, Q)."""
    total: Tensor | float = 0.0
    for looks, heads in layers:
        rows = []
        for queries in _chunks(looks, num_patches):
            rows_BCQ = _by_key_unit(_weights(looks, heads, queries), num_patches)
            patches = 1 if queries.start == 0 else num_patches
            rows.append(rows_BCQ.unflatten(1, (-1, patches)).mean(dim=2))
        total = total + torch.cat(rows, dim=1) / len(layers)
    assert isinstance(total, Tensor)
    return total


def _rollout(layers: list[tuple[Looks, tuple[int, ...] | None]], num_patches: int) -> Tensor:
    """Rollout from units to units, (B, Q, Q): exact, for the mean over a unit's queries commutes with the product.

    Instead of multiplying L × L matrices, the Q row vectors that average a unit's queries are carried from the last
    layer to the first: Q × L numbers.
    """
    batch, _, length, _ = layers[0][0].k_BHLd.shape
    device = layers[0][0].k_BHLd.device
    unit_L = torch.cat([torch.zeros(1), 1 + torch.arange(length - 1) // num_patches]).to(device)
    rows_QL = (unit_L == torch.arange(int(unit_L[-1]) + 1, device=device)[:, None]).float()
    rows_BQL = (rows_QL / rows_QL.sum(dim=1, keepdim=True)).expand(batch, -1, -1)
    for looks, heads in reversed(layers):
        mixed_BQL = torch.zeros_like(rows_BQL)
        for queries in _chunks(looks, num_patches):
            mixed_BQL += rows_BQL[:, :, queries] @ _weights(looks, heads, queries)
        rows_BQL = RESIDUAL_SHARE * rows_BQL + (1 - RESIDUAL_SHARE) * mixed_BQL
    return _by_key_unit(rows_BQL, num_patches)
