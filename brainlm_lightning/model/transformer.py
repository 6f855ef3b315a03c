"""Transformer blocks over tokens, with exact attention in memory linear in the number of tokens.

Shapes: B batch, L tokens, D width, h heads, d width of a head.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

NormPlace = Literal["pre", "post"]


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017) by ``scaled_dot_product_attention``."""

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"a width of {width} does not divide into {num_heads} heads")
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, key_BL: Tensor | None = None) -> Tensor:
        """Self-attention, (B, L, D) to (B, L, D); where ``key_BL`` is given, to tokens that are True in it alone."""
        q, k, v = self.heads(x_BLD)
        mask = None if key_BL is None else key_BL[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        mixed_BhLd = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        output_BLD: Tensor = self.output(mixed_BhLd.transpose(1, 2).flatten(2))
        return output_BLD

    def heads(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, h, L, d) with d = D / h."""
        q, k, v = self.qkv(x_BLD).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
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

    def forward(self, x_BLD: Tensor, key_BL: Tensor | None = None) -> Tensor:
        """One block, (B, L, D) to (B, L, D)."""
        mixed_BLD = self.dropout(self.attention(self.attention_input(x_BLD), key_BL))
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

    def forward(self, x_BLD: Tensor, key_BL: Tensor | None = None) -> Tensor:
        """All blocks in turn, (B, L, D) to (B, L, D); ``key_BL`` as in `Attention.forward`."""
        for block in self.blocks:
            x_BLD = block(x_BLD, key_BL)
        output_BLD: Tensor = self.norm(x_BLD)
        return output_BLD
