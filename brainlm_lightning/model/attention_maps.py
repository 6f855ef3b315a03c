"""Attention of the encoder with nothing hidden: from CLS to the parcels, and between all pairs of parcels.

Sections 4.4 and 4.6 of the paper. The explicit softmax(q kᵀ / √d) is computed for a few queries at a time and summed
over the patches of each key parcel straight away, so memory is linear in the number of tokens and the L × L matrix is
never stored. Tokens are in natural (parcel-major) order, so a map depends on the window alone. Attention *to* a parcel
that a recording does not observe is 0; attention *from* one is NaN.

Shapes: B batch, P parcels, N patches per parcel, T frames, L = 1 + P·N tokens (CLS first), D width; l encoder layers,
h heads, d width of a head, q queries of a chunk, u = 1 + P units (CLS, then the parcels).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.transformer import Block

QUERIES_AT_ONCE = 64  # over all windows of a batch: with 4 heads and 4,241 tokens 4 MB, which fits a core's cache
RESIDUAL_SHARE = 0.5  # share of a layer's output that comes from its residual input (Abnar & Zuidema 2020, section 3)


@dataclass(frozen=True)
class Reading:
    """Which layers and heads a parcel matrix is averaged over.

    Attributes:
        layers: encoder layers to average, numbered from 0, negative numbers from the end; None = all.
        heads: heads to average; None = all.
        rollout: attention rollout through all layers (Abnar & Zuidema 2020) instead of the mean over layers: the
            product of half attention, half identity, from the last layer to the first.
    """

    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    rollout: bool = False

    def __post_init__(self) -> None:
        """Validates the combination of options."""
        if self.rollout and self.layers is not None:
            raise ValueError(f"rollout goes through all layers, got layers {self.layers}; leave them out")
        if self.layers == () or self.heads == ():
            raise ValueError("layers and heads need at least one each, or null for all")

    def check(self, depth: int, num_heads: int) -> None:
        """Checks the chosen layers and heads against a model's size.

        Raises:
            ValueError: the model has no such layer or head.
        """
        for name, chosen, count in (("layer", self.layers, depth), ("head", self.heads, num_heads)):
            wrong = [number for number in chosen or () if not -count <= number < count]
            if wrong:
                raise ValueError(f"the encoder has no {name} {wrong[0]}: it has {count}, numbered from 0")


@dataclass(frozen=True)
class ClsAttention:
    """Attention from the CLS token in every layer and head; `patches` and `itself` together sum to 1.

    Attributes:
        patches_BlhPN: to each patch; 0 for unobserved parcels.
        itself_Blh: to CLS.
    """

    patches_BlhPN: Tensor
    itself_Blh: Tensor

    @property
    def parcels_BlhP(self) -> Tensor:
        """Mean over each parcel's patches."""
        return self.patches_BlhPN.mean(dim=-1)


@dataclass(frozen=True)
class ParcelAttention:
    """Attention between units (CLS, then the parcels): averaged over a unit's queries, summed over a unit's keys.

    Attributes:
        units_Buu: row = from, column = to; every row sums to 1. The row of an unobserved parcel is NaN, its column 0.
    """

    units_Buu: Tensor

    @property
    def parcels_BPP(self) -> Tensor:
        """From each parcel (row) to each parcel (column), itself included; rows sum to 1 minus the attention to CLS."""
        return self.units_Buu[:, 1:, 1:]

    @property
    def cls_BP(self) -> Tensor:
        """From CLS to each parcel."""
        return self.units_Buu[:, 0, 1:]


@dataclass(frozen=True)
class LayerQueriesKeys:
    """Queries and keys of one layer.

    Attributes:
        q_BhLd: queries, divided by √d.
        k_BhLd: keys.
        key_BL: True = the token can be attended to; None = all.
    """

    q_BhLd: Tensor
    k_BhLd: Tensor
    key_BL: Tensor | None

    def weights(self, queries: slice) -> Tensor:
        """Attention from some tokens to all, (B, h, q, L) float32; sums to 1 over the last axis."""
        logits_BhqL = (self.q_BhLd[:, :, queries] @ self.k_BhLd.transpose(2, 3)).float()
        if self.key_BL is not None:
            logits_BhqL.masked_fill_(~self.key_BL[:, None, None], -torch.inf)
        return logits_BhqL.softmax(dim=-1)


def encoder_layers(model: MaskedAutoencoder, signal_BPT: Tensor, observed_BP: Tensor) -> Iterator[LayerQueriesKeys]:
    """Yields the queries and keys of each encoder layer in turn, with nothing hidden.

    Args:
        model: in evaluation mode.
        signal_BPT: scaled signal; values of unobserved parcels are ignored.
        observed_BP: False where a recording has no data of a parcel.
    """
    known_BPT = signal_BPT.where(observed_BP[:, :, None], 0)
    x_BLD = model.patch_projection(torch.unflatten(known_BPT, 2, (model.num_patches, -1))) + model.position()
    cls_B1D = model.cls_D.to(x_BLD.dtype).expand(len(x_BLD), 1, -1)
    x_BLD = torch.cat([cls_B1D, x_BLD.flatten(1, 2)], dim=1)
    seen_BL = nn.functional.pad(observed_BP.repeat_interleave(model.num_patches, dim=1), (1, 0), value=True)
    key_BL = None if bool(seen_BL.all()) else seen_BL
    order_L = model.encoding_order()
    x_BLD, arranged_BL = (x_BLD, key_BL) if order_L is None else _arranged(x_BLD, key_BL, order_L)
    for number, block in enumerate(model.encoder.blocks):
        assert isinstance(block, Block)
        q_BhLd, k_BhLd, _ = block.attention.heads(block.attention_input(x_BLD))
        if order_L is not None:
            natural_L = _with_cls(order_L).argsort()
            q_BhLd, k_BhLd = q_BhLd[:, :, natural_L], k_BhLd[:, :, natural_L]
        yield LayerQueriesKeys(q_BhLd / q_BhLd.shape[-1] ** 0.5, k_BhLd, key_BL)
        if number + 1 < len(model.encoder.blocks):  # the last layer's output is not needed
            x_BLD = block(x_BLD, arranged_BL)


