"""A masked autoencoder with factorised attention: one map of parcels by parcels for each window, then over time.

See `tied_block` for the attention and `tied_start` for its initial weights.

Shapes: B batch, P parcels, N patches per parcel, S frames per patch, T frames, D width. In a mask True = hidden.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from brainlm_lightning.model.embedding import Geometry, PositionEmbedding
from brainlm_lightning.model.masked import Embedding, MaskedModel, Moments, Reconstruction
from brainlm_lightning.model.sizes import check_sizes
from brainlm_lightning.model.tied_block import TiedBlock
from brainlm_lightning.model.tied_start import tied_start
from brainlm_lightning.model.transformer import standard_start


@dataclass(frozen=True)
class TiedConfig:
    """Sizes of a `TiedAutoencoder`.

    Attributes:
        patch_frames: frames per patch; must divide the window.
        embed_dim: width.
        depth: blocks.
        num_heads: attention heads of each of a block's two attentions.
        mlp_ratio: hidden width of each block's MLP, relative to the block's width.
        tied: one map of parcels by parcels for each window; else one for each patch, of what the patch shows alone.
    """

    patch_frames: int = 20
    embed_dim: int = 256
    depth: int = 4
    num_heads: int = 4
    mlp_ratio: float = 2.0
    tied: bool = True

    def __post_init__(self) -> None:
        """Validates sizes."""
        check_sizes(self)


class TiedAutoencoder(MaskedModel):
    """Reconstructs a window by blocks that see hidden tokens as positions without a signal.

    There is no decoder and no CLS: its summary of a window is the mean of the visible tokens' states.

    Args:
        geometry: parcels and window.
        config: sizes.

    Raises:
        ValueError: the patch does not divide the window.
    """

    name = "tied_mae"
    config_type = TiedConfig
    config: TiedConfig
    starts: ClassVar[tuple[str, ...]] = ("kernel", "standard")
    has_tokens = True

    def __init__(self, geometry: Geometry, config: TiedConfig | None = None) -> None:
        super().__init__(geometry, config)
        config = self.config
        width = config.embed_dim
        self.patch_projection = nn.Linear(config.patch_frames, width)
        self.position = PositionEmbedding(geometry, self.num_patches, width)
        self.visible_D = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(
            TiedBlock(width, config.num_heads, config.mlp_ratio, config.tied) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.patch_frames)
        self.apply(standard_start)

    def start(self, name: str, moments: Moments, seed: int) -> None:
        """See `MaskedModel.start`: ``kernel`` (`tied_start`: no plateau at the beginning) or ``standard``."""
        super().start(name, moments, seed)
        if name == "kernel":
            tied_start(self, moments, seed)

    def states(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> tuple[Tensor, Tensor]:
        """The last states of all tokens, (B, P, N, D), and which are visible, (B, P, N)."""
        self.check_signal(signal_BPT)
        visible_BPN = observed_BP[:, :, None] & ~hidden_BPN
        return self.transformed(self.contents(signal_BPT, visible_BPN), visible_BPN, observed_BP), visible_BPN

    def contents(self, signal_BPT: Tensor, visible_BPN: Tensor) -> Tensor:
        """What tokens hold beside their positions, (B, P, N, D): their signal, or 0 where it is not visible."""
        patches_BPNS = self.patches(signal_BPT).where(visible_BPN[..., None], 0)
        contents_BPND: Tensor = self.patch_projection(patches_BPNS) + self.visible_D
        return contents_BPND.where(visible_BPN[..., None], 0)

    def transformed(self, contents_BPND: Tensor, visible_BPN: Tensor, observed_BP: Tensor) -> Tensor:
        """Tokens after all blocks, (B, P, N, D)."""
        x_BPND = contents_BPND + self.position()
        for block in self.blocks:
            x_BPND = block(x_BPND, visible_BPN, observed_BP)
        states_BPND: Tensor = self.norm(x_BPND)
        return states_BPND

    @staticmethod
    def summary(states_BPND: Tensor, visible_BPN: Tensor) -> Tensor:
        """The mean of the visible tokens' states, (B, D)."""
        total_BD = states_BPND.where(visible_BPN[..., None], 0).sum(dim=(1, 2))
        return total_BD / visible_BPN.sum(dim=(1, 2)).clamp(min=1)[:, None]

    def patches(self, signal_BPT: Tensor) -> Tensor:
        """(B, P, N, S)."""
        return torch.unflatten(signal_BPT, 2, (self.num_patches, -1))

    def tokens(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> tuple[Tensor, Tensor]:
        """See `MaskedModel.tokens`."""
        states_BPND, visible_BPN = self.states(signal_BPT, hidden_BPN, observed_BP)
        return self.summary(states_BPND, visible_BPN), states_BPND.where(visible_BPN[..., None], 0)

    def forward(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> Reconstruction:
        """See `MaskedModel.forward`."""
        states_BPND, visible_BPN = self.states(signal_BPT, hidden_BPN, observed_BP)
        return Reconstruction(self.head(states_BPND).flatten(2), self.summary(states_BPND, visible_BPN))

    def embed(self, signal_BPT: Tensor, observed_BP: Tensor) -> Embedding:
        """See `MaskedModel.embed`: a parcel's embedding is the mean of its states."""
        nothing_BPN = torch.zeros_like(observed_BP)[:, :, None].expand(-1, -1, self.num_patches)
        summary_BD, states_BPND = self.tokens(signal_BPT, nothing_BPN, observed_BP)
        return Embedding(summary_BD, states_BPND.mean(dim=2).where(observed_BP[:, :, None], torch.nan))
