"""A model as it is before its first step: the same seed, start and training subjects give the same weights.

Shapes: P parcels.
"""

from collections.abc import Callable
from typing import Literal

import torch

from brainlm_lightning.baselines.linear import ConditionalGaussian
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.kernel_start import Moments, autocovariance, kernel_start
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.reconstruction import MaskedModel

MOMENT_RECORDINGS = 1000  # for the kernel start; they settle its covariances
Start = Literal["kernel", "standard"]
ModelFactory = Callable[[Geometry], MaskedModel]


def start_model(make: ModelFactory, datamodule: CohortDataModule, start: Start, seed: int) -> MaskedModel:
    """Builds a model for the data at hand; torch's own generator is left as it was.

    Args:
        make: the model for a geometry.
        datamodule: after its setup; the kernel start takes its training subjects' covariances.
        start: ``kernel``, from which learning begins at once (`brainlm_lightning.model.kernel_start`), or ``standard``.
        seed: of what is random.

    Raises:
        ValueError: the kernel start is asked for a model that is no masked autoencoder.
    """
    geometry = Geometry(torch.tensor(datamodule.stores[0].atlas.xyz_mm), datamodule.window_frames)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make(geometry)
    if start == "kernel":
        if not isinstance(net, MaskedAutoencoder):
            raise ValueError(f"the kernel start is for the masked autoencoder; {type(net).__name__} needs standard")
        kernel_start(net, training_moments(datamodule, net.config.patch_frames), seed=seed)
    return net


def training_moments(datamodule: CohortDataModule, patch_frames: int) -> Moments:
    """Moments of the training subjects' signal."""
    rows = datamodule.train_rows
    rows = rows[:: max(1, len(rows) // MOMENT_RECORDINGS)]
    covariance_PP = ConditionalGaussian().fit(datamodule.scaled_recordings(rows)).covariance
    return Moments(covariance_PP, autocovariance(datamodule.scaled_recordings(rows), 2 * patch_frames))
