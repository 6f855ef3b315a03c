"""The masked models of table 4, autoencoder and graph network: what they must not see, and what they are."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.gcn import GCNConfig, GraphConvolutionalNetwork, nearest_edges
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.vae import VAEConfig, VariationalAutoencoder, divergence_from_standard

WINDOWS, PARCELS, PATCHES, PATCH = 3, 8, 4, 5
GEOMETRY = Geometry(torch.from_numpy(np.random.default_rng(0).uniform(-80, 80, (PARCELS, 3))).float(), PATCHES * PATCH)
KINDS = ["vae", "gcn", "mae"]
each_kind = pytest.mark.parametrize("kind", KINDS)
baselines = pytest.mark.parametrize("kind", KINDS[:2])


def build(kind, geometry=GEOMETRY):
    """A small model whose weights are large enough that everything that can matter does."""
    torch.manual_seed(0)
    if kind == "mae":
        model = MaskedAutoencoder(geometry, MAEConfig(PATCH, 16, 1, 2, 16, 1, 2))
    elif kind == "vae":
        model = VariationalAutoencoder(geometry, VAEConfig(PATCH, 16, 4))
    else:
        model = GraphConvolutionalNetwork(geometry, GCNConfig(PATCH, 16, neighbours=2))
        model.start("standard", SimpleNamespace(covariance_PP=torch.cov(torch.randn(PARCELS, 50))), 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture
def batch():
    """Windows, half hidden; the second lacks parcel 2, the last the first three."""
    generator = torch.Generator().manual_seed(1)
    signal_BPT = torch.randn(WINDOWS, PARCELS, PATCHES * PATCH, generator=generator)
    observed_BP = torch.ones(WINDOWS, PARCELS, dtype=torch.bool)
    observed_BP[1, 2] = observed_BP[2, :3] = False
    hidden_BPN = (torch.rand(WINDOWS, PARCELS, PATCHES, generator=generator) < 0.5) & observed_BP[:, :, None]
    return signal_BPT, hidden_BPN, observed_BP


@baselines
@pytest.mark.parametrize("training", [False, True])
def test_hidden_and_unobserved_values_have_no_gradient(kind, training, batch):
    signal_BPT, hidden_BPN, observed_BP = batch
    output = build(kind).train(training)(signal_BPT.requires_grad_(), hidden_BPN, observed_BP)
    probe = torch.randn_like(output.prediction_BPT)
    ((output.prediction_BPT * probe).sum() + output.cls_BD.sum() + output.regularisation).backward()
    unseen_BPT = (hidden_BPN | ~observed_BP[:, :, None]).repeat_interleave(PATCH, dim=2)
    assert signal_BPT.grad[unseen_BPT].abs().max() == 0
    assert signal_BPT.grad[~unseen_BPT].abs().min() > 0


@baselines
@pytest.mark.parametrize("poison", [1e9, float("nan")])
def test_poisoned_hidden_values_change_nothing(kind, poison, batch):
    signal_BPT, hidden_BPN, observed_BP = batch
    unseen_BPT = (hidden_BPN | ~observed_BP[:, :, None]).repeat_interleave(PATCH, dim=2)
    model = build(kind)
    clean = model(*batch)
    poisoned = model(signal_BPT.masked_fill(unseen_BPT, poison), hidden_BPN, observed_BP)
    assert torch.equal(poisoned.prediction_BPT, clean.prediction_BPT)
    assert torch.equal(poisoned.cls_BD, clean.cls_BD)


@baselines
def test_every_parameter_gets_a_gradient(kind, batch):
    model = build(kind).train()
    output = model(*batch)
    (output.prediction_BPT.square().sum() + output.regularisation).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@each_kind
def test_an_embedding_is_of_the_window_alone_and_nan_where_there_is_no_data(kind, batch):
    model, (signal_BPT, _, observed_BP) = build(kind), batch
    together = model.embed(signal_BPT, observed_BP)
    assert torch.equal(together.parcel_BPD.isnan().all(-1), ~observed_BP)
    assert torch.equal(together.parcel_BPD.isnan().any(-1), ~observed_BP)
    for window in range(WINDOWS):
        alone = model.embed(signal_BPT[window : window + 1], observed_BP[window : window + 1])
        torch.testing.assert_close(alone.parcel_BPD[0], together.parcel_BPD[window], equal_nan=True)
        torch.testing.assert_close(alone.cls_BD[0], together.cls_BD[window])


def test_the_autoencoders_embedding_of_a_parcel_is_the_mean_of_its_output_tokens(batch):
    model, (signal_BPT, _, observed_BP) = build("mae"), batch
    nothing = torch.zeros(WINDOWS, PARCELS, PATCHES, dtype=torch.bool)
    encoding, found = model.encode(signal_BPT, nothing, observed_BP), model.embed(signal_BPT, observed_BP)
    tokens_PND = encoding.tokens_BVD[2][encoding.valid_BV[2]].unflatten(0, (-1, PATCHES))
    torch.testing.assert_close(found.parcel_BPD[2, 3:], tokens_PND.mean(1))
    assert torch.equal(found.cls_BD, encoding.cls_BD)


@baselines
def test_permuting_parcels_permutes_prediction_and_embedding(kind, batch):
    model, order = build(kind), torch.tensor([3, 0, 7, 5, 1, 6, 4, 2])
    straight, embedded = model(*batch).prediction_BPT, model.embed(batch[0], batch[2]).parcel_BPD
    if kind == "gcn":
        model.adjacency_PP.copy_(model.adjacency_PP[order][:, order].clone())
    moved = [part[:, order] for part in batch]
    torch.testing.assert_close(model(*moved).prediction_BPT, straight[:, order])
    torch.testing.assert_close(model.embed(moved[0], moved[2]).parcel_BPD, embedded[:, order], equal_nan=True)


def test_latent_variables_are_drawn_in_training_alone_and_their_divergence_is_torchs(batch):
    model = build("vae")
    assert torch.equal(model(*batch).prediction_BPT, model(*batch).prediction_BPT)
    model.train()
    assert not torch.equal(model(*batch).prediction_BPT, model(*batch).prediction_BPT)
    mean, log_variance, observed_BP = torch.randn(3, PARCELS, 4), torch.randn(3, PARCELS, 4), batch[2]
    exact = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(-1)
    expected = torch.stack([exact[window][observed_BP[window]].mean() for window in range(3)]).mean()
    torch.testing.assert_close(divergence_from_standard(mean, log_variance, observed_BP), expected)


def test_the_loss_is_the_negative_elbo_of_white_noise_times_a_constant(batch):
    """With all frames scored: 2 σ² / T · (−ELBO) = mean squared error + σ² · 2 / T · KL, up to the noise's constant."""
    model, (signal_BPT, hidden_BPN, _) = build("vae"), batch
    observed_BP, noise, frames = torch.ones(WINDOWS, PARCELS, dtype=torch.bool), 0.1, PATCHES * PATCH
    output = model(signal_BPT, hidden_BPN, observed_BP)
    mean, log_variance = model.encode(signal_BPT, ~hidden_BPN)
    log_likelihood_BP = Normal(output.prediction_BPT, noise**0.5).log_prob(signal_BPT).sum(-1)
    divergence_BP = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(-1)
    elbo = (log_likelihood_BP - divergence_BP).mean() + frames / 2 * np.log(2 * np.pi * noise)
    loss = (output.prediction_BPT - signal_BPT).square().mean() + output.regularisation
    torch.testing.assert_close(loss, -2 * noise / frames * elbo)


