"""A graph convolutional network over parcels, trained with the masking objective (paper, section 4.6, table 4).

Four layers of H' = GELU(Â H W + b) with Â = D^-½ (A + I) D^-½ (Kipf & Welling 2017), with residual connections from the
second layer on, which keep the layers from averaging all parcels together. The paper specifies only "4-layer GCN".
Edges connect each parcel to those that correlate with it most in the training subjects, or to the nearest ones.

Shapes: B batch, P parcels, T frames, N patches per parcel, D width.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainlm_lightning.evaluation.covariance import correlation
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.masked import Embedding, MaskedModel, Moments, Reconstruction
from brainlm_lightning.model.sizes import check_sizes
from brainlm_lightning.model.vae import mean_over_observed, visible_features


@dataclass(frozen=True)
class GCNConfig:
    """Sizes and graph of the network.

    Attributes:
        patch_frames: frames per patch; must divide the window.
        width: of every layer.
        depth: graph convolutions.
        graph: ``connectivity``, edges weighted by the training subjects' correlations (until `start` has set them there
            are none); ``nearest``, edges of weight 1 to the parcels with the nearest centroids.
        neighbours: edges per parcel, counted before the graph is made symmetric.
    """

    patch_frames: int = 20
    width: int = 256
    depth: int = 4
    graph: Literal["connectivity", "nearest"] = "connectivity"
    neighbours: int = 10

    def __post_init__(self) -> None:
        """Validates the sizes."""
        check_sizes(self)


class GraphConvolutionalNetwork(MaskedModel):
    """Graph convolutions over parcels, and a linear read-out of each parcel's whole series.

    Args:
        geometry: parcels and window.
        config: sizes and graph.

    Raises:
        ValueError: the patch does not divide the window, or ``neighbours`` is not between 1 and P − 1.
    """

    name = "gcn"
    config_type = GCNConfig
    config: GCNConfig
    adjacency_PP: Tensor

    def __init__(self, geometry: Geometry, config: GCNConfig | None = None) -> None:
        super().__init__(geometry, config)
        config = self.config
        if not 0 < config.neighbours < geometry.num_parcels:
            raise ValueError(
                f"neighbours is {config.neighbours}; expected 1 to {geometry.num_parcels - 1}, one less than the "
                f"{geometry.num_parcels} parcels"
            )
        weights_PP = torch.zeros(geometry.num_parcels, geometry.num_parcels)
        if config.graph == "nearest":
            weights_PP = nearest_edges(-torch.cdist(geometry.xyz_mm, geometry.xyz_mm), config.neighbours).float()
        self.register_buffer("adjacency_PP", normalised(weights_PP))
        inputs = geometry.window_frames + self.num_patches
        widths = [inputs] + [config.width] * config.depth
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.head = nn.Linear(config.width, geometry.window_frames)

    def start(self, name: str, moments: Moments, seed: int) -> None:
        """See `MaskedModel.start`; sets the edges of a ``connectivity`` graph from the training covariance."""
        super().start(name, moments, seed)
        if self.config.graph == "connectivity":
            correlation_PP = correlation(moments.covariance_PP)
            edges_PP = nearest_edges(correlation_PP, self.config.neighbours)
            weights_PP = torch.where(edges_PP, correlation_PP.clamp(min=0), 0)
            self.adjacency_PP.copy_(normalised(weights_PP))

    def encode(self, signal_BPT: Tensor, visible_BPN: Tensor) -> Tensor:
        """The last layer, (B, P, D)."""
        x_BPD = visible_features(signal_BPT, visible_BPN)
        for number, layer in enumerate(self.layers):
            mixed_BPD = functional.gelu(layer(self.adjacency_PP.to(x_BPD.dtype) @ x_BPD))
            x_BPD = x_BPD + mixed_BPD if number else mixed_BPD
        return x_BPD

    def forward(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> Reconstruction:
        """See `MaskedModel.forward`."""
        self.check_signal(signal_BPT)
        x_BPD = self.encode(signal_BPT, ~hidden_BPN & observed_BP[:, :, None])
        return Reconstruction(self.head(x_BPD), mean_over_observed(x_BPD, observed_BP))

    def embed(self, signal_BPT: Tensor, observed_BP: Tensor) -> Embedding:
        """See `MaskedModel.embed`: the last layer."""
        self.check_signal(signal_BPT)
        x_BPD = self.encode(signal_BPT, observed_BP[:, :, None].expand(-1, -1, self.num_patches))
        return Embedding(mean_over_observed(x_BPD, observed_BP), x_BPD.where(observed_BP[:, :, None], torch.nan))


def nearest_edges(closeness_PP: Tensor, neighbours: int) -> Tensor:
    """True where one parcel is among the `neighbours` closest of the other; symmetric bool (P, P)."""
    others_PP = closeness_PP.clone().fill_diagonal_(-torch.inf)
    index = others_PP.topk(neighbours, dim=1).indices
    edges_PP = torch.zeros_like(closeness_PP, dtype=torch.bool).scatter_(1, index, True)
    return edges_PP | edges_PP.T


def normalised(weights_PP: Tensor) -> Tensor:
    """D^-½ (A + I) D^-½, where D holds the row sums of A + I (Kipf & Welling 2017, equation 2)."""
    looped_PP = weights_PP + torch.eye(len(weights_PP), dtype=weights_PP.dtype)
    root_P = looped_PP.sum(dim=1).rsqrt()
    return root_P[:, None] * looped_PP * root_P
