"""What parcels are known by: each feature against its definition."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainlm_lightning.model.attention_maps import Reading, parcel_attention
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.tasks.networks.methods import (
    AttentionRows,
    AttentionWithoutSignal,
    Connectivity,
    ParcelEmbedding,
    Position,
    RawSeries,
)

XYZ_MM = np.random.default_rng(0).uniform(-60, 60, (6, 3)).astype(np.float32)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = MaskedAutoencoder(Geometry(torch.from_numpy(XYZ_MM), 20), MAEConfig(5, 16, 2, 2, 16, 1, 2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture
def batch():
    signal_BPT = torch.randn(3, 6, 20, generator=torch.Generator().manual_seed(1))
    return {"signal_BPT": signal_BPT, "observed_BP": torch.ones(3, 6, dtype=torch.bool)}


def test_connectivity_is_numpys_correlation_and_0_with_a_constant_parcel(batch):
    batch["signal_BPT"][1, 2] = 4.0
    found = Connectivity().features(batch)
    np.testing.assert_allclose(found[0], np.corrcoef(batch["signal_BPT"][0]), atol=1e-6)
    assert not found[1, 2].any()
    assert Connectivity.relational


def positions(batch, **options):
    method = Position(**options)
    atlas = SimpleNamespace(xyz_mm=XYZ_MM)
    method.fit(SimpleNamespace(data=SimpleNamespace(atlas=atlas)))
    return method.features(batch)


def test_positions_are_the_atlass_and_mirrored_ones_lie_on_one_side(batch):
    np.testing.assert_array_equal(positions(batch), np.stack([XYZ_MM] * 3))
    mirrored = positions(batch, mirrored=True)[2]
    np.testing.assert_array_equal(mirrored, np.abs(XYZ_MM) * [1, 0, 0] + XYZ_MM * [0, 1, 1])
    assert (XYZ_MM[:, 0] < 0).any()  # and the atlas's own table is as it was


def test_attention_embedding_and_series_are_those_of_the_model(model, batch):
    found = AttentionRows(model, Reading((0,))).features(batch)
    expected = parcel_attention(model, batch["signal_BPT"], batch["observed_BP"], Reading((0,))).parcels_BPP
    np.testing.assert_array_equal(found, expected)
    embedded = model.embed(batch["signal_BPT"], batch["observed_BP"]).parcel_BPD
    np.testing.assert_array_equal(ParcelEmbedding(model).features(batch), embedded.detach())
    np.testing.assert_array_equal(RawSeries().features(batch), batch["signal_BPT"])


def test_attention_without_signal_does_not_know_the_recording(model, batch):
    control = AttentionWithoutSignal(model, Reading())
    control.fit(None)
    first = control.features(batch)
    np.testing.assert_array_equal(control.features(batch | {"signal_BPT": 9 * batch["signal_BPT"]}), first)
    assert first.shape == (3, 6, 6)
    assert np.abs(AttentionRows(model, Reading()).features(batch) - first).max() > 0.01
