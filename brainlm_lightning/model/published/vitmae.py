"""The second published BrainLM (111M and 650M): a masked autoencoder of images, whose rows are parcels sorted by y.

A token is a square of 16 parcels and 16 frames (14 in the 650M model), so none belongs to a parcel: what asks for the
embedding or the attention of a parcel is refused.

Shapes: B batch, P parcels, T frames, N patches of a parcel, L patches of the image, V visible ones, D width, X pixels
of a patch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.masked import Embedding, MaskedModel, Reconstruction
from brainlm_lightning.model.published.image import CHANNELS, ImageGrid
from brainlm_lightning.model.published.scaled_input import check_input_scale
from brainlm_lightning.model.transformer import Block, Transformer

NORM_EPSILON = 1e-12
LARGEST_VALUE = 5.6430855  # what the published tutorial divides its data by


@dataclass(frozen=True)
class VitMAEConfig:
    """Sizes of the published model; the defaults are `vitmae_111M`.

    Attributes:
        patch_frames: frames of a patch of a parcel, in which masks are given; an image patch is hidden as a whole if
            any value in it is hidden.
        image_side: pixels of the image in either direction.
        image_patch: pixels of an image patch in either direction.
        embed_dim: width of the encoder.
        depth: encoder blocks.
        num_heads: attention heads of an encoder block.
        mlp_ratio: hidden width of each block's MLP, relative to the block's width.
        decoder_embed_dim: width of the decoder.
        decoder_depth: decoder blocks.
        decoder_num_heads: attention heads of a decoder block.
        input_gain: factor on the scaled signal before it enters the image; predictions are divided by it.
        input_offset: added after the gain; subtracted from predictions before they are divided.
    """

    patch_frames: int = 20
    image_side: int = 432
    image_patch: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    input_gain: float = 1 / LARGEST_VALUE
    input_offset: float = 0.0

    def __post_init__(self) -> None:
        """Refuses an impossible gain or offset."""
        check_input_scale(self.input_gain, self.input_offset)


class VitMAE(MaskedModel):
    """The published model; see the module.

    Args:
        geometry: parcels and window.
        config: sizes and choices.

    Raises:
        ValueError: the window does not fit the image.
    """

    name = "vitmae"
    config_type = VitMAEConfig
    config: VitMAEConfig
    has_parcels = False
    position_LD: Tensor
    decoder_position_LD: Tensor

    def __init__(self, geometry: Geometry, config: VitMAEConfig | None = None) -> None:
        super().__init__(geometry, config)
        config = self.config
        self.grid = ImageGrid.of(geometry.xyz_mm, geometry.window_frames, config.image_side, config.image_patch)
        tokens, width, pixels = self.grid.across**2, config.decoder_embed_dim, CHANNELS * config.image_patch**2
        self.patch_projection = nn.Linear(pixels, config.embed_dim)
        self.register_buffer("position_LD", torch.zeros(1 + tokens, config.embed_dim))  # CLS first; never trained
        self.cls_D = nn.Parameter(torch.zeros(config.embed_dim))
        self.encoder = _blocks(config.embed_dim, config.depth, config.num_heads, config.mlp_ratio)
        self.decoder_projection = nn.Linear(config.embed_dim, width)
        self.register_buffer("decoder_position_LD", torch.zeros(1 + tokens, width))
        self.mask_token_D = nn.Parameter(torch.zeros(width))
        self.decoder = _blocks(width, config.decoder_depth, config.decoder_num_heads, config.mlp_ratio)
        self.head = nn.Linear(width, pixels)

    def encode_image(self, signal_BPT: Tensor, visible_L: Tensor) -> Tensor:
        """Encodes the same image patches of every window, (B, 1 + V, D), CLS first.

        Args:
            signal_BPT: scaled signal.
            visible_L: indices of the patches, rising.
        """
        own_BPT = signal_BPT * self.config.input_gain + self.config.input_offset
        pixels_BVX = self.grid.patches(own_BPT)[:, visible_L]
        tokens_BVD = self.patch_projection(pixels_BVX.repeat(1, 1, CHANNELS)) + self.position_LD[1:][visible_L]
        cls_B1D = (self.cls_D + self.position_LD[0]).expand(len(tokens_BVD), 1, -1)
        encoded: Tensor = self.encoder(torch.cat([cls_B1D, tokens_BVD], dim=1))
        return encoded

    def decode_image(self, encoded_BVD: Tensor, visible_L: Tensor) -> Tensor:
        """Predicts the window from encoded patches, (B, P, T): the mean of the three channels, scaled as the input."""
        projected_BVD = self.decoder_projection(encoded_BVD)
        full_BLD = self.mask_token_D.expand(len(encoded_BVD), self.grid.across**2, -1).clone()
        full_BLD[:, visible_L] = projected_BVD[:, 1:]
        tokens_BLD = torch.cat([projected_BVD[:, :1], full_BLD], dim=1) + self.decoder_position_LD
        pixels_BLX = torch.unflatten(self.head(self.decoder(tokens_BLD)[:, 1:]), 2, (-1, CHANNELS)).mean(3)
        return (self.grid.signal(pixels_BLX) - self.config.input_offset) / self.config.input_gain

    def forward(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> Reconstruction:
        """See `MaskedModel.forward`; an image patch with any hidden value is hidden as a whole."""
        self.check_signal(signal_BPT)
        hidden_BPT = hidden_BPN.repeat_interleave(self.config.patch_frames, dim=2)
        hidden_BL = self.grid.patches(hidden_BPT.to(signal_BPT), 0.0).amax(2) > 0
        known_BPT = signal_BPT.where(observed_BP[:, :, None] & ~hidden_BPT, 0)
        each = [self._reconstructed(known_BPT[row : row + 1], hidden_BL[row]) for row in range(len(known_BPT))]
        return Reconstruction(torch.cat([one for one, _ in each]), torch.cat([cls for _, cls in each]))

    def _reconstructed(self, signal_1PT: Tensor, hidden_L: Tensor) -> tuple[Tensor, Tensor]:
        visible_L = (~hidden_L).nonzero()[:, 0]
        encoded_1VD = self.encode_image(signal_1PT, visible_L)
        return self.decode_image(encoded_1VD, visible_L), encoded_1VD[:, 0]

    def embed(self, signal_BPT: Tensor, observed_BP: Tensor) -> Embedding:
        """Refuses: there is no embedding of a parcel.

        Raises:
            ValueError: always, with the reason.
        """
        side = self.config.image_patch
        raise ValueError(
            f"a {self.name} has no embedding of a parcel, and no attention between parcels: each of its tokens is a "
            f"square of {side} parcels, neighbours in y alone, by {side} frames; use the embeddings cls, mean or "
            "mean_std, or a model of the first family (old_13M)"
        )

    def tokens(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> tuple[Tensor, Tensor]:
        """See `MaskedModel.tokens`, with nothing hidden: each parcel and patch has the state of the squares it is in.

        Parcels of one square share its state, so only moments over all of them mean anything.
        """
        self.check_signal(signal_BPT)
        all_L = torch.arange(self.grid.across**2, device=signal_BPT.device)
        encoded_BLD = self.encode_image(signal_BPT.where(observed_BP[:, :, None], 0), all_L)
        squares_BRCD = torch.unflatten(encoded_BLD[:, 1:], 1, (self.grid.across, self.grid.across))
        above, before = self.grid.margins
        side = self.config.image_patch
        row_P = (above + self.grid.order_P.argsort()) // side
        column_T = (before + torch.arange(self.grid.num_frames)) // side
        share_TC = nn.functional.one_hot(column_T, self.grid.across).to(squares_BRCD)
        share_NC = torch.unflatten(share_TC, 0, (self.num_patches, -1)).mean(1)
        states_BPND = torch.einsum("nc,brcd->brnd", share_NC, squares_BRCD)[:, row_P]
        return encoded_BLD[:, 0], states_BPND * observed_BP[:, :, None, None]


def _blocks(width: int, depth: int, num_heads: int, mlp_ratio: float) -> Transformer:
    """Blocks with the published epsilon."""
    transformer = Transformer(width, depth, num_heads, mlp_ratio, "pre")
    for block in transformer.blocks:
        assert isinstance(block, Block)
        block.norm_1.eps = block.norm_2.eps = NORM_EPSILON
    transformer.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
    return transformer
