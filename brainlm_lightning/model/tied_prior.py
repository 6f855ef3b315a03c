"""A smoother and a network that completes it: `TiedAutoencoder` with the adaptive smoother as its prior.

The network reads what the smoother expects of the hidden patches, and says for each of their frames how far the
prediction moves from what the smoother expects to what it expects itself:

    prediction = prior + weight * (network - prior)

Weights begin at zero: before training the model is the smoother, and it cannot begin below a linear method. What helps
most is a network that was pretrained without the prior, since a step with it takes seven to ten times as long.

Shapes: B batch, P parcels, N patches per parcel, T frames, D width.
"""

from typing import ClassVar

from torch import Tensor, nn

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.masked import MaskedModel, Moments, Reconstruction
from brainlm_lightning.model.smoother.prior import SmootherPrior
from brainlm_lightning.model.tied import TiedAutoencoder, TiedConfig
from brainlm_lightning.model.tied_start import tied_start


class TiedPriorAutoencoder(TiedAutoencoder):
    """A `TiedAutoencoder` that begins as the adaptive smoother, and can take over a pretrained one.

    Args:
        geometry: parcels and window.
        config: sizes.

    Raises:
        ValueError: the patch does not divide the window.
    """

    name = "tied_prior"
    starts: ClassVar[tuple[str, ...]] = ("smoother",)
    grows_from: ClassVar[type[MaskedModel] | None] = TiedAutoencoder

    def __init__(self, geometry: Geometry, config: TiedConfig | None = None) -> None:
        super().__init__(geometry, config)
        self.prior = SmootherPrior(geometry.num_parcels, geometry.window_frames)
        width, frames = self.config.embed_dim, self.config.patch_frames
        self.expected_projection = nn.Linear(frames, width, bias=False)
        self.weight = nn.Linear(width, frames)
        for zero in (*self.expected_projection.parameters(), *self.weight.parameters()):
            nn.init.zeros_(zero)

    def start(self, name: str, moments: Moments, seed: int) -> None:
        """See `MaskedModel.start`: ``smoother``, a prior learnt from training subjects, and `tied_start`."""
        MaskedModel.start(self, name, moments, seed)
        tied_start(self, moments, seed)
        self.prior.learn(moments, self.config.patch_frames)

    def states(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> tuple[Tensor, Tensor]:
        """See `TiedAutoencoder.states`; where nothing is hidden no prior is needed."""
        if not hidden_BPN.any():
            return super().states(signal_BPT, hidden_BPN, observed_BP)
        return self._beside(self._expected(signal_BPT, hidden_BPN, observed_BP), signal_BPT, hidden_BPN, observed_BP)

    def forward(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> Reconstruction:
        """See `MaskedModel.forward`."""
        expected_BPT = self._expected(signal_BPT, hidden_BPN, observed_BP)
        states_BPND, visible_BPN = self._beside(expected_BPT, signal_BPT, hidden_BPN, observed_BP)
        own_BPT, weight_BPT = self.head(states_BPND).flatten(2), self.weight(states_BPND).flatten(2)
        prediction_BPT = expected_BPT + weight_BPT * (own_BPT - expected_BPT)
        return Reconstruction(prediction_BPT, self.summary(states_BPND, visible_BPN))

    def _expected(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> Tensor:
        """What the smoother expects, (B, P, T) float32."""
        self.check_signal(signal_BPT)
        visible_BPN = observed_BP[:, :, None] & ~hidden_BPN
        expected_BPT: Tensor = self.prior(signal_BPT, visible_BPN.repeat_interleave(self.config.patch_frames, dim=2))
        return expected_BPT.float()

    def _beside(
        self, expected_BPT: Tensor, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The states of tokens of which the hidden ones hold what the smoother expects, and which are visible."""
        visible_BPN = observed_BP[:, :, None] & ~hidden_BPN
        asked_BPN = observed_BP[:, :, None] & hidden_BPN
        expected_BPND = self.expected_projection(self.patches(expected_BPT)).where(asked_BPN[..., None], 0)
        contents_BPND = self.contents(signal_BPT, visible_BPN) + expected_BPND
        return self.transformed(contents_BPND, visible_BPN, observed_BP), visible_BPN
