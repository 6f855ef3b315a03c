"""The interface of all masked models: inputs, outputs, initial states, and the training loss.

Shapes: B batch, P parcels, T frames, N patches per parcel, D width. In a mask True = hidden.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from brainlm_lightning.evaluation.covariance import ScaledRecording
from brainlm_lightning.model.embedding import Geometry

Subjects = Literal["all", "learn", "choose"]


@dataclass(frozen=True)
class Reconstruction:
    """Output of a masked model.

    Attributes:
        prediction_BPT: the whole window, scaled like the input.
        cls_BD: the encoder's summary of the visible tokens.
        regularisation: scalar that is added to the reconstruction loss in training; 0 for most models.
    """

    prediction_BPT: Tensor
    cls_BD: Tensor
    regularisation: Tensor | float = 0.0


@dataclass(frozen=True)
class Embedding:
    """Embedding of a window with nothing hidden.

    Attributes:
        cls_BD: embedding of the window.
        parcel_BPD: embedding of each parcel; NaN for parcels that the recording does not observe.
    """

    cls_BD: Tensor
    parcel_BPD: Tensor


class Moments(Protocol):
    """What a start may know of the training subjects' scaled signal; computed or read on demand."""

    @property
    def covariance_PP(self) -> Tensor:
        """Across parcels, float64."""
        ...

    def autocovariance(self, lags: int) -> Tensor:
        """At lags 0 to ``lags`` - 1 frames, the mean over parcels, (lags,) float64."""
        ...

    def recordings(self, subjects: Subjects = "all") -> Iterable[ScaledRecording]:
        """Scaled: of all training subjects, of those to learn from, or of the rest, to choose settings by."""
        ...


class MaskedModel(nn.Module):
    """A model that reconstructs hidden patches. A subclass can be trained, tested, saved, loaded and exported.

    Attributes:
        name: names the model in tables.
        config_type: a frozen dataclass of plain values, each with a default; it has ``patch_frames``.
        starts: names of its initialisations; the first is the default.
        has_tokens: True if the model encodes patches and can do so for any subset of them; False if it encodes whole
            parcels.
        has_parcels: False if no state of the model belongs to a single parcel.
        grows_from: a simpler model with the same settings whose tensors it can begin with; what is its own then begins
            as in the first of its ``starts``.
        geometry: parcels and window.
        config: an instance of ``config_type``; the model can be rebuilt from it and the geometry.
        num_patches: N.

    Args:
        geometry: parcels and window.
        config: sizes and choices; None = the defaults.

    Raises:
        ValueError: the patch does not divide the window.
    """

    name: str
    config_type: ClassVar[type]
    starts: ClassVar[tuple[str, ...]] = ("standard",)
    has_tokens: ClassVar[bool] = False
    has_parcels: ClassVar[bool] = True
    grows_from: ClassVar["type[MaskedModel] | None"] = None

    def __init__(self, geometry: Geometry, config: Any = None) -> None:
        super().__init__()
        self.geometry = geometry
        self.config = self.config_type() if config is None else config
        self.num_patches = geometry.patches(self.config.patch_frames)

    @classmethod
    def from_description(cls, about: Mapping[str, Any]) -> Self:
        """Builds the model that a checkpoint describes, with random weights."""
        geometry = Geometry(torch.tensor(about["parcels"]["xyz_mm"]), about["window_frames"])
        return cls(geometry, cls.config_type(**about["model"]["config"]))

    def start(self, name: str, moments: Moments, seed: int) -> None:
        """Initialises a model that was just built; subclasses extend it.

        Args:
            name: one of ``starts``; ``standard`` keeps the weights as the constructor set them.
            moments: of the training subjects' scaled signal.
            seed: of random numbers.

        Raises:
            ValueError: the model has no such start.
        """
        if name not in self.starts:
            raise ValueError(
                f"{type(self).__name__} has no start {name!r}; set initialisation to {' or '.join(self.starts)}"
            )

    def forward(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> Reconstruction:
        """Reconstructs a window from its visible patches; hidden values must not affect the result.

        Args:
            signal_BPT: scaled signal.
            hidden_BPN: True = hidden.
            observed_BP: False where a recording has no data of a parcel.
        """
        raise NotImplementedError

    def reconstruct(
        self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor, wanted_BPN: Tensor
    ) -> Reconstruction:
        """Reconstructs what a loss asks for; a model that can leaves out the rest, and has 0 there.

        Args:
            signal_BPT: scaled signal.
            hidden_BPN: True = hidden.
            observed_BP: False where a recording has no data of a parcel.
            wanted_BPN: True for patches that are scored.
        """
        output: Reconstruction = self(signal_BPT, hidden_BPN, observed_BP)
        return output

    def embed(self, signal_BPT: Tensor, observed_BP: Tensor) -> Embedding:
        """Embeds a window and each of its parcels, with nothing hidden.

        Args:
            signal_BPT: scaled signal.
            observed_BP: False where a recording has no data of a parcel.
        """
        raise NotImplementedError

    def tokens(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's output for the visible tokens, for embeddings.

        A model without tokens returns one state per parcel (N = 1), of the window with nothing hidden.

        Args:
            signal_BPT: scaled signal.
            hidden_BPN: True = hidden.
            observed_BP: False where a recording has no data of a parcel.

        Returns:
            The window's summary, (B, D), and the states, (B, P, N, D): 0 where hidden or unobserved.
        """
        embedding = self.embed(signal_BPT, observed_BP)
        return embedding.cls_BD, embedding.parcel_BPD.where(observed_BP[:, :, None], 0)[:, :, None]

    def check_signal(self, signal_BPT: Tensor) -> None:
        """Checks that a signal has as many parcels and frames as the model was built for.

        Raises:
            ValueError: the shape differs.
        """
        if signal_BPT.shape[1:] != (self.geometry.num_parcels, self.geometry.window_frames):
            raise ValueError(
                f"the signal is (batch, parcels, frames) = {tuple(signal_BPT.shape)}, the model was built for "
                f"{self.geometry.num_parcels} parcels and {self.geometry.window_frames} frames"
            )


def reconstruction_loss(prediction_BPT: Tensor, signal_BPT: Tensor, scored_BPN: Tensor) -> Tensor:
    """Mean over windows of each window's mean squared error over the scored patches (paper, section 3.3).

    A mean of means, so that the losses of equally sized ranks and micro-batches average to the loss of the whole batch.
    A window without scored patches counts as zero.

    Args:
        prediction_BPT: prediction.
        signal_BPT: true signal.
        scored_BPN: True for patches that are scored.
    """
    error_BPT = (prediction_BPT.float() - signal_BPT).square()
    error_BPN = torch.unflatten(error_BPT, 2, (scored_BPN.shape[2], -1)).mean(dim=3)
    total_B = (error_BPN * scored_BPN).sum(dim=(1, 2))
    return torch.mean(total_B / scored_BPN.sum(dim=(1, 2)).clamp(min=1))
