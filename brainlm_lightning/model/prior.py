"""A masked autoencoder that learns what a Gaussian cannot know: an adaptive smoother is its prior, it the remainder.

What is predicted is prior + remainder, and the head of the decoder begins at zero: before training the model is the
smoother. What the encoder sees and embeds is the signal itself.

Shapes: B batch, P parcels, T frames, N patches per parcel.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from brainlm_lightning.model.decoding import Encoding
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.masked import MaskedModel, Moments
from brainlm_lightning.model.smoother.prior import SmootherPrior


@dataclass(frozen=True)
class PriorEncoding(Encoding):
    """The encoder's output, and the window that the decoder's prior is computed from.

    Attributes:
        signal_BPT: scaled.
        visible_BPT: True where the prior may look.
    """

    signal_BPT: Tensor
    visible_BPT: Tensor


class PriorAutoencoder(MaskedAutoencoder):
    """A masked autoencoder of the remainder of a linear smoother that adapts to the window.

    Args:
        geometry: parcels and window.
        config: sizes and choices.

    Raises:
        ValueError: the patch does not divide the window.
    """

    name = "mae_prior"
    starts: ClassVar[tuple[str, ...]] = ("smoother",)

    def __init__(self, geometry: Geometry, config: MAEConfig | None = None) -> None:
        super().__init__(geometry, config)
        self.prior = SmootherPrior(geometry.num_parcels, geometry.window_frames)
        nn.init.zeros_(self.head.weight)

    def start(self, name: str, moments: Moments, seed: int) -> None:
        """See `MaskedModel.start`: ``smoother``, the prior is learnt from training subjects and the head is zero."""
        MaskedModel.start(self, name, moments, seed)
        self.prior.learn(moments, self.config.patch_frames)

    def encode(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> PriorEncoding:
        """See `MaskedAutoencoder.encode`."""
        encoding = super().encode(signal_BPT, hidden_BPN, observed_BP)
        visible_BPN = observed_BP[:, :, None] & ~hidden_BPN
        visible_BPT = visible_BPN.repeat_interleave(self.config.patch_frames, dim=2)
        return PriorEncoding(**vars(encoding), signal_BPT=signal_BPT, visible_BPT=visible_BPT)

    def decode(self, encoding: Encoding, observed_BP: Tensor, wanted_BPN: Tensor | None = None) -> Tensor:
        """See `MaskedAutoencoder.decode`."""
        assert isinstance(encoding, PriorEncoding)
        remainder_BPT = super().decode(encoding, observed_BP, wanted_BPN)
        expected_BPT: Tensor = self.prior(encoding.signal_BPT, encoding.visible_BPT).float()
        if wanted_BPN is not None:
            wanted_BPT = wanted_BPN.repeat_interleave(self.config.patch_frames, dim=2)
            expected_BPT = expected_BPT.where(wanted_BPT, 0)
        return expected_BPT + remainder_BPT
