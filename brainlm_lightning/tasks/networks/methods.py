"""What a parcel is known by when its network is guessed: one small class a method (paper, section 4.6, table 4).

Every method sees the same window. Where a feature is a relation to the other parcels (attention, connectivity), its
columns are all observed parcels, with or without a network, training or test: their signals are used, their labels
never; and two parcels are compared without their own two columns (`pair_distances`).

Shapes: B batch, P parcels, T frames, F features.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from brainlm_lightning.data.windows import Batch
from brainlm_lightning.model.attention_maps import Reading, parcel_attention
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.masked import MaskedModel

Floats = NDArray[np.floating]


class ParcelFeatures(Protocol):
    """A method.

    Attributes:
        relational: True where feature f of a parcel is its relation to parcel f, (B, P, P).
    """

    relational: ClassVar[bool]

    def __call__(self, batch: Batch) -> Floats:
        """A row for each parcel, (B, P, F); anything for unobserved parcels."""
        ...


@dataclass(frozen=True)
class AttentionRows:
    """The shares of attention that a parcel gives to every other."""

    model: MaskedAutoencoder
    reading: Reading
    relational: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Floats:
        """See `ParcelFeatures`."""
        found = parcel_attention(self.model, batch["signal_BPT"], batch["observed_BP"], self.reading)
        return found.parcels_BPP.float().cpu().numpy()


@dataclass(frozen=True, eq=False)
class Fixed:
    """The same for every recording: how much of a method is about the parcels and not about the recording.

    Attributes:
        values_PP: relation of each parcel (row) to each.
    """

    values_PP: Floats
    relational: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Floats:
        """See `ParcelFeatures`."""
        return np.broadcast_to(self.values_PP, (len(batch["signal_BPT"]), *self.values_PP.shape))


def without_signal(model: MaskedAutoencoder, reading: Reading) -> Fixed:
    """Attention on a window of zeros: what the model knows of the parcels whatever it is shown."""
    parcels, device = model.geometry.num_parcels, model.cls_D.device
    zeros_BPT = torch.zeros(1, parcels, model.geometry.window_frames, device=device)
    everything_BP = torch.ones(1, parcels, dtype=torch.bool, device=device)
    return Fixed(parcel_attention(model, zeros_BPT, everything_BP, reading).parcels_BPP[0].cpu().numpy())


@dataclass(frozen=True)
class ParcelEmbedding:
    """What a model makes of each parcel."""

    model: MaskedModel
    relational: ClassVar[bool] = False

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Floats:
        """See `ParcelFeatures`."""
        return self.model.embed(batch["signal_BPT"], batch["observed_BP"]).parcel_BPD.float().cpu().numpy()


@dataclass(frozen=True)
class RawSeries:
    """The scaled series itself."""

    relational: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> Floats:
        """See `ParcelFeatures`."""
        return batch["signal_BPT"].float().cpu().numpy()


@dataclass(frozen=True)
class Connectivity:
    """Pearson's correlation with every other parcel within the window; 0 with one that is constant in it."""

    relational: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Floats:
        """See `ParcelFeatures`."""
        centred_BPT = batch["signal_BPT"].double()
        centred_BPT = centred_BPT - centred_BPT.mean(dim=2, keepdim=True)
        unit_BPT = torch.nn.functional.normalize(centred_BPT, dim=2)
        return (unit_BPT @ unit_BPT.transpose(1, 2)).cpu().numpy()


@dataclass(frozen=True, eq=False)
class Position:
    """Where a parcel lies, and nothing of what it does: the control for networks that are patches of brain.

    Attributes:
        xyz_mm: (P, 3) centroids.
        mirrored: True to lay the right hemisphere over the left, for most networks have a part in each.
    """

    xyz_mm: Floats
    mirrored: bool = False
    relational: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> Floats:
        """See `ParcelFeatures`."""
        xyz_mm = self.xyz_mm * [1, 1, 1]
        if self.mirrored:
            xyz_mm[:, 0] = np.abs(xyz_mm[:, 0])
        return np.broadcast_to(xyz_mm, (len(batch["signal_BPT"]), *xyz_mm.shape))
