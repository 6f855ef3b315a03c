"""The first published BrainLM (5M and 13M): attention with a convolution of the values, layer norm after each branch.

Differences from `model.mae`: every attention head adds a depth-wise convolution of its values along the sequence of
tokens, so that the encoder depends on the order in which it takes them; a layer norm follows the last block although
each block ends in one; the head has two layers; layer norms have an epsilon of 1e-12. The published code calls its
attention "Nyström", but with its published settings it is exact.

Shapes: B batch, P parcels, T frames, N patches per parcel, L tokens (parcel-major), V visible tokens, D width, h heads,
d width of a head.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainlm_lightning.model.decoding import Encoding
from brainlm_lightning.model.embedding import Geometry, SpatialEmbedding, TemporalEmbedding
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.masked import Reconstruction
from brainlm_lightning.model.masking import counter_noise
from brainlm_lightning.model.published.scaled_input import check_input_scale
from brainlm_lightning.model.transformer import Attention, Block, NormPlace, Transformer

EncodingOrder = Literal["natural", "shuffled"]
NORM_EPSILON = 1e-12
LEAKY_SLOPE = 0.1


@dataclass(frozen=True)
class BrainLMConfig(MAEConfig):
    """Sizes and choices of the published model; the defaults are `old_13M`.

    Attributes:
        conv_width: tokens that the convolution of the values spans, an odd number.
        encoding_order: order in which the encoder takes the visible tokens. ``shuffled`` is what the published models
            were trained with: a random order, drawn anew for every window. Here it is drawn once, from ``order_seed``,
            so that a window's embedding is a function of the window. ``natural`` is parcel-major order.
        shuffles: with ``shuffled``, the number of orders whose encodings are averaged.
        order_seed: seed of the orders.
        input_gain: factor on the scaled signal before it enters the model; predictions are divided by it.
        input_offset: added after the gain; subtracted from predictions before they are divided.
    """

    norm: NormPlace = "post"
    spatial_embedding: SpatialEmbedding = "xyz"
    temporal_embedding: TemporalEmbedding = "sinusoidal"
    conv_width: int = 65
    encoding_order: EncodingOrder = "shuffled"
    shuffles: int = 1
    order_seed: int = 0
    input_gain: float = 1.0
    input_offset: float = 0.0

    def __post_init__(self) -> None:
        """Refuses values that no published model can have."""
        if self.conv_width % 2 == 0:
            raise ValueError(f"conv_width is {self.conv_width}, expected an odd number, so that it has a middle")
        if self.encoding_order not in ("natural", "shuffled"):
            raise ValueError(f"encoding_order is {self.encoding_order!r}, expected natural or shuffled")
        if self.shuffles < 1 or (self.encoding_order == "natural" and self.shuffles != 1):
            raise ValueError(
                f"shuffles is {self.shuffles} with {self.encoding_order} order; expected 1, or more if shuffled"
            )
        if self.decoder != "joint":
            raise ValueError(f"decoder is {self.decoder!r}; the published models have a joint one")
        check_input_scale(self.input_gain, self.input_offset)


class ConvAttention(Attention):
    """Self-attention that adds to each head's output a convolution of its values along the sequence."""

    def __init__(self, width: int, num_heads: int, conv_width: int) -> None:
        super().__init__(width, num_heads)
        self.conv = nn.Conv2d(
            num_heads, num_heads, (conv_width, 1), padding=(conv_width // 2, 0), groups=num_heads, bias=False
        )

    def forward(self, x_BLD: Tensor, key_BL: Tensor | None = None, memory_BMD: Tensor | None = None) -> Tensor:
        """See `Attention.forward`; tokens that are False in ``key_BL`` count as 0 in the convolution.

        Raises:
            ValueError: ``memory_BMD`` is given; tokens have neighbours among themselves alone.
        """
        if memory_BMD is not None:
            raise ValueError("the published attention is among tokens themselves; they cannot ask others")
        q, k, v = self.heads(x_BLD)
        mask = None if key_BL is None else key_BL[:, None, None, :]
        mixed_BhLd = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        near_BhLd: Tensor = self.conv(v if key_BL is None else v * key_BL[:, None, :, None])
        output_BLD: Tensor = self.output((mixed_BhLd + near_BhLd).transpose(1, 2).flatten(2))
        return output_BLD


class ScaledPatch(nn.Linear):
    """The projection of patches, after gain and offset."""

    def __init__(self, config: BrainLMConfig) -> None:
        super().__init__(config.patch_frames, config.embed_dim)
        self.gain, self.offset = config.input_gain, config.input_offset

    def forward(self, x_BLS: Tensor) -> Tensor:
        """(B, L, S) to (B, L, D)."""
        return super().forward(x_BLS * self.gain + self.offset)


class Head(nn.Linear):
    """A hidden layer, then the projection to a patch, brought back to the scale of the input."""

    def __init__(self, config: BrainLMConfig) -> None:
        width = config.decoder_embed_dim
        super().__init__(width // 2, config.patch_frames)
        self.hidden = nn.Linear(width, width // 2)
        self.gain, self.offset = config.input_gain, config.input_offset

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, S)."""
        patch_BLS = super().forward(functional.leaky_relu(self.hidden(x_BLD), LEAKY_SLOPE))
        return (patch_BLS - self.offset) / self.gain


class BrainLM(MaskedAutoencoder):
    """The published model, as a `MaskedAutoencoder` with other blocks and another head.

    Args:
        geometry: parcels and window.
        config: sizes and choices.

    Raises:
        ValueError: the patch does not divide the window, or a value of the configuration is impossible.
    """

    name = "brainlm"
    config_type = BrainLMConfig
    config: BrainLMConfig
    starts = ("standard",)
    rank_KL: Tensor

    def __init__(self, geometry: Geometry, config: BrainLMConfig | None = None) -> None:
        super().__init__(geometry, config)
        config = self.config
        self.patch_projection = ScaledPatch(config)
        _as_published(self.encoder, config.embed_dim, config.num_heads, config.conv_width)
        _as_published(self.decoder, config.decoder_embed_dim, config.decoder_num_heads, config.conv_width)
        self.head = Head(config)
        self.register_buffer("rank_KL", _ranks(config, geometry.num_parcels * self.num_patches), persistent=False)

    def encoding_order(self) -> Tensor | None:
        """See `MaskedAutoencoder.encoding_order`: the first of the orders."""
        return None if self.config.encoding_order == "natural" else self.rank_KL[0].argsort()

    def encode_tokens(self, signal_BPT: Tensor, index_BV: Tensor, valid_BV: Tensor) -> Encoding:
        """See `MaskedAutoencoder.encode_tokens`; the mean over the orders, returned in the given order."""
        if self.config.encoding_order == "natural":
            return super().encode_tokens(signal_BPT, index_BV, valid_BV)
        each = [self.encode_ranked(signal_BPT, index_BV, valid_BV, rank_L) for rank_L in self.rank_KL]
        cls_BD = torch.stack([encoding.cls_BD for encoding in each]).mean(0)
        return Encoding(cls_BD, torch.stack([encoding.tokens_BVD for encoding in each]).mean(0), index_BV, valid_BV)

    def reconstruct(
        self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor, wanted_BPN: Tensor
    ) -> Reconstruction:
        """Reconstructs everything: the convolution of the last block needs the neighbours of what is wanted."""
        return self.forward(signal_BPT, hidden_BPN, observed_BP)

    def encode_ranked(self, signal_BPT: Tensor, index_BV: Tensor, valid_BV: Tensor, rank_L: Tensor) -> Encoding:
        """Encodes tokens in the order of their ranks, and returns them in the order in which they were given."""
        place_BV = rank_L[index_BV].masked_fill(~valid_BV, len(rank_L)).argsort(dim=1, stable=True)
        ordered = super().encode_tokens(signal_BPT, index_BV.gather(1, place_BV), valid_BV.gather(1, place_BV))
        back_BVD = place_BV.argsort(dim=1)[:, :, None].expand_as(ordered.tokens_BVD)
        return Encoding(ordered.cls_BD, ordered.tokens_BVD.gather(1, back_BVD), index_BV, valid_BV)


def _as_published(transformer: Transformer, width: int, num_heads: int, conv_width: int) -> None:
    """Gives every block the published attention and epsilon, and the stack its last layer norm."""
    for block in transformer.blocks:
        assert isinstance(block, Block)
        block.attention = ConvAttention(width, num_heads, conv_width)
        block.norm_1.eps = block.norm_2.eps = NORM_EPSILON
    transformer.norm = nn.LayerNorm(width, eps=NORM_EPSILON)


def _ranks(config: BrainLMConfig, num_tokens: int) -> Tensor:
    """The rank of each token in each of the orders, (K, L)."""
    key_K = torch.arange(config.shuffles) + config.order_seed * config.shuffles
    return counter_noise(key_K, num_tokens).argsort(dim=1, stable=True).argsort(dim=1)
