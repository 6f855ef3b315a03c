import numpy as np
import pytest
import torch

from brainlm_lightning.checkpoint.other_atlas import mapped, moved, position_weights
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.gcn import GCNConfig, GraphConvolutionalNetwork
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder

GENERATOR = torch.Generator().manual_seed(0)
HERE, THERE = torch.randn(12, 3, generator=GENERATOR) * 40, torch.randn(9, 3, generator=GENERATOR) * 40
WIDTHS = {"embed_dim": 24, "num_heads": 2, "decoder_embed_dim": 16, "decoder_num_heads": 2}
SMALL = {"patch_frames": 10, "depth": 1, "decoder_depth": 1, **WIDTHS}


def model_of(xyz_mm, **config):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return MaskedAutoencoder(Geometry(xyz_mm, 20), MAEConfig(**SMALL, **config)).eval()


def predicted(model):
    """What a model makes of half a window, and the window's places of parcels."""
    parcels = model.geometry.num_parcels
    signal_BPT = torch.randn(2, 12, 20, generator=torch.Generator().manual_seed(2))[:, :parcels]
    hidden_BPN = torch.zeros(2, parcels, 2, dtype=torch.bool)
    hidden_BPN[:, :, 1] = True
    with torch.no_grad():
        return model(signal_BPT, hidden_BPN, torch.ones(2, parcels, dtype=torch.bool)).prediction_BPT


def test_weights_by_position_are_a_kernel_on_distance():
    naive = np.empty((9, 12))
    for row, there in enumerate(THERE.double().numpy()):
        for column, here in enumerate(HERE.double().numpy()):
            naive[row, column] = np.exp(-np.sum((there - here) ** 2) / (2 * 15.0**2))
    naive /= naive.sum(1, keepdims=True)
    assert position_weights(HERE, THERE, 15.0).numpy() == pytest.approx(naive, abs=1e-12)
    with pytest.raises(ValueError, match="width_mm is 0; expected a width above 0"):
        position_weights(HERE, THERE, 0)


def test_a_vector_between_two_has_their_direction_and_their_length():
    vectors = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    found = mapped(vectors, torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64))
    expected = np.array([[3, 1], [np.sqrt(10), 0]]) / np.sqrt(10) * [[2], [3]]
    assert found.numpy() == pytest.approx(expected)


def test_a_model_that_moves_to_its_own_atlas_is_the_same():
    model = model_of(HERE)
    same = moved(model, HERE, position_weights(HERE, HERE, 0.5))
    assert predicted(same).numpy() == pytest.approx(predicted(model).numpy(), abs=1e-6)
    assert not same.training


@pytest.mark.parametrize("spatial", ["learnable", "xyz"])
def test_a_model_that_moves_to_a_part_of_its_atlas_in_another_order_predicts_as_if_it_were_alone_there(spatial):
    model, order = model_of(HERE, spatial_embedding=spatial), torch.tensor([7, 2, 11, 0, 5, 1, 3, 4, 6])
    part = moved(model, HERE[order], position_weights(HERE, HERE[order], 0.5))
    signal_BPT = torch.randn(2, 12, 20, generator=torch.Generator().manual_seed(2))
    observed_BP = torch.zeros(2, 12, dtype=torch.bool)
    observed_BP[:, order] = True
    hidden_BPN = torch.zeros(2, 12, 2, dtype=torch.bool)
    hidden_BPN[:, ::2, 1] = True
    with torch.no_grad():
        whole = model(signal_BPT, hidden_BPN, observed_BP).prediction_BPT[:, order]
        found = part(signal_BPT[:, order], hidden_BPN[:, order], observed_BP[:, order]).prediction_BPT
    assert found.numpy() == pytest.approx(whole.numpy(), abs=1e-5)


def test_embeddings_of_places_are_computed_from_the_new_places():
    model = model_of(HERE, spatial_embedding="xyz")
    found = moved(model, THERE, torch.full((9, 12), 1 / 12, dtype=torch.float64))  # of no use here
    expected = THERE / 100 @ model.position.xyz_projection.weight.T + model.position.xyz_projection.bias
    assert found.position.spatial().detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-6)


def test_a_model_with_other_tensors_of_parcels_does_not_move():
    model = GraphConvolutionalNetwork(Geometry(HERE, 20), GCNConfig(patch_frames=10, width=8, depth=1, neighbours=3))
    with pytest.raises(ValueError, match=r"cannot move to another atlas: adjacency_PP \(12, 12\) belong to its own"):
        moved(model, THERE, position_weights(HERE, THERE, 6.0))
