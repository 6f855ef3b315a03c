"""Position embeddings of tokens: spatial and temporal (paper, figure 2B).

Shapes: P parcels, N patches per parcel, D width.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

SpatialEmbedding = Literal["learnable", "xyz"]
TemporalEmbedding = Literal["learnable", "sinusoidal"]


@dataclass(frozen=True)
class Geometry:
    """What the data determine about a model: the parcels with their coordinates, and the length of a window.

    Attributes:
        xyz_mm: (P, 3) centroids in millimetres (MNI).
        window_frames: frames of a window, T.
    """

    xyz_mm: Tensor
    window_frames: int

    @property
    def num_parcels(self) -> int:
        """P."""
        return len(self.xyz_mm)

    def patches(self, patch_frames: int) -> int:
        """N, the number of patches per parcel in a window.

        Raises:
            ValueError: the window is not a whole number of patches.
        """
        if self.window_frames % patch_frames:
            raise ValueError(
                f"a window of {self.window_frames} frames does not divide into patches of {patch_frames}; "
                "choose a patch_frames or window_frames that does"
            )
        return self.window_frames // patch_frames


def sinusoidal(count: int, width: int) -> Tensor:
    """The fixed sine and cosine table of Vaswani et al. 2017, (count, width)."""
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(count)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]


class PositionEmbedding(nn.Module):
    """The sum of a spatial and a temporal embedding for every token.

    Args:
        geometry: parcels and window.
        num_patches: N.
        width: D.
        spatial: ``learnable``, a vector for each parcel (paper); ``xyz``, a linear map of the centroid, which carries
            over to another atlas.
        temporal: ``learnable`` (paper) or ``sinusoidal``.
    """

    def __init__(
        self,
        geometry: Geometry,
        num_patches: int,
        width: int,
        spatial: SpatialEmbedding = "learnable",
        temporal: TemporalEmbedding = "learnable",
    ) -> None:
        super().__init__()
        self.spatial_PD: nn.Parameter | None = None
        self.xyz_projection: nn.Linear | None = None
        if spatial == "learnable":
            self.spatial_PD = nn.Parameter(torch.empty(geometry.num_parcels, width))
            nn.init.trunc_normal_(self.spatial_PD, std=0.02)
        else:
            self.xyz_projection = nn.Linear(3, width)
            # Centroids reach about 100 mm; in decimetres they are of order 1.
            self.register_buffer("xyz_dm", geometry.xyz_mm.float() / 100)
        if temporal == "learnable":
            self.temporal_ND: Tensor = nn.Parameter(torch.empty(num_patches, width))
            nn.init.trunc_normal_(self.temporal_ND, std=0.02)
        else:
            self.register_buffer("temporal_ND", sinusoidal(num_patches, width))

    def forward(self) -> Tensor:
        """The embedding of every token, (P, N, D)."""
        return self.spatial()[:, None] + self.temporal_ND

    def spatial(self) -> Tensor:
        """The embedding of every parcel, (P, D)."""
        if self.xyz_projection is not None:
            projected_PD: Tensor = self.xyz_projection(self.xyz_dm)
            return projected_PD
        assert self.spatial_PD is not None
        return self.spatial_PD
