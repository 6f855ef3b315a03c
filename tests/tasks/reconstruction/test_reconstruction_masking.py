"""Whole networks are hidden only where the atlas names networks."""

import pytest
import torch

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.masking import Grid, draw_mask
from brainlm_lightning.tasks.reconstruction.plan import parcel_networks
from brainlm_lightning.tasks.reconstruction.task import PretrainTask


def test_networks_are_numbered_in_order_of_appearance():
    assert parcel_networks(["visual", "motor", "visual", "none", "motor"]).tolist() == [0, 1, 0, -1, 1]


def test_an_atlas_without_networks_has_no_numbers():
    assert parcel_networks(["none"] * 5) is None


def test_a_parcel_of_no_network_is_hidden_with_none():
    network_P = parcel_networks(["a", "none", "b", "a", "none"])
    grid = Grid(torch.ones(64, 5, dtype=torch.bool), 2, network_P)
    hidden_BPN = draw_mask("networks", torch.arange(64), 0.5, grid)
    assert set(map(tuple, hidden_BPN[..., 0].int().tolist())) == {(1, 0, 0, 1, 0), (0, 0, 1, 0, 0)}


def test_hiding_networks_of_an_atlas_without_them_is_an_error():
    """Its parcels would be one network: hidden all at once, or never."""
    task = PretrainTask()
    config = MAEConfig(10, 16, 1, 2, 16, 1, 2)
    task.net = MaskedAutoencoder(Geometry(torch.zeros(5, 3), 40), config)
    task.register_buffer("network_P", parcel_networks(["none"] * 5), persistent=False)
    batch = {"observed_BP": torch.ones(2, 5, dtype=torch.bool), "key_B": torch.arange(2)}
    assert task.draw_mask(batch, 0.5).sum() == 20
    with pytest.raises(ValueError, match="needs a network label for each parcel; the atlas table has none"):
        task.draw_mask(batch, 0.75, "networks")
