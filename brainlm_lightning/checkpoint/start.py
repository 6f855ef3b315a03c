"""A model as it is before its first step: the same seed, start and training subjects give the same weights.

Shapes: P parcels.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.gcn import GraphConvolutionalNetwork
from brainlm_lightning.model.kernel_start import Moments, autocovariance, kernel_start
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.tasks.reconstruction.methods import ConditionalGaussian

MOMENT_RECORDINGS = 1000  # for the kernel start; they settle its covariances
Start = Literal["kernel", "standard"]
ModelFactory = Callable[[Geometry], MaskedModel]


def start_model(make: ModelFactory, datamodule: CohortDataModule, start: Start, seed: int) -> MaskedModel:
    """Builds a model for the data at hand; torch's own generator is left as it was.

    Args:
        make: the model for a geometry.
        datamodule: after its setup; the kernel start and a graph of connectivity take its training subjects'
            covariances.
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
    if isinstance(net, GraphConvolutionalNetwork) and net.config.graph == "connectivity":
        net.learn_graph(training_covariance(datamodule))
    return net


def training_moments(datamodule: CohortDataModule, patch_frames: int) -> Moments:
    """Moments of the training subjects' signal."""
    series = datamodule.scaled_recordings(_moment_rows(datamodule))
    return Moments(training_covariance(datamodule), autocovariance(series, 2 * patch_frames))


def training_covariance(datamodule: CohortDataModule) -> Tensor:
    """Covariance of the training subjects' parcels, (P, P) float64."""
    return ConditionalGaussian().fit(datamodule.scaled_recordings(_moment_rows(datamodule))).covariance


def _moment_rows(datamodule: CohortDataModule) -> NDArray[np.intp]:
    rows = datamodule.train_rows
    return rows[:: max(1, len(rows) // MOMENT_RECORDINGS)]