def test_a_graph_layer_is_kipf_and_wellings(batch):
    """Loop over the edges of a graph of three nearest neighbours."""
    config = GCNConfig(PATCH, 16, depth=2, graph="nearest", neighbours=3)
    model, xyz = GraphConvolutionalNetwork(GEOMETRY, config), GEOMETRY.xyz_mm
    distance = [[float((xyz[p] - xyz[q]).norm()) for q in range(PARCELS)] for p in range(PARCELS)]
    closest = [set(sorted(range(PARCELS), key=lambda q: distance[p][q])[:4]) for p in range(PARCELS)]  # itself, too
    joined = [[q in closest[p] or p in closest[q] for q in range(PARCELS)] for p in range(PARCELS)]
    degree = [sum(row) for row in joined]
    x = torch.cat([batch[0], torch.ones(WINDOWS, PARCELS, PATCHES)], dim=-1)
    for number, layer in enumerate(model.layers):
        mixed = torch.stack(
            [
                sum(x[:, q] / (degree[p] * degree[q]) ** 0.5 for q in range(PARCELS) if joined[p][q])
                for p in range(PARCELS)
            ],
            dim=1,
        )
        made = torch.nn.functional.gelu(mixed @ layer.weight.T + layer.bias)
        x = made + x if number else made
    everything = torch.ones(WINDOWS, PARCELS, dtype=torch.bool)
    torch.testing.assert_close(model.embed(batch[0], everything).parcel_BPD, x, rtol=1e-4, atol=1e-5)


def test_connectivity_joins_the_most_correlated_parcels_and_no_anticorrelated_ones():
    covariance = torch.eye(PARCELS, dtype=torch.float64) * 4
    covariance[0, 1] = covariance[1, 0] = 2.0
    covariance[2, 3] = covariance[3, 2] = -3.0
    covariance[7] = covariance[:, 7] = 0.0  # without variance
    model = GraphConvolutionalNetwork(GEOMETRY, GCNConfig(PATCH, neighbours=1))
    model.start("standard", SimpleNamespace(covariance_PP=covariance), 0)
    expected = torch.eye(PARCELS)
    expected[:2, :2] = torch.tensor([[1, 0.5], [0.5, 1]]) / 1.5
    torch.testing.assert_close(model.adjacency_PP, expected)
    edges = nearest_edges(covariance, 3)
    assert torch.equal(edges, edges.T)
    assert int(edges.sum(1).min()) >= 3
    assert not edges.diagonal().any()


@baselines
def test_what_cannot_be_built_is_an_error(kind):
    with pytest.raises(ValueError, match="window of 21 frames does not divide into patches of 5"):
        build(kind, Geometry(GEOMETRY.xyz_mm, 21))
    with pytest.raises(ValueError, match=r"= \(1, 7, 20\), the model was built for 8 parcels"):
        build(kind).embed(torch.zeros(1, 7, 20), torch.ones(1, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match="neighbours is 8; expected 1 to 7"):
        GraphConvolutionalNetwork(GEOMETRY, GCNConfig(PATCH, neighbours=8))
