"""The masked autoencoder of parcel time series (paper, section 3.2 and figure 2).

Shapes: B batch, P parcels, T frames, N patches per parcel, S frames per patch, L tokens (parcel-major, L = P·N),
V visible tokens, W wanted tokens, D width. In a mask True = hidden.
"""

from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from torch import Tensor, nn

from brainlm_lightning.model.decoding import DecoderName, Encoding, cross, index_of, joint, with_cls
from brainlm_lightning.model.embedding import Geometry, PositionEmbedding, SpatialEmbedding, TemporalEmbedding
from brainlm_lightning.model.kernel_start import kernel_start
from brainlm_lightning.model.masked import Embedding, MaskedModel, Moments, Reconstruction
from brainlm_lightning.model.sizes import check_sizes
from brainlm_lightning.model.transformer import NormPlace, Transformer, standard_start


@dataclass(frozen=True)
class MAEConfig:
    """Sizes and choices of the masked autoencoder; the defaults are the paper's model of 13 million parameters.

    Attributes:
        patch_frames: frames per patch; must divide the window.
        embed_dim: width of the encoder.
        depth: encoder blocks.
        num_heads: attention heads of an encoder block.
        decoder_embed_dim: width of the decoder.
        decoder_depth: decoder blocks.
        decoder_num_heads: attention heads of a decoder block.
        mlp_ratio: hidden width of each block's MLP, relative to the block's width.
        norm: layer norm before (``pre``) or after (``post``) each branch.
        spatial_embedding: ``learnable``, one vector per parcel, or ``xyz``, a linear map of the centroid.
        temporal_embedding: ``learnable`` or ``sinusoidal``.
        dropout: rate on attention and on both branches of each block.
        decoder: ``joint`` (paper): all tokens attend to each other; ``cross``: hidden tokens ask visible ones alone,
            which is faster, and much so where a step decodes a share of them (``masking.decoded_share``).
    """

    patch_frames: int = 20
    embed_dim: int = 512
    depth: int = 4
    num_heads: int = 4
    decoder_embed_dim: int = 512
    decoder_depth: int = 2
    decoder_num_heads: int = 4
    mlp_ratio: float = 2.0
    norm: NormPlace = "pre"
    spatial_embedding: SpatialEmbedding = "learnable"
    temporal_embedding: TemporalEmbedding = "learnable"
    dropout: float = 0.0
    decoder: DecoderName = "joint"

    def __post_init__(self) -> None:
        """Validates sizes and choices."""
        check_sizes(self)
        if self.decoder not in get_args(DecoderName):
            raise ValueError(f"decoder is {self.decoder!r}; expected joint or cross")


