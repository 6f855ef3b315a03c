"""Forecasters as they are made, described in checkpoints, and loaded again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_info

from brainlm_lightning.checkpoint.description import (
    COMPARED,
    Description,
    build,
    check_matches,
    class_path,
    load_strictly,
    read_checkpoint,
)
from brainlm_lightning.checkpoint.pretrained import Pretrained, untrained
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.run_folder import find_checkpoint
from brainlm_lightning.tasks.forecast.latent_ode import LatentODE
from brainlm_lightning.tasks.forecast.lstm import LSTM
from brainlm_lightning.tasks.forecast.net import Forecaster, ForecastSetting, MAEForecaster
from brainlm_lightning.tasks.forecast.neural_ode import NeuralODE

ForecasterFactory = Callable[[ForecastSetting], Forecaster]
ForecasterStart = Literal["pretrained", "as_pretrained", "standard"]
SHIPPED = (MAEForecaster, LSTM, NeuralODE, LatentODE)  # imported here, so that their checkpoints can be loaded
COMPARED_FORECAST = tuple(name for name in COMPARED if not name.startswith("model "))
OF_FORECASTS = ("frames to forecast", "standardisation by context or training")
SCALED_DATA = tuple(name for name in COMPARED_FORECAST if name not in OF_FORECASTS)


def setting_of(about: Description, horizon_frames: int) -> ForecastSetting:
    """What a forecaster of described data is built for."""
    geometry = Geometry(torch.tensor(about["parcels"]["xyz_mm"]), about["window_frames"])
    return ForecastSetting(geometry, horizon_frames)


def new_forecaster(make: ForecasterFactory, setting: ForecastSetting, seed: int) -> Forecaster:
    """A forecaster at its start, to be trained; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(setting).train()


def autoencoder_of(pretrained: Pretrained, start: ForecasterStart, datamodule: CohortDataModule) -> MaskedAutoencoder:
    """The autoencoder that a forecaster may start from.

    Raises:
        ValueError: the checkpoint holds another model.
    """
    model = pretrained.model if start == "pretrained" else untrained(pretrained, datamodule, start)
    return _autoencoder(model, pretrained.path)


def _autoencoder(model: MaskedModel, path: Path) -> MaskedAutoencoder:
    if not isinstance(model, MaskedAutoencoder):
        raise ValueError(f"{path} holds a {type(model).__name__}; an autoencoder that hides the future is needed")
    return model


def build_forecaster(about: Description, source: str) -> Forecaster:
    """The forecaster of a checkpoint's description, at a random start.

    Raises:
        ValueError: its class is none that has been imported here.
    """
    known = {class_path(kind): kind for kind in _subclasses(Forecaster)}
    name = about["model"]["class_path"]
    if name not in known:
        raise ValueError(f"{source} holds a {name}, expected a forecaster: one of {', '.join(sorted(known))}")
    kind, setting = known[name], setting_of(about, about["forecast"]["horizon_frames"])
    return kind(setting, kind.config_type(**about["model"]["config"]))


def _subclasses(kind: type[Forecaster]) -> set[type[Forecaster]]:
    own = set(kind.__subclasses__())
    return own.union(*(_subclasses(each) for each in own))


def load_forecaster(place: str, expected: Description) -> tuple[Forecaster, Description, Path]:
    """A trained forecaster to compare with, or a pretrained autoencoder as a forecaster without any tuning.

    Args:
        place: see `find_checkpoint`.
        expected: the description of the forecaster that it is compared with.

    Raises:
        ValueError: it was made for other data, another scaling, horizon or standardisation.
    """
    path = find_checkpoint(place)
    about, weights = read_checkpoint(path)
    if "forecast" in about:
        check_matches(about, expected, COMPARED_FORECAST)
        net = build_forecaster(about, str(path))
        load_strictly(net, weights, str(path))
        return net.eval(), about, path
    check_matches(about, expected, SCALED_DATA)
    autoencoder = build(about, str(path))
    load_strictly(autoencoder, weights, str(path))
    setting = setting_of(about, expected["forecast"]["horizon_frames"])
    net = MAEForecaster(replace(setting, autoencoder=_autoencoder(autoencoder, path)))
    rank_zero_info(f"{path} forecasts as it was pretrained")
    return net.eval(), about, path
