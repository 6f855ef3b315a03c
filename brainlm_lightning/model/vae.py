"""A variational autoencoder of single parcels' series, trained with the masking objective (paper, table 4).

All parcels share one network: three layers map a parcel's visible values and its mask to a Gaussian over latent
variables, and three layers map those to the whole series. The paper specifies only "3 encoding and 3 decoding layers";
encoding one parcel at a time gives every parcel of every recording its own embedding.

Shapes: B batch, P parcels, T frames, N patches per parcel, D width, Z latent variables.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.masked import Embedding, MaskedModel, Reconstruction
from brainlm_lightning.model.sizes import check_sizes


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the autoencoder.

    Attributes:
        patch_frames: frames per patch; must divide the window.
        hidden_dim: width of the two hidden layers of encoder and decoder.
        latent_dim: latent variables per parcel.
        kl_weight: weight of the Kullback–Leibler term. The loss is the negative ELBO per frame for white observation
            noise of variance `kl_weight`; scaled series have a variance of about 1.
    """

    patch_frames: int = 20
    hidden_dim: int = 256
    latent_dim: int = 32
    kl_weight: float = 0.1

    def __post_init__(self) -> None:
        """Validates the sizes."""
        check_sizes(self)


class VariationalAutoencoder(MaskedModel):
    """Encodes the visible values of one parcel at a time and decodes its whole series.

    Latent variables are sampled in training; in evaluation they are their mean, so that an embedding depends on the
    window alone.

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
        """Mean and log variance of each parcel's latent variables, each (B, P, Z)."""
        mean_BPZ, log_variance_BPZ = self.encoder(visible_features(signal_BPT, visible_BPN)).chunk(2, dim=-1)
        return mean_BPZ, log_variance_BPZ

    def forward(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> Reconstruction:
        """See `MaskedModel.forward`."""
        self.check_signal(signal_BPT)
        mean_BPZ, log_variance_BPZ = self.encode(signal_BPT, ~hidden_BPN & observed_BP[:, :, None])
        latent_BPZ = mean_BPZ
        if self.training:
            latent_BPZ = mean_BPZ + torch.randn_like(mean_BPZ) * (0.5 * log_variance_BPZ).exp()
        divergence = divergence_from_standard(mean_BPZ, log_variance_BPZ, observed_BP)
        regularisation = self.config.kl_weight * 2 / self.geometry.window_frames * divergence
        return Reconstruction(self.decoder(latent_BPZ), mean_over_observed(mean_BPZ, observed_BP), regularisation)

    def embed(self, signal_BPT: Tensor, observed_BP: Tensor) -> Embedding:
        """See `MaskedModel.embed`: the mean of a parcel's latent variables."""
        self.check_signal(signal_BPT)
        mean_BPZ, _ = self.encode(signal_BPT, observed_BP[:, :, None].expand(-1, -1, self.num_patches))
        cls_BZ = mean_over_observed(mean_BPZ, observed_BP)
        return Embedding(cls_BZ, mean_BPZ.where(observed_BP[:, :, None], torch.nan))


def three_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """An MLP with two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)
    )


def visible_features(signal_BPT: Tensor, visible_BPN: Tensor) -> Tensor:
    """Each parcel's values, 0 where not visible, followed by its mask of visible patches, (B, P, T + N)."""
    visible_BPT = visible_BPN.repeat_interleave(signal_BPT.shape[2] // visible_BPN.shape[2], dim=2)
    return torch.cat([signal_BPT.where(visible_BPT, 0), visible_BPN.to(signal_BPT.dtype)], dim=-1)


def mean_over_observed(values_BPD: Tensor, observed_BP: Tensor) -> Tensor:
    """Mean over the observed parcels, (B, D); 0 where there are none."""
    total_BD = values_BPD.where(observed_BP[:, :, None], 0).sum(dim=1)
    return total_BD / observed_BP.sum(dim=1, keepdim=True).clamp(min=1)


def divergence_from_standard(mean_BPZ: Tensor, log_variance_BPZ: Tensor, observed_BP: Tensor) -> Tensor:
    """Kullback–Leibler divergence of N(μ, σ²) from N(0, 1) in nats, averaged over observed parcels, then windows.

    KL = ½ Σ_d (μ² + σ² − 1 − log σ²) (Kingma & Welling 2014, appendix B).
    """
    mean_BPZ, log_variance_BPZ = mean_BPZ.float(), log_variance_BPZ.float()
    terms_BPZ = mean_BPZ.square() + log_variance_BPZ.exp() - 1 - log_variance_BPZ
    return mean_over_observed(0.5 * terms_BPZ.sum(dim=-1, keepdim=True), observed_BP).mean()
