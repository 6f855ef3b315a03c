"""Forecasters as they are made, described in checkpoints, and loaded again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_info

from brainlm_lightning.checkpoint.description import COMPARED_SCALED_DATA, Description, Entry, check_matches
from brainlm_lightning.checkpoint.files import load_strictly, read_checkpoint
from brainlm_lightning.checkpoint.pretrained import Pretrained, untrained
from brainlm_lightning.checkpoint.registry import build
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.model.mae import MaskedAutoencoder, lengthened
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.run_folder import find_checkpoint
from brainlm_lightning.tasks.forecast.net import Forecaster, ForecastSetting, MAEForecaster

ForecasterFactory = Callable[[ForecastSetting], Forecaster]
ForecasterStart = Literal["pretrained", "as_pretrained", "standard"]
COMPARED_FORECAST: dict[str, Entry] = {
    **COMPARED_SCALED_DATA,
    "frames to forecast": lambda of: of.get("forecast", {}).get("horizon_frames"),
    "standardisation by context or training": lambda of: of.get("forecast", {}).get("standardise"),
}


def new_forecaster(make: ForecasterFactory, setting: ForecastSetting, seed: int) -> Forecaster:
    """A forecaster at its start, to be trained; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(setting).train()


def autoencoder_of(pretrained: Pretrained, start: ForecasterStart, datamodule: CohortDataModule) -> MaskedAutoencoder:
    """The autoencoder that a forecaster may start from; lengthened where the data's windows are longer than its own.

    Raises:
        ValueError: the checkpoint holds another model.
    """
    if start != "pretrained":
        return _autoencoder(untrained(pretrained, datamodule, start), pretrained.path)
    model, frames = _autoencoder(pretrained.model, pretrained.path), datamodule.window_frames
    if frames == model.geometry.window_frames:
        return model
    rank_zero_info(f"windows of {frames} frames: those of the pretraining had {model.geometry.window_frames}")
    return lengthened(model, frames)


def check_window(pretrained: Pretrained, window_frames: int, context_frames: int) -> None:
    """Checks that a pretrained model can be tuned to forecast windows of this length.

    Args:
        pretrained: the model.
        window_frames: of context and horizon.
        context_frames: of what the encoder is to see.

    Raises:
        ValueError: the pretraining's windows were longer; or the encoder's learnable temporal embeddings, of which only
            the decoder's can be learnt from hidden patches, end before the context.
    """
    known = pretrained.about["window_frames"]
    learnable = pretrained.about["model"]["config"].get("temporal_embedding") == "learnable"
    if window_frames < known:
        raise ValueError(
            f"the pretraining of {pretrained.path} had windows of {known} frames, this experiment has {window_frames}; "
            f"set data.window_frames to {known} or more"
        )
    if learnable and context_frames > known:
        raise ValueError(
            f"the context has {context_frames} frames, more than the {known} of the windows of {pretrained.path}, "
            f"where the encoder's learnable temporal embeddings end; set data.window_frames so that {known} frames or "
            "fewer are left before the horizon"
        )


def _autoencoder(model: MaskedModel, path: Path) -> MaskedAutoencoder:
    if not isinstance(model, MaskedAutoencoder):
        raise ValueError(f"{path} holds a {type(model).__name__}; an autoencoder that hides the future is needed")
    return model


def load_forecaster(checkpoint: str, expected: Description) -> tuple[Forecaster, Description, Path]:
    """A trained forecaster to compare with, or a pretrained autoencoder as a forecaster without any tuning.

    Args:
        checkpoint: see `find_checkpoint`.
        expected: the description of the forecaster that it is compared with.

    Raises:
        ValueError: it was made for other data, another scaling, horizon or standardisation.
    """
    path = find_checkpoint(checkpoint)
    about, weights = read_checkpoint(path)
    if "forecast" in about:
        check_matches(about, expected, COMPARED_FORECAST)
        net: Forecaster = build(about, Forecaster, str(path))
        load_strictly(net, weights, str(path))
        return net.eval(), about, path
    check_matches(about, expected, COMPARED_SCALED_DATA)
    autoencoder = build(about, MaskedModel, str(path))
    load_strictly(autoencoder, weights, str(path))
    setting = ForecastSetting.of(about, expected["forecast"]["horizon_frames"])
    net = MAEForecaster(replace(setting, autoencoder=_autoencoder(autoencoder, path)))
    rank_zero_info(f"{path} forecasts as it was pretrained")
    return net.eval(), about, path
