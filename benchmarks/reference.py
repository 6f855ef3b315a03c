"""A plain masked autoencoder, computed as in the field's public code, as a reference for speed and memory.

Attention stores the whole matrix, layer norm follows each sum, visible tokens are gathered in the random order of the
masking noise, and everything is float32. The public code's convolution over values and its dropout are left out, which
makes the reference faster.
Tokens, widths, blocks and heads are those of `MAEConfig`.

Shapes: B batch, P parcels, T frames, S frames per patch, L tokens, V visible tokens, D width, h heads, d width of
a head.
"""

import torch
from torch import Tensor, nn

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig


class DenseAttention(nn.Module):
    """Softmax attention that materialises scores and probabilities."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        q, k, v = (self._heads(linear(x_BLD)) for linear in (self.query, self.key, self.value))
        scores_BhLL = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        mixed_BhLd = scores_BhLL.softmax(dim=-1) @ v
        output_BLD: Tensor = self.output(mixed_BhLd.transpose(1, 2).flatten(2))
        return output_BLD

    def _heads(self, x_BLD: Tensor) -> Tensor:
        return torch.unflatten(x_BLD, -1, (self.num_heads, -1)).transpose(1, 2)


class PostNormBlock(nn.Module):
    """Attention and perceptron, each followed by the norm of the sum."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attention = DenseAttention(width, num_heads)
        self.norm_1 = nn.LayerNorm(width)
        hidden = round(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.norm_2 = nn.LayerNorm(width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        x_BLD = self.norm_1(x_BLD + self.attention(x_BLD))
        output_BLD: Tensor = self.norm_2(x_BLD + self.mlp(x_BLD))
        return output_BLD


class PlainAutoencoder(nn.Module):
    """Encodes the visible patches in shuffled order, decodes all of them."""

    def __init__(self, geometry: Geometry, config: MAEConfig) -> None:
        super().__init__()
        width, decoder_width = config.embed_dim, config.decoder_embed_dim
        self.patch_frames = config.patch_frames
        num_patches = geometry.window_frames // config.patch_frames
        self.register_buffer("xyz_L3", geometry.xyz_mm.float().repeat_interleave(num_patches, dim=0))
        self.register_buffer("patch_L", torch.arange(num_patches).repeat(geometry.num_parcels))
        self.patch_projection = nn.Linear(config.patch_frames, width)
        self.position = nn.ModuleList([nn.Linear(3, width), nn.Embedding(num_patches, width)])
        self.cls_D = nn.Parameter(torch.randn(width) * 0.02)
        self.encoder = _blocks(config.depth, width, config.num_heads, config.mlp_ratio)
        self.decoder_projection = nn.Linear(width, decoder_width)
        self.decoder_position = nn.ModuleList([nn.Linear(3, decoder_width), nn.Embedding(num_patches, decoder_width)])
        self.mask_token_D = nn.Parameter(torch.randn(decoder_width) * 0.02)
        self.decoder = _blocks(config.decoder_depth, decoder_width, config.decoder_num_heads, config.mlp_ratio)
        self.head = nn.Linear(decoder_width, config.patch_frames)

    def forward(self, signal_BPT: Tensor, noise_BL: Tensor, num_visible: int) -> tuple[Tensor, Tensor]:
        """Reconstructs a window; the tokens with the lowest noise are visible.

        Returns:
            The prediction (B, L, S), and which tokens were hidden (B, L).
        """
        patches_BLS = torch.unflatten(signal_BPT, 2, (-1, self.patch_frames)).flatten(1, 2)
        tokens_BLD = self.patch_projection(patches_BLS) + self._positions(self.position)
        order_BL = noise_BL.argsort(dim=1)
        restore_BL = order_BL.argsort(dim=1)
        visible_BVD = _take(tokens_BLD, order_BL[:, :num_visible])
        encoded_BVD = self.decoder_projection(self.encoder(_with_cls(visible_BVD, self.cls_D)))
        masked_BLD = self.mask_token_D.expand(len(noise_BL), noise_BL.shape[1] - num_visible, -1)
        full_BLD = _take(torch.cat([encoded_BVD[:, 1:], masked_BLD], dim=1), restore_BL)
        full_BLD = full_BLD + self._positions(self.decoder_position)
        decoded_BLD = self.decoder(torch.cat([encoded_BVD[:, :1], full_BLD], dim=1))
        return self.head(decoded_BLD[:, 1:]), restore_BL >= num_visible

    def _positions(self, position: nn.ModuleList) -> Tensor:
        space, time = position
        position_LD: Tensor = space(self.xyz_L3) + time(self.patch_L)
        return position_LD


def plain_loss(prediction_BLS: Tensor, signal_BPT: Tensor, hidden_BL: Tensor) -> Tensor:
    """Mean squared error over hidden patches."""
    patches_BLS = torch.unflatten(signal_BPT, 2, (-1, prediction_BLS.shape[2])).flatten(1, 2)
    error_BL = (prediction_BLS - patches_BLS).square().mean(dim=2)
    return torch.sum(error_BL * hidden_BL) / hidden_BL.sum()


def _blocks(depth: int, width: int, num_heads: int, mlp_ratio: float) -> nn.Sequential:
    return nn.Sequential(*(PostNormBlock(width, num_heads, mlp_ratio) for _ in range(depth)))


def _with_cls(tokens_BLD: Tensor, cls_D: Tensor) -> Tensor:
    return torch.cat([cls_D.expand(len(tokens_BLD), 1, -1), tokens_BLD], dim=1)


def _take(tokens_BLD: Tensor, index_BV: Tensor) -> Tensor:
    return tokens_BLD.gather(1, index_BV[:, :, None].expand(-1, -1, tokens_BLD.shape[2]))
