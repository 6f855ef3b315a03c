"""Transformer blocks over tokens, with exact attention in memory linear in the number of tokens.

Shapes: B batch, L tokens, M other tokens that are asked, W wanted tokens, D width, h heads, d width of a head.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

NormPlace = Literal["pre", "post"]


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) by ``scaled_dot_product_attention``."""

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"a width of {width} does not divide into {num_heads} heads")
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, key_BL: Tensor | None = None, memory_BMD: Tensor | None = None) -> Tensor:
        """Attention among tokens, or from them to others, (B, L, D) to (B, L, D).

        Args:
            x_BLD: tokens that ask.
            key_BL: where given, tokens are asked that are True in it alone.
            memory_BMD: tokens that are asked; None = those that ask.
        """
        q, k, v = self.heads(x_BLD) if memory_BMD is None else self._heads_across(x_BLD, memory_BMD)
        mask = None if key_BL is None else key_BL[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        mixed_BhLd = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        output_BLD: Tensor = self.output(mixed_BhLd.transpose(1, 2).flatten(2))
        return output_BLD

    def heads(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, h, L, d) with d = D / h."""
        q, k, v = self.qkv(x_BLD).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _heads_across(self, x_BLD: Tensor, memory_BMD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of some tokens, keys and values of others."""
        width, bias = x_BLD.shape[-1], self.qkv.bias
        q_BLD = functional.linear(x_BLD, self.qkv.weight[:width], bias[:width])
        both_BMD = functional.linear(memory_BMD, self.qkv.weight[width:], bias[width:])
        q = torch.unflatten(q_BLD, -1, (self.num_heads, -1)).transpose(1, 2)
        k, v = torch.unflatten(both_BMD, -1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v


class Block(nn.Module):
    """Attention and an MLP, each with a residual connection.

    Args:
        width: D.
        num_heads: H.
        mlp_ratio: hidden width of the MLP, relative to D.
        norm: ``pre``, layer norm before each branch (stable when deep); ``post``, after each sum (the original).
        dropout: rate on both branches' outputs and on attention.
    """

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: float = 4.0, norm: NormPlace = "pre", dropout: float = 0.0
    ) -> None:
        super().__init__()
        hidden = round(width * mlp_ratio)
        self.norm_place = norm
        self.norm_1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, dropout)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp_input = nn.Linear(width, hidden)
        self.mlp_output = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def attention_input(self, x_BLD: Tensor) -> Tensor:
        """The input of the query, key and value projections."""
        input_BLD: Tensor = self.norm_1(x_BLD) if self.norm_place == "pre" else x_BLD
        return input_BLD

    def mlp(self, x_BLD: Tensor) -> Tensor:
        """The MLP, applied to each token separately."""
        output_BLD: Tensor = self.mlp_output(functional.gelu(self.mlp_input(x_BLD)))
        return output_BLD

    def forward(self, x_BLD: Tensor, key_BL: Tensor | None = None, memory_BMD: Tensor | None = None) -> Tensor:
        """One block, (B, L, D) to (B, L, D); ``key_BL`` and ``memory_BMD`` as in `Attention.forward`."""
        memory_BMD = None if memory_BMD is None else self.attention_input(memory_BMD)
        mixed_BLD = self.dropout(self.attention(self.attention_input(x_BLD), key_BL, memory_BMD))
        if self.norm_place == "pre":
            x_BLD = x_BLD + mixed_BLD
            output_BLD: Tensor = x_BLD + self.dropout(self.mlp(self.norm_2(x_BLD)))
        else:
            x_BLD = self.norm_1(x_BLD + mixed_BLD)
            output_BLD = self.norm_2(x_BLD + self.dropout(self.mlp(x_BLD)))
        return output_BLD


class Transformer(nn.Module):
    """A stack of blocks; with ``pre``, a layer norm follows the last one."""

    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        norm: NormPlace = "pre",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, num_heads, mlp_ratio, norm, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()

    def forward(self, x_BLD: Tensor, key_BL: Tensor | None = None, memory_BMD: Tensor | None = None) -> Tensor:
        """All blocks in turn, (B, L, D) to (B, L, D); every block asks the same memory. See `Attention.forward`."""
        for block in self.blocks:
            x_BLD = block(x_BLD, key_BL, memory_BMD)
        output_BLD: Tensor = self.norm(x_BLD)
        return output_BLD

    def some(self, x_BLD: Tensor, wanted_BW: Tensor, key_BL: Tensor | None = None) -> Tensor:
        """The output of some tokens, (B, W, D): that of `forward` at their indices, without what only others need."""
        *first, last = self.blocks
        for block in first:
            x_BLD = block(x_BLD, key_BL)
        wanted_BWD = x_BLD.gather(1, wanted_BW[:, :, None].expand(-1, -1, x_BLD.shape[2]))
        output_BWD: Tensor = self.norm(last(wanted_BWD, key_BL, x_BLD))
        return output_BWD


def standard_start(module: nn.Module) -> None:
    """ViT's initialisation: truncated normal weights, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
