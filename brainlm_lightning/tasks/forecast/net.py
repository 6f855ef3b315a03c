"""Forecasts: the frames of a window's end from those before it (paper, section 4.3), and the MAE as a forecaster.

Shapes: B batch, P parcels, T frames of a window, C frames of the context, H of the horizon (T = C + H), N patches.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.masked import reconstruction_loss

Standardise = Literal["context", "training"]

FAINT = 1e-3  # of the window's median amplitude: below it a parcel has no signal to forecast


@dataclass(frozen=True)
class ForecastSetting:
    """What a forecaster is built for.

    Attributes:
        geometry: parcels, and the window of context and horizon.
        horizon_frames: H, frames to forecast.
        autoencoder: a masked autoencoder of these parcels and this window, for forecasters that can start from one.
    """

    geometry: Geometry
    horizon_frames: int
    autoencoder: MaskedAutoencoder | None = None

    def __post_init__(self) -> None:
        """Refuses a horizon that leaves no context."""
        if not 0 < self.horizon_frames < self.geometry.window_frames:
            raise ValueError(
                f"horizon_frames is {self.horizon_frames}; expected from 1 to {self.geometry.window_frames - 1}, "
                f"for context and horizon share the window of {self.geometry.window_frames} frames (data.window_frames)"
            )

    @classmethod
    def of(cls, about: Mapping[str, Any], horizon_frames: int) -> "ForecastSetting":
        """What a forecaster of described data is built for."""
        return cls(Geometry(torch.tensor(about["parcels"]["xyz_mm"]), about["window_frames"]), horizon_frames)

    @property
    def context_frames(self) -> int:
        """C."""
        return self.geometry.window_frames - self.horizon_frames


@dataclass(frozen=True)
class ForecastWindow:
    """Windows cut in two, in the scale in which every method forecasts and is scored.

    Attributes:
        context_BPC: what a forecaster sees; 0 where unobserved.
        future_BPH: what it is to forecast.
        observed_BP: parcels with data.
        centre_BP1: what was subtracted from the scaled signal, from the context alone.
        scale_BP1: what it was divided by then.
    """

    context_BPC: Tensor
    future_BPH: Tensor
    observed_BP: Tensor
    centre_BP1: Tensor
    scale_BP1: Tensor

    def standardised(self, scaled_BPT: Tensor) -> Tensor:
        """The same change of scale for other values of these windows."""
        return ((scaled_BPT - self.centre_BP1) / self.scale_BP1).where(self.observed_BP[:, :, None], 0)


def cut(
    signal_BPT: Tensor, unit_BP: Tensor, observed_BP: Tensor, horizon_frames: int, standardise: Standardise
) -> ForecastWindow:
    """Cuts windows where the future begins, and puts them on a scale that knows nothing of it.

    With ``context`` each parcel of each window gets mean 0 and standard deviation 1 over the context. That undoes any
    earlier centre and scale, one taken from the whole recording, too: what a forecaster sees and how it is scored are
    then functions of the raw context alone. Parcels whose context is constant, or fainter in the recording's own units
    than a thousandth of the window's median, are not observed. With ``training`` the signal stays as it is: for scaling
    by statistics of the training subjects.

    Args:
        signal_BPT: scaled windows.
        unit_BP: what scaling divided by, so that amplitudes can be compared in the recording's own units.
        observed_BP: False where a recording has no data of a parcel.
        horizon_frames: H.
        standardise: by the context, or not again.
    """
    context_BPC, future_BPH = signal_BPT.tensor_split([signal_BPT.shape[2] - horizon_frames], dim=2)
    centre_BP, scale_BP = torch.zeros_like(signal_BPT[:, :, 0]), torch.ones_like(signal_BPT[:, :, 0])
    if standardise == "context":
        centre_BP, scale_BP = context_BPC.mean(2), context_BPC.std(2, correction=0)
        amplitude_BP = (scale_BP * unit_BP).masked_fill(~observed_BP, float("nan"))
        observed_BP = amplitude_BP > FAINT * amplitude_BP.nanmedian(dim=1, keepdim=True).values
        scale_BP = scale_BP.where(observed_BP, 1)
    window = ForecastWindow(context_BPC, future_BPH, observed_BP, centre_BP[:, :, None], scale_BP[:, :, None])
    return ForecastWindow(
        window.standardised(context_BPC),
        window.standardised(future_BPH),
        observed_BP,
        window.centre_BP1,
        window.scale_BP1,
    )


@dataclass(frozen=True)
class ForecastPlan:
    """Where windows are cut, and on which scale they are forecast.

    Attributes:
        horizon_frames: H.
        standardise: see `cut`.
    """

    horizon_frames: int
    standardise: Standardise

    def cut(self, batch: Mapping[str, Any]) -> ForecastWindow:
        """A scaled batch of windows as context and future."""
        return self.cut_windows(batch["signal_BPT"], batch["scale_BP"], batch["observed_BP"])

    def cut_windows(self, signal_BPT: Tensor, unit_BP: Tensor, observed_BP: Tensor) -> ForecastWindow:
        """See `cut`."""
        return cut(signal_BPT, unit_BP, observed_BP, self.horizon_frames, self.standardise)


class Forecaster(nn.Module):
    """A model that `ForecastTask` can train: made from a `ForecastSetting` and a configuration.

    Attributes:
        name: of its rows in tables.
        config: a frozen dataclass of plain values: with the setting all that is needed to build it again.
        config_type: the class of ``config``.
    """

    name: str
    config: Any
    config_type: type

    @classmethod
    def from_description(cls, about: Mapping[str, Any]) -> Self:
        """Builds the forecaster that a checkpoint describes, at a random start."""
        setting = ForecastSetting.of(about, about["forecast"]["horizon_frames"])
        return cls(setting, cls.config_type(**about["model"]["config"]))

    def forward(self, context_BPC: Tensor, observed_BP: Tensor) -> Tensor:
        """Forecasts the horizon, (B, P, H).

        Args:
            context_BPC: standardised signal, 0 where unobserved.
            observed_BP: False where a window has no data of a parcel.

        Raises:
            ArithmeticError: a solver failed.
        """
        raise NotImplementedError

    def training_loss(self, window: ForecastWindow) -> Tensor:
        """What training makes small: the mean over windows of the squared error over horizon and observed parcels."""
        return forecast_loss(self(window.context_BPC, window.observed_BP), window)


def forecast_loss(forecast_BPH: Tensor, window: ForecastWindow) -> Tensor:
    """Mean over windows of each window's mean squared error over the horizon and its observed parcels."""
    return reconstruction_loss(forecast_BPH, window.future_BPH, window.observed_BP[:, :, None])


