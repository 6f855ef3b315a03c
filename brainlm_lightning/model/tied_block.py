"""Blocks with factorised attention: among parcels, with one map for each window, then among the patches of a parcel.

In the paper's model a token compares its patch of 20 frames with other patches; what two parcels have in common over
the window, no layer sees. Here the logit of a pair of parcels is the mean over all patches that are visible ("tied
rows", Rao et al. 2021), so that a head can weigh parcels by how they vary together *in this window*. A layer takes
P² · N + N² · P products in place of (P · N)².

Shapes: B batch, P parcels, N patches per parcel, D width, h heads, d width of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainlm_lightning.model.transformer import Attention

TINY = torch.finfo(torch.float32).tiny
LITTLE = -4.0  # log of the weight that the state of a hidden token has beside visible ones, before training


class ParcelAttention(nn.Module):
    """Attention among parcels, with one map for all patches of a window, or one for each.

    A map says how much a parcel takes of each other one, and at every patch it takes of those that are visible there.
    States of hidden tokens count as well, with a small weight that each head learns.

    Args:
        width: D.
        num_heads: h.
        tied: one map, whose logits are means over the visible patches; else each patch has its own.
    """

    def __init__(self, width: int, num_heads: int, tied: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.tied = tied
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.hidden_weight_h = nn.Parameter(torch.full((num_heads,), LITTLE))

    def forward(self, x_BPND: Tensor, visible_BPN: Tensor, observed_BP: Tensor) -> Tensor:
        """(B, P, N, D) to the same shape.

        Args:
            x_BPND: states of all tokens.
            visible_BPN: False where hidden or unobserved.
            observed_BP: False where a recording has no data of a parcel.
        """
        qkv = torch.unflatten(self.qkv(x_BPND), -1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(3, 0, 4, 1, 2, 5)  # each (B, h, P, N, d)
        visible = visible_BPN[:, None].to(q.dtype)
        doubt = self.hidden_weight_h.exp()[:, None, None] * (observed_BP[:, None, :, None] & ~visible_BPN[:, None])
        weight_BhPN = (visible + doubt).float()
        mixed = self._by_window(q, k, v, visible, weight_BhPN) if self.tied else _by_patch(q, k, v, weight_BhPN)
        output_BPND: Tensor = self.output(mixed.permute(0, 2, 3, 1, 4).flatten(3).to(x_BPND.dtype))
        return output_BPND

    def _by_window(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor, weight_BhPN: Tensor) -> Tensor:
        map_BhPP = self._map(q, k, visible).exp()
        taken = torch.matmul(map_BhPP.to(v.dtype), (v * weight_BhPN[..., None].to(v.dtype)).flatten(3))
        total = torch.matmul(map_BhPP, weight_BhPN).clamp(min=TINY)
        return torch.unflatten(taken, 3, v.shape[3:]) / total[..., None]

    @staticmethod
    def _map(q: Tensor, k: Tensor, visible: Tensor) -> Tensor:
        """Logits, (B, h, P, P) float32, less the largest of a row: means over the patches at which a key is visible."""
        count_B1P = visible.sum(dim=3).clamp(min=1)
        product = torch.matmul(q.flatten(3), (k * visible[..., None]).flatten(3).transpose(2, 3))
        logits_BhPP: Tensor = (product / count_B1P[:, :, None, :]).float() / q.shape[-1] ** 0.5
        return logits_BhPP - logits_BhPP.amax(dim=3, keepdim=True).detach()


def _by_patch(q: Tensor, k: Tensor, v: Tensor, weight_BhPN: Tensor) -> Tensor:
    """Attention among the parcels of each patch alone, (B, h, P, N, d)."""
    bias_BhN1P = weight_BhPN.clamp(min=TINY).log().transpose(2, 3)[:, :, :, None].to(q.dtype)
    q, k, v = q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias_BhN1P).transpose(2, 3)


class TiedBlock(nn.Module):
    """Attention among parcels, attention among a parcel's patches, and an MLP, each with a residual connection."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, tied: bool) -> None:
        super().__init__()
        self.norm_parcels, self.norm_time, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.parcels = ParcelAttention(width, num_heads, tied)
        self.time = Attention(width, num_heads)
        self.mlp_input = nn.Linear(width, round(width * mlp_ratio))
        self.mlp_output = nn.Linear(round(width * mlp_ratio), width)

    def forward(self, x_BPND: Tensor, visible_BPN: Tensor, observed_BP: Tensor) -> Tensor:
        """One block, (B, P, N, D) to the same shape; see `ParcelAttention.forward`."""
        x_BPND = x_BPND + self.parcels(self.norm_parcels(x_BPND), visible_BPN, observed_BP)
        x_BPND = x_BPND + self.time(self.norm_time(x_BPND).flatten(0, 1)).reshape(x_BPND.shape)
        output_BPND: Tensor = x_BPND + self.mlp_output(functional.gelu(self.mlp_input(self.norm_mlp(x_BPND))))
        return output_BPND
