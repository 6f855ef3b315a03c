"""The network that completes a smoother: what it is before training, what it may see, and what its weights weigh."""

import numpy as np
import pytest
import torch

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.tied import TiedAutoencoder, TiedConfig
from brainlm_lightning.model.tied_prior import TiedPriorAutoencoder

PARCELS, PATCHES, PATCH = 6, 5, 4
FRAMES = PATCHES * PATCH
GEOMETRY = Geometry(torch.arange(PARCELS * 3.0).reshape(PARCELS, 3), FRAMES)
SMALL = TiedConfig(PATCH, 32, 2, 4)


class Cohort:
    """Recordings of mixed, slow parcels."""

    def __init__(self, count=12, frames=60):
        random = np.random.default_rng(0)
        mixing = np.random.default_rng(7).standard_normal((PARCELS, PARCELS)) + 2 * np.eye(PARCELS)
        white = random.standard_normal((count, PARCELS, frames + 5))
        slow = np.stack([white[:, :, lag : lag + frames] for lag in range(6)]).mean(0)
        self.series = np.einsum("pq,rqt->rpt", mixing, slow) + 0.1 * random.standard_normal((count, PARCELS, frames))
        self.covariance_PP = torch.from_numpy(np.cov(self.series.transpose(1, 0, 2).reshape(PARCELS, -1)))

    def autocovariance(self, lags):
        return 0.5 ** torch.arange(lags, dtype=torch.float64)

    def recordings(self, subjects="all"):
        kept = {"all": slice(None), "learn": slice(8), "choose": slice(8, None)}[subjects]
        return iter([(values_PT, np.ones(PARCELS, bool)) for values_PT in self.series[kept]])


@pytest.fixture(scope="module")
def untrained():
    return build(TiedPriorAutoencoder, "smoother")


def build(kind, start):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(GEOMETRY, SMALL).eval()
    model.start(start, Cohort(), 0)
    return model


def trained():
    """With weights of every kind that training may give."""
    model = build(TiedPriorAutoencoder, "smoother")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for part in (model.weight.weight, model.weight.bias, model.expected_projection.weight):
            torch.nn.init.normal_(part, std=0.2)
    return model


def windows():
    """Three windows; the second has no data of parcel 2, nothing of parcel 4 is visible in the third."""
    signal = torch.from_numpy(Cohort().series[:3, :, :FRAMES]).float()
    observed = torch.ones(3, PARCELS, dtype=torch.bool)
    observed[1, 2] = False
    hidden = torch.rand(3, PARCELS, PATCHES, generator=torch.Generator().manual_seed(1)) < 0.5
    hidden[2, 4] = True
    return signal, hidden & observed[:, :, None], observed


def by_frame(mask_BPN):
    return mask_BPN.repeat_interleave(PATCH, dim=2)


def test_before_training_it_is_the_smoother_to_the_last_bit(untrained):
    signal, hidden, observed = windows()
    expected = untrained.prior(signal, by_frame(observed[:, :, None] & ~hidden)).float()
    assert torch.equal(untrained(signal, hidden, observed).prediction_BPT, expected)


def test_a_weight_of_one_is_the_network_and_a_half_lies_between(untrained):
    signal, hidden, observed = windows()
    network = build(TiedAutoencoder, "kernel")
    model = build(TiedPriorAutoencoder, "smoother")
    with torch.no_grad():
        own, prior = (of(signal, hidden, observed).prediction_BPT for of in (network, untrained))
        for weight in (1.0, 0.5):
            model.weight.bias.fill_(weight)
            mixed = model(signal, hidden, observed).prediction_BPT
            torch.testing.assert_close(mixed, prior + weight * (own - prior), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("poison", [1e9, float("nan")])
def test_what_is_hidden_or_unobserved_leaves_no_trace(poison):
    model, (signal, hidden, observed) = trained(), windows()
    lost = by_frame(hidden | ~observed[:, :, None])
    with torch.no_grad():
        for of in (model, model.tokens):
            clean, poisoned = (of(given, hidden, observed) for given in (signal, signal.masked_fill(lost, poison)))
            for found, expected in zip(vars(poisoned).values() if of is model else poisoned,
                                       vars(clean).values() if of is model else clean, strict=True):  # fmt: skip
                assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))


def test_hidden_tokens_hold_what_the_smoother_expects_of_them_and_no_others_do():
    model, (signal, hidden, observed) = trained(), windows()
    held = []
    model.blocks[0].register_forward_pre_hook(lambda _, given: held.append(given[0].detach()))
    plain = build(TiedAutoencoder, "kernel")
    plain.blocks[0].register_forward_pre_hook(lambda _, given: held.append(given[0].detach()))
    with torch.no_grad():
        model(signal, hidden, observed)
        plain(signal, hidden, observed)
        prior = model.prior(signal, by_frame(observed[:, :, None] & ~hidden)).float()
    added = held[0] - held[1]
    expected = prior.unflatten(2, (PATCHES, PATCH)) @ model.expected_projection.weight.T
    torch.testing.assert_close(added[hidden], expected[hidden], rtol=1e-4, atol=1e-5)
    assert not added[~hidden].any()


def test_tokens_are_those_that_the_prediction_is_made_of_and_nothing_hidden_needs_no_prior(monkeypatch):
    model, (signal, hidden, observed) = trained(), windows()
    with torch.no_grad():
        summary, states = model.tokens(signal, hidden, observed)
        assert torch.equal(summary, model(signal, hidden, observed).cls_BD)
        seen = observed[:, :, None] & ~hidden
        torch.testing.assert_close(summary[0], states[0][seen[0]].mean(0))
        monkeypatch.setattr(model, "prior", None)
        embedding = model.embed(signal, observed)
    assert embedding.parcel_BPD[1, 2].isnan().all()
    assert embedding.parcel_BPD[0].isfinite().all()


def test_training_moves_every_weight_and_leaves_the_prior_alone():
    model, batch = trained().train(), windows()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    model(*batch).prediction_BPT.square().mean().backward()
    optimiser.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("prior."), name


def test_from_the_smoother_on_learning_reaches_the_network():
    """All weights are zero at first: the first step moves those of the mixture alone, the second the network."""
    model, batch = build(TiedPriorAutoencoder, "smoother").train(), windows()
    network = {name: value.clone() for name, value in model.blocks.state_dict().items()}
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    target = model(*batch).prediction_BPT.detach() + 0.1
    errors = []
    for _ in range(20):
        optimiser.zero_grad()
        error = (model(*batch).prediction_BPT - target).square().mean()
        error.backward()
        optimiser.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.8 * errors[0]
    assert not any(torch.equal(value, network[name]) for name, value in model.blocks.state_dict().items())


def test_another_start_is_refused():
    with pytest.raises(ValueError, match="no start 'kernel'; set initialisation to smoother"):
        TiedPriorAutoencoder(GEOMETRY, SMALL).start("kernel", Cohort(), 0)