@dataclass(frozen=True)
class MAEForecasterConfig(MAEConfig):
    """A masked autoencoder that forecasts; the other attributes are those of `MAEConfig`.

    Attributes:
        encoder: ``tuned`` with the rest, or ``frozen`` as it was pretrained: decoder and head alone learn.
    """

    encoder: Literal["tuned", "frozen"] = "tuned"


class MAEForecaster(Forecaster):
    """A masked autoencoder whose last patches are hidden in every parcel (paper, figure 2B and section 4.3).

    Args:
        setting: what it is built for; where it has an autoencoder, that is taken, with its sizes.
        config: sizes and choices.

    Raises:
        ValueError: the horizon is no whole number of patches.
    """

    name = "mae"
    config_type = MAEForecasterConfig

    def __init__(self, setting: ForecastSetting, config: MAEForecasterConfig | None = None) -> None:
        super().__init__()
        config = config or MAEForecasterConfig()
        if setting.autoencoder is not None:
            config = MAEForecasterConfig(**{**asdict(setting.autoencoder.config), "encoder": config.encoder})
        if setting.horizon_frames % config.patch_frames:
            raise ValueError(
                f"horizon_frames {setting.horizon_frames} is no whole number of patches of {config.patch_frames} "
                "frames, and the masked autoencoder hides whole patches; choose "
                f"{max(1, setting.horizon_frames // config.patch_frames) * config.patch_frames}"
            )
        self.config, self.horizon_frames = config, setting.horizon_frames
        self.autoencoder = setting.autoencoder or MaskedAutoencoder(setting.geometry, config)
        encoding = (self.autoencoder.patch_projection, self.autoencoder.position, self.autoencoder.encoder)
        for parameter in (self.autoencoder.cls_D, *(each for part in encoding for each in part.parameters())):
            parameter.requires_grad_(config.encoder == "tuned")

    def forward(self, context_BPC: Tensor, observed_BP: Tensor) -> Tensor:
        """See `Forecaster.forward`."""
        horizon_frames = self.horizon_frames
        signal_BPT = nn.functional.pad(context_BPC, (0, horizon_frames))
        future_N = torch.arange(self.autoencoder.num_patches, device=signal_BPT.device)
        future_N = future_N >= self.autoencoder.num_patches - horizon_frames // self.config.patch_frames
        hidden_BPN = observed_BP[:, :, None] & future_N
        filled_BPT: Tensor = self.autoencoder(signal_BPT, hidden_BPN, observed_BP).prediction_BPT
        return filled_BPT[:, :, -horizon_frames:]
