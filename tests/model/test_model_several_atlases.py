"""A model of several atlases is, on recordings of one of them, the model of that one alone."""

import pytest
import torch

from brainlm_lightning.checkpoint.other_atlas import moved
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.masked import reconstruction_loss
from brainlm_lightning.model.masking import Grid, draw_mask

CENTROIDS = torch.randn(21, 3, generator=torch.Generator().manual_seed(0)) * 40
PART = slice(9, 21)  # of the second atlas


def both_and_part(**options):
    config = MAEConfig(10, 24, 1, 2, 16, 2, 2, **options)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        whole = MaskedAutoencoder(Geometry(CENTROIDS, 40), config).double()
    return whole, moved(whole, CENTROIDS[PART], torch.eye(21, dtype=torch.float64)[PART]).double()


def windows():
    """Windows of the second atlas, with dead parcels, for the model of both and for that of its own."""
    generator = torch.Generator().manual_seed(2)
    observed_BP = torch.rand(3, 12, generator=generator) < 0.8
    signal_BPT = torch.randn(3, 12, 40, generator=generator, dtype=torch.float64) * observed_BP[:, :, None]
    hidden_BPN = (torch.rand(3, 12, 4, generator=generator) < 0.6) & observed_BP[:, :, None]
    part = (signal_BPT, hidden_BPN, observed_BP)
    return part, tuple(torch.cat([of.new_zeros(3, 9, *of.shape[2:]), of], dim=1) for of in part)


@pytest.mark.parametrize("spatial", ["learnable", "xyz"])
@pytest.mark.parametrize("decoder", ["joint", "cross"])
@pytest.mark.parametrize("wanted", [False, True])
def test_predictions_and_gradients_are_those_of_the_part_alone(spatial, decoder, wanted):
    whole, part = both_and_part(decoder=decoder, spatial_embedding=spatial)
    gradients = []
    for model, (signal_BPT, hidden_BPN, observed_BP) in zip((part, whole), windows(), strict=True):
        given = (signal_BPT, hidden_BPN, observed_BP)
        output = model.reconstruct(*given, hidden_BPN) if wanted else model(*given)
        reconstruction_loss(output.prediction_BPT, signal_BPT, hidden_BPN).backward()
        shown_BPT = output.prediction_BPT[:, -12:] * windows()[0][2][:, :, None]
        if wanted:
            shown_BPT = shown_BPT * windows()[0][1].repeat_interleave(10, 2)
        found = {name: of.grad for name, of in model.named_parameters() if of.grad is not None}
        gradients.append({"prediction": shown_BPT.detach(), **found})
    for name, of_part in gradients[0].items():
        of_whole = gradients[1][name]
        if name.endswith("spatial_PD"):
            assert not of_whole[:9].any()
            of_whole = of_whole[PART]
        torch.testing.assert_close(of_whole, of_part, rtol=1e-9, atol=1e-12)


def test_networks_are_hidden_among_those_that_a_recording_has():
    network_P = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, -1])
    observed_BP = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 1, 1, 1]], dtype=torch.bool)
    for key in range(20):
        hidden_BPN = draw_mask("networks", torch.tensor([key, key]), 0.5, Grid(observed_BP, 2, network_P))
        numbers = [set(network_P[hidden_BPN[window].all(1)].tolist()) for window in range(2)]
        assert numbers[0] in ({0}, {1})
        assert numbers[1] in ({2}, {3})