class MaskedAutoencoder(MaskedModel):
    """Encodes the visible patches of a window and reconstructs all of it.

    Args:
        geometry: parcels and window.
        config: sizes and choices.

    Raises:
        ValueError: the patch does not divide the window.
    """

    name = "mae"
    config_type = MAEConfig
    config: MAEConfig
    starts: ClassVar[tuple[str, ...]] = ("kernel", "standard")
    has_tokens = True

    def __init__(self, geometry: Geometry, config: MAEConfig | None = None) -> None:
        super().__init__(geometry, config)
        config = self.config
        kinds = (config.spatial_embedding, config.temporal_embedding)
        self.patch_projection = nn.Linear(config.patch_frames, config.embed_dim)
        self.position = PositionEmbedding(geometry, self.num_patches, config.embed_dim, *kinds)
        self.cls_D = nn.Parameter(torch.randn(config.embed_dim) * 0.02)
        self.encoder = Transformer(
            config.embed_dim, config.depth, config.num_heads, config.mlp_ratio, config.norm, config.dropout
        )
        width = config.decoder_embed_dim
        self.decoder_projection = nn.Linear(config.embed_dim, width)
        self.decoder_position = PositionEmbedding(geometry, self.num_patches, width, *kinds)
        self.mask_token_D = nn.Parameter(torch.randn(width) * 0.02)
        self.decoder = Transformer(
            width, config.decoder_depth, config.decoder_num_heads, config.mlp_ratio, config.norm, config.dropout
        )
        self.head = nn.Linear(width, config.patch_frames)
        self.apply(standard_start)

    def start(self, name: str, moments: Moments, seed: int) -> None:
        """See `MaskedModel.start`: ``kernel`` (`kernel_start`: no plateau at the beginning) or ``standard``."""
        super().start(name, moments, seed)
        if name == "kernel":
            kernel_start(self, moments, seed)

    def encoding_order(self) -> Tensor | None:
        """Indices of all tokens in the order in which the encoder takes them, (L,); None = natural order."""
        return None

    @property
    def num_tokens(self) -> int:
        """L."""
        return self.geometry.num_parcels * self.num_patches

    def encode(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> Encoding:
        """Encodes the tokens that are neither hidden nor in an unobserved parcel.

        Args:
            signal_BPT: scaled signal.
            hidden_BPN: True = hidden.
            observed_BP: False where a recording has no data of a parcel.
        """
        index_BV, valid_BV = index_of((observed_BP[:, :, None] & ~hidden_BPN).flatten(1))
        return self.encode_tokens(signal_BPT, index_BV, valid_BV)

    def encode_tokens(self, signal_BPT: Tensor, index_BV: Tensor, valid_BV: Tensor) -> Encoding:
        """Encodes the tokens at some indices, in their order; see `Encoding`."""
        patches_BLS = torch.unflatten(signal_BPT, 2, (self.num_patches, -1)).flatten(1, 2)
        visible_BVS = patches_BLS.gather(1, index_BV[:, :, None].expand(-1, -1, patches_BLS.shape[2]))
        # Padding has an attention weight of 0, but 0 · NaN is NaN, so hidden values are set to 0.
        visible_BVS = visible_BVS.where(valid_BV[:, :, None], 0)
        tokens_BVD = self.patch_projection(visible_BVS) + self.position().flatten(0, 1)[index_BV]
        output_BVD = self.encoder(*with_cls(tokens_BVD, self.cls_D, valid_BV))
        return Encoding(output_BVD[:, 0], output_BVD[:, 1:], index_BV, valid_BV)

    def tokens(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> tuple[Tensor, Tensor]:
        """See `MaskedModel.tokens`: the encoder's output."""
        self.check_signal(signal_BPT)
        encoding = self.encode(signal_BPT, hidden_BPN, observed_BP)
        known_BVD = encoding.tokens_BVD.where(encoding.valid_BV[:, :, None], 0)
        tokens_BLD = known_BVD.new_zeros(len(known_BVD), hidden_BPN[0].numel(), known_BVD.shape[2])
        index_BVD = encoding.index_BV[:, :, None].expand_as(known_BVD)
        tokens_BLD = tokens_BLD.scatter_add(1, index_BVD, known_BVD)  # padding adds 0 at whatever index it has
        return encoding.cls_BD, torch.unflatten(tokens_BLD, 1, hidden_BPN.shape[1:])

    def decode(self, encoding: Encoding, observed_BP: Tensor, wanted_BPN: Tensor | None = None) -> Tensor:
        """Predicts every patch from the encoded tokens, or wanted ones and 0 elsewhere, (B, P, T)."""
        wanted_BW, valid_BW = (None, None) if wanted_BPN is None else index_of(wanted_BPN.flatten(1))
        if self.config.decoder == "cross":
            output_BWD = cross(self, encoding, wanted_BW)
        else:
            key_BL = observed_BP.repeat_interleave(self.num_patches, dim=1)
            output_BWD = joint(self, encoding, key_BL, wanted_BW)
        prediction_BLS: Tensor = self.head(output_BWD)
        if wanted_BW is not None and valid_BW is not None:
            known_BWS = prediction_BLS.where(valid_BW[:, :, None], 0)
            prediction_BLS = known_BWS.new_zeros(len(known_BWS), self.num_tokens, known_BWS.shape[2])
            prediction_BLS = prediction_BLS.scatter(1, wanted_BW[:, :, None].expand_as(known_BWS), known_BWS)
        return torch.unflatten(prediction_BLS.flatten(1), 1, (self.geometry.num_parcels, -1))

    def forward(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> Reconstruction:
        """See `MaskedModel.forward`."""
        self.check_signal(signal_BPT)
        encoding = self.encode(signal_BPT, hidden_BPN, observed_BP)
        return Reconstruction(self.decode(encoding, observed_BP), encoding.cls_BD)

    def reconstruct(
        self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor, wanted_BPN: Tensor
    ) -> Reconstruction:
        """See `MaskedModel.reconstruct`."""
        self.check_signal(signal_BPT)
        encoding = self.encode(signal_BPT, hidden_BPN, observed_BP)
        return Reconstruction(self.decode(encoding, observed_BP, wanted_BPN), encoding.cls_BD)

    def embed(self, signal_BPT: Tensor, observed_BP: Tensor) -> Embedding:
        """See `MaskedModel.embed`: a parcel's embedding is the mean of its encoded tokens."""
        self.check_signal(signal_BPT)
        hidden_BPN = torch.zeros_like(observed_BP)[:, :, None].expand(-1, -1, self.num_patches)
        encoding = self.encode(signal_BPT, hidden_BPN, observed_BP)
        parcel_BVD = (encoding.index_BV // self.num_patches)[:, :, None].expand_as(encoding.tokens_BVD)
        known_BVD = encoding.tokens_BVD.where(encoding.valid_BV[:, :, None], 0)
        sum_BPD = known_BVD.new_zeros(*observed_BP.shape, known_BVD.shape[2]).scatter_add(1, parcel_BVD, known_BVD)
        mean_BPD = (sum_BPD / self.num_patches).where(observed_BP[:, :, None], torch.nan)
        return Embedding(encoding.cls_BD, mean_BPD)


def lengthened(model: MaskedAutoencoder, window_frames: int) -> MaskedAutoencoder:
    """The same model for longer windows, with all its tensors: what it makes of a context stays the same.

    A sinusoidal temporal embedding goes on as it began. A learnable one of a further patch starts as that of the last
    patch: the decoder cannot tell the two apart until it has learnt to, so the model must be trained on such windows.

    Args:
        model: of windows that are at most as long.
        window_frames: T.

    Raises:
        ValueError: the patch does not divide the window, or the model has further parts that are of its window.
    """
    if type(model) is not MaskedAutoencoder:
        raise ValueError(
            f"a {type(model).__name__} of {model.geometry.window_frames} frames cannot be made one of {window_frames}; "
            "only a MaskedAutoencoder can. Set window_frames to that of its pretraining"
        )
    with torch.random.fork_rng(devices=[]):
        longer = MaskedAutoencoder(Geometry(model.geometry.xyz_mm, window_frames), model.config)
    tensors, continued = dict(model.state_dict()), longer.state_dict()
    for name in ("position.temporal_ND", "decoder_position.temporal_ND"):
        known_ND = tensors[name]
        if model.config.temporal_embedding == "learnable":
            continued[name] = known_ND[-1:].expand(longer.num_patches, -1).clone()
        tensors[name] = torch.cat([known_ND, continued[name][len(known_ND) :]])
    longer.load_state_dict(tensors)
    return longer.train(model.training)
