"""Builds models in their initial state: the same seed, start and training subjects give the same weights.

Shapes: P parcels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.evaluation.covariance import ScaledRecording, autocovariance, lagged_moments
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.masked import MaskedModel, Subjects

MOST_RECORDINGS = 1000  # enough to estimate the moments
CHOOSING = 4  # one training subject in this many chooses the settings of a start that has any
ModelFactory = Callable[[Geometry], MaskedModel]


@dataclass(frozen=True)
class TrainingMoments:
    """The scaled signal of training recordings, and its moments, on demand; see `Moments`.

    Attributes:
        data: after its setup.
        rows: training recordings; if there are more than about `MOST_RECORDINGS`, an evenly spaced subset is read.
    """

    data: CohortDataModule
    rows: NDArray[np.intp]

    @cached_property
    def covariance_PP(self) -> Tensor:
        """See `Moments`."""
        return lagged_moments(self.data.scaled_recordings(self._read))[1]

    def autocovariance(self, lags: int) -> Tensor:
        """See `Moments`."""
        return autocovariance(self.data.scaled_recordings(self._read), lags)

    def recordings(self, subjects: Subjects = "all") -> Iterator[ScaledRecording]:
        """See `Moments`: settings are chosen by every `CHOOSING`th training subject."""
        rows = self._read
        number_R = np.unique(self.data.recordings.table["subject_id"].to_numpy()[rows], return_inverse=True)[1]
        chooses_R = number_R % CHOOSING == 0
        kept = {"all": rows, "learn": rows[~chooses_R], "choose": rows[chooses_R]}
        return self.data.scaled_recordings(kept[subjects])

    @property
    def _read(self) -> NDArray[np.intp]:
        return self.rows[:: max(1, len(self.rows) // MOST_RECORDINGS)]


def build_model(make: ModelFactory, data: CohortDataModule, seed: int) -> MaskedModel:
    """A model for the data with the values of its constructor; the state of torch's global generator stays."""
    geometry = Geometry(torch.tensor(data.atlas.xyz_mm), data.window_frames)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(geometry)


def start_model(
    make: ModelFactory, data: CohortDataModule, start: str | None, seed: int, rows: NDArray[np.intp] | None = None
) -> tuple[MaskedModel, str]:
    """Builds and initialises a model for the data, without changing the state of torch's global generator.

    Args:
        make: builds the model for a geometry.
        data: after its setup.
        start: one of the model's ``starts``; None = its default.
        seed: of random numbers.
        rows: recordings whose moments the start may use; None = the training recordings.

    Returns:
        The model, and the name of its start.

    Raises:
        ValueError: the model has no such start.
    """
    net = build_model(make, data, seed)
    name = start or net.starts[0]
    net.start(name, TrainingMoments(data, data.train_rows if rows is None else rows), seed)
    return net, name
