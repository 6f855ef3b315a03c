"""A variational autoencoder of single parcels' series, trained with the masking objective (paper, table 4).

One network is shared by all parcels: three layers from a parcel's visible values and what of it is hidden to a
Gaussian over latent variables, three from there to its whole series. The paper says no more than "3 encoding and 3
decoding layers"; a parcel at a time is the reading that gives every parcel of every recording an embedding of its own.

Shapes: B batch, P parcels, T frames, N patches per parcel, D latent variables, H hidden width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.masked import Embedding, MaskedModel, Reconstruction


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the autoencoder.

    Attributes:
        patch_frames: frames of a patch; the window is a whole number of them.
        hidden_dim: width of the two layers between series and latent variables, on either side.
        latent_dim: latent variables of a parcel.
        kl_weight: of the Kullback–Leibler term. The loss is the ELBO's, per frame, if the series are the decoder's
            output plus white noise of variance `kl_weight`; scaled series have a variance of about 1.
    """

    patch_frames: int = 20
    hidden_dim: int = 256
    latent_dim: int = 32
    kl_weight: float = 0.1


class VariationalAutoencoder(MaskedModel):
    """Encodes the visible values of each parcel by itself and decodes its whole series.

    In training the latent variables are drawn; in evaluation they are their mean, so that an embedding is a function
    of the window alone.

    Args:
        geometry: parcels and window.
        config: sizes.

    Raises:
        ValueError: the patch does not divide the window.
    """

    name = "vae"
    config_type = VAEConfig
    config: VAEConfig

    def __init__(self, geometry: Geometry, config: VAEConfig | None = None) -> None:
        super().__init__(geometry, config)
        hidden, latent, frames = self.config.hidden_dim, self.config.latent_dim, geometry.window_frames
        self.encoder = three_layers(frames + self.num_patches, hidden, 2 * latent)
        self.decoder = three_layers(latent, hidden, frames)

    def encode(self, signal_BPT: Tensor, visible_BPN: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of each parcel's latent variables, each (B, P, D)."""
        mean_BPD, log_variance_BPD = self.encoder(visible_features(signal_BPT, visible_BPN)).chunk(2, dim=-1)
        return mean_BPD, log_variance_BPD

    def forward(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> Reconstruction:
        """See `MaskedModel.forward`."""
        self.check_signal(signal_BPT)
        mean_BPD, log_variance_BPD = self.encode(signal_BPT, ~hidden_BPN & observed_BP[:, :, None])
        latent_BPD = mean_BPD
        if self.training:
            latent_BPD = mean_BPD + torch.randn_like(mean_BPD) * (0.5 * log_variance_BPD).exp()
        divergence = divergence_from_standard(mean_BPD, log_variance_BPD, observed_BP)
        regularisation = self.config.kl_weight * 2 / self.geometry.window_frames * divergence
        return Reconstruction(self.decoder(latent_BPD), mean_over_observed(mean_BPD, observed_BP), regularisation)

    def embed(self, signal_BPT: Tensor, observed_BP: Tensor) -> Embedding:
        """See `MaskedModel.embed`: the mean of a parcel's latent variables."""
        self.check_signal(signal_BPT)
        mean_BPD, _ = self.encode(signal_BPT, observed_BP[:, :, None].expand(-1, -1, self.num_patches))
        cls_BD = mean_over_observed(mean_BPD, observed_BP)
        return Embedding(cls_BD, mean_BPD.where(observed_BP[:, :, None], torch.nan))


def three_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """A perceptron with two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)
    )


def visible_features(signal_BPT: Tensor, visible_BPN: Tensor) -> Tensor:
    """A parcel's values, 0 where they are not visible, and which patches are, (B, P, T + N)."""
    visible_BPT = visible_BPN.repeat_interleave(signal_BPT.shape[2] // visible_BPN.shape[2], dim=2)
    return torch.cat([signal_BPT.where(visible_BPT, 0), visible_BPN.to(signal_BPT.dtype)], dim=-1)


def mean_over_observed(values_BPD: Tensor, observed_BP: Tensor) -> Tensor:
    """Mean over a recording's observed parcels, (B, D); 0 where there is none."""
    total_BD = values_BPD.where(observed_BP[:, :, None], 0).sum(dim=1)
    return total_BD / observed_BP.sum(dim=1, keepdim=True).clamp(min=1)


def divergence_from_standard(mean_BPD: Tensor, log_variance_BPD: Tensor, observed_BP: Tensor) -> Tensor:
    """Kullback–Leibler divergence of N(mean, variance) from N(0, 1) in nats: mean over observed parcels, then windows.

    KL = ½ Σ_d (μ² + σ² − 1 − log σ²) (Kingma & Welling 2014, appendix B).
    """
    mean_BPD, log_variance_BPD = mean_BPD.float(), log_variance_BPD.float()
    terms_BPD = mean_BPD.square() + log_variance_BPD.exp() - 1 - log_variance_BPD
    return mean_over_observed(0.5 * terms_BPD.sum(dim=-1, keepdim=True), observed_BP).mean()
