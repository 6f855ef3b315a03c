"""Features by which a parcel's network is recognised: one small class per method (paper, section 4.6, table 4).

Every method sees the same window. Where a feature is a relation to the other parcels (attention, connectivity), its
columns are all observed parcels, with or without a network, training or test: their signals are used, their labels
never; and two parcels are compared without their own two columns (`pair_distances`).

Shapes: B batch, P parcels, T frames, F features.
"""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from brainlm_lightning.checkpoint.start import TrainingMoments
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.covariance import correlation
from brainlm_lightning.model.attention_maps import Reading, parcel_attention
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.tasks.compare import LearningData, Method, Numbers

Floats = NDArray[np.floating]


class ParcelMethod(Method):
    """Gives each parcel the features by which its nearest neighbours are found.

    Attributes:
        relational: True where feature f of a parcel is its relation to parcel f, (B, P, P).
        depends_on_recording: False where every recording gets the same features. What is then left to vary from
            recording to recording is the random division of the parcels, so such a method has no paired test.
    """

    relational: ClassVar[bool] = False
    depends_on_recording: ClassVar[bool] = True

    def fit(self, learning: LearningData) -> Numbers:
        """See `Method.fit`."""
        return {}

    def features(self, batch: Batch) -> Floats:
        """One row per parcel, (B, P, F); anything for unobserved parcels."""
        raise NotImplementedError


class AttentionRows(ParcelMethod):
    """The shares of attention that a parcel gives to every other."""

    relational = True
    mixed_precision = True

    def __init__(self, model: MaskedAutoencoder, reading: Reading) -> None:
        self.model, self.reading = model, reading

    def features(self, batch: Batch) -> Floats:
        """See `ParcelMethod.features`."""
        found = parcel_attention(self.model, batch["signal_BPT"], batch["observed_BP"], self.reading)
        return found.parcels_BPP.float().cpu().numpy()


class AttentionWithoutSignal(ParcelMethod):
    """Attention on a window of zeros: what the model knows of the parcels whatever it is shown."""

    relational = True
    depends_on_recording = False

    def __init__(self, model: MaskedAutoencoder, reading: Reading) -> None:
        self.model, self.reading = model, reading

    def fit(self, learning: LearningData) -> Numbers:
        """Reads the attention, once."""
        parcels, device = self.model.geometry.num_parcels, self.model.cls_D.device
        zeros_1PT = torch.zeros(1, parcels, self.model.geometry.window_frames, device=device)
        everything_1P = torch.ones(1, parcels, dtype=torch.bool, device=device)
        found = parcel_attention(self.model, zeros_1PT, everything_1P, self.reading)
        self._attention_PP = found.parcels_BPP[0].cpu().numpy()
        return {}

    def features(self, batch: Batch) -> Floats:
        """See `ParcelMethod.features`."""
        return np.broadcast_to(self._attention_PP, (len(batch["signal_BPT"]), *self._attention_PP.shape))


class ParcelEmbedding(ParcelMethod):
    """The embedding that a model gives each parcel."""

    mixed_precision = True

    def __init__(self, model: MaskedModel) -> None:
        self.model = model

    @torch.no_grad()
    def features(self, batch: Batch) -> Floats:
        """See `ParcelMethod.features`."""
        return self.model.embed(batch["signal_BPT"], batch["observed_BP"]).parcel_BPD.float().cpu().numpy()


class RawSeries(ParcelMethod):
    """The scaled series itself."""

    def features(self, batch: Batch) -> Floats:
        """See `ParcelMethod.features`."""
        return batch["signal_BPT"].float().cpu().numpy()


class Connectivity(ParcelMethod):
    """Pearson's correlation with every other parcel within the window; 0 with one that is constant in it."""

    relational = True

    def features(self, batch: Batch) -> Floats:
        """See `ParcelMethod.features`."""
        centred_BPT = batch["signal_BPT"].double()
        centred_BPT = centred_BPT - centred_BPT.mean(dim=2, keepdim=True)
        unit_BPT = torch.nn.functional.normalize(centred_BPT, dim=2)
        return (unit_BPT @ unit_BPT.transpose(1, 2)).cpu().numpy()


class GroupConnectivity(ParcelMethod):
    """The training subjects' correlations, the same for every recording."""

    relational = True
    depends_on_recording = False

    def fit(self, learning: LearningData) -> Numbers:
        """Estimates the correlations."""
        moments = TrainingMoments(learning.data, learning.data.train_rows)
        self._correlation_PP = correlation(moments.covariance_PP).numpy()
        return {}

    def features(self, batch: Batch) -> Floats:
        """See `ParcelMethod.features`."""
        return np.broadcast_to(self._correlation_PP, (len(batch["signal_BPT"]), *self._correlation_PP.shape))


class Position(ParcelMethod):
    """Where a parcel lies, and nothing of what it does: the control for networks that are patches of brain.

    Args:
        mirrored: True to lay the right hemisphere over the left, for most networks have a part in each.
    """

    depends_on_recording = False

    def __init__(self, mirrored: bool = False) -> None:
        self.mirrored = mirrored

    def fit(self, learning: LearningData) -> Numbers:
        """Takes the centroids from the atlas."""
        self._xyz_mm = np.array(learning.data.atlas.xyz_mm, dtype=np.float64)
        if self.mirrored:
            self._xyz_mm[:, 0] = np.abs(self._xyz_mm[:, 0])
        return {}

    def features(self, batch: Batch) -> Floats:
        """See `ParcelMethod.features`."""
        return np.broadcast_to(self._xyz_mm, (len(batch["signal_BPT"]), *self._xyz_mm.shape))


def default_baselines() -> dict[str, ParcelMethod]:
    """What attention is compared with, beside other models."""
    return {
        "raw_series": RawSeries(),
        "connectivity": Connectivity(),
        "group_connectivity": GroupConnectivity(),
        "position": Position(),
        "position_mirrored": Position(mirrored=True),
    }