def _arranged(x_BLD: Tensor, key_BL: Tensor | None, order_L: Tensor) -> tuple[Tensor, Tensor | None]:
    """Tokens and key mask in the order in which the encoder takes them, CLS first."""
    places_L = _with_cls(order_L)
    return x_BLD[:, places_L], None if key_BL is None else key_BL[:, places_L]


def _with_cls(order_L: Tensor) -> Tensor:
    return nn.functional.pad(order_L + 1, (1, 0))


@torch.no_grad()
def cls_attention(model: MaskedAutoencoder, signal_BPT: Tensor, observed_BP: Tensor) -> ClsAttention:
    """Attention from CLS to each patch in every layer and head (paper, section 4.4 and figures 5 and 9).

    Args:
        model: in evaluation mode.
        signal_BPT: scaled signal.
        observed_BP: False where a recording has no data of a parcel.
    """
    rows = [layer.weights(slice(0, 1))[:, :, 0] for layer in encoder_layers(model, signal_BPT, observed_BP)]
    rows_BlhL = torch.stack(rows, dim=1)
    return ClsAttention(torch.unflatten(rows_BlhL[..., 1:], -1, (-1, model.num_patches)), rows_BlhL[..., 0])


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
        ValueError: the model has no such layer or head.
    """
    depth = len(model.encoder.blocks)
    reading.check(depth, model.config.num_heads)
    chosen = {number % depth for number in (range(depth) if reading.layers is None else reading.layers)}
    layers = encoder_layers(model, signal_BPT, observed_BP)
    used = [(layer, reading.heads) for number, layer in enumerate(layers) if number in chosen]
    parts = _rollout(used, model.num_patches) if reading.rollout else _mean(used, model.num_patches)
    unseen_Bu = nn.functional.pad(~observed_BP, (1, 0), value=False)
    return ParcelAttention(parts.masked_fill(unseen_Bu[:, :, None], torch.nan))


def _chunks(layer: LayerQueriesKeys, step: int) -> Iterator[slice]:
    """Slices of the tokens: CLS, then whole parcels of `step` patches, about `QUERIES_AT_ONCE` queries per batch."""
    batch, _, length, _ = layer.k_BhLd.shape
    size = max(1, QUERIES_AT_ONCE // (batch * step)) * step
    yield slice(0, 1)
    for start in range(1, length, size):
        yield slice(start, min(start + size, length))


def _weights(layer: LayerQueriesKeys, heads: tuple[int, ...] | None, queries: slice) -> Tensor:
    """Mean over the chosen heads, (B, q, L)."""
    weights_BhqL = layer.weights(queries)
    return (weights_BhqL if heads is None else weights_BhqL[:, list(heads)]).mean(dim=1)


def _by_key_unit(rows_BqL: Tensor, num_patches: int) -> Tensor:
    """Sums over the patches of each key parcel, (B, q, L) to (B, q, u)."""
    parcels_BqP = torch.unflatten(rows_BqL[..., 1:], -1, (-1, num_patches)).sum(dim=-1)
    return torch.cat([rows_BqL[..., :1], parcels_BqP], dim=-1)


def _mean(layers: list[tuple[LayerQueriesKeys, tuple[int, ...] | None]], num_patches: int) -> Tensor:
    """Mean over layers of the attention between units, (B, u, u)."""
    total: Tensor | float = 0.0
    for layer, heads in layers:
        rows = []
        for queries in _chunks(layer, num_patches):
            rows_Bqu = _by_key_unit(_weights(layer, heads, queries), num_patches)
            patches = 1 if queries.start == 0 else num_patches
            rows.append(torch.unflatten(rows_Bqu, 1, (-1, patches)).mean(dim=2))
        total = total + torch.cat(rows, dim=1) / len(layers)
    assert isinstance(total, Tensor)
    return total


def _rollout(layers: list[tuple[LayerQueriesKeys, tuple[int, ...] | None]], num_patches: int) -> Tensor:
    """Rollout between units, (B, u, u); exact, because averaging over a unit's queries commutes with the product.

    Instead of multiplying L × L matrices, it carries the u row vectors that average each unit's queries from the last
    layer to the first: u × L numbers.
    """
    batch, _, length, _ = layers[0][0].k_BhLd.shape
    device = layers[0][0].k_BhLd.device
    unit_L = torch.cat([torch.zeros(1), 1 + torch.arange(length - 1) // num_patches]).to(device)
    rows_uL = (unit_L == torch.arange(int(unit_L[-1]) + 1, device=device)[:, None]).float()
    rows_BuL = (rows_uL / rows_uL.sum(dim=1, keepdim=True)).expand(batch, -1, -1)
    for layer, heads in reversed(layers):
        mixed_BuL = torch.zeros_like(rows_BuL)
        for queries in _chunks(layer, num_patches):
            mixed_BuL += rows_BuL[:, :, queries] @ _weights(layer, heads, queries)
        rows_BuL = RESIDUAL_SHARE * rows_BuL + (1 - RESIDUAL_SHARE) * mixed_BuL
    return _by_key_unit(rows_BuL, num_patches)
