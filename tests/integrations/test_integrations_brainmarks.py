"""The plug-in against a stand-in of the benchmark: its samples, its collation, its frozen features and a probe."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

import brainlm_lightning
from brainlm_lightning.checkpoint.description import KEY, describe
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.integrations.brainmarks import plugin
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder

SMALL = MAEConfig(patch_frames=10, embed_dim=40, depth=1, num_heads=2, decoder_embed_dim=40, decoder_depth=1)


class Samples(torch.utils.data.Dataset):
    """The stand-in's data: z-scored series with what was taken off them, through a model's transform."""

    def __init__(self, store, transform):
        self.store, self.transform = store, transform

    def __len__(self):
        return len(self.store)

    def __getitem__(self, row):
        raw = self.store.raw(row)
        mean, std = raw.mean(0), raw.std(0)
        return self.transform({"bold": (raw - mean) / std, "mean": mean, "std": std, "tr": self.store.tr_s})


def frozen_features(transform, model, store):
    """The stand-in's first step: features of all samples, for probes."""
    model.train()  # which must change nothing
    found = [model(batch) for batch in DataLoader(Samples(store, transform), batch_size=5)]
    return torch.cat([each.cls_embeds for each in found]), torch.cat([each.patch_embeds for each in found])


@pytest.fixture
def one(tiny_store, tmp_path):
    """A checkpoint with random weights, and its cohort: windows of 20 of 60 frames, 16 parcels."""
    data = CohortDataModule("tiny", window_frames=20, global_batch_size=4, num_workers=0)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, strategy=strategy, accumulate_grad_batches=1)
    data.setup("fit")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MaskedAutoencoder(Geometry(torch.tensor(data.stores[0].atlas.xyz_mm), 20), SMALL)
    path = tmp_path / "model.safetensors"
    save_file(net.state_dict(), path, metadata={KEY: json.dumps(describe(net, data))})
    return path, data.stores[0]


def test_the_benchmark_gets_the_features_that_embed_gives(one):
    path, store = one
    transform, model = plugin(path, num_windows=3)
    cls_B1D, tokens_BLD = frozen_features(transform, model, store)
    assert (cls_B1D.shape, tokens_BLD.shape) == ((24, 1, 40), (24, 16 * 2, 40))
    alone = brainlm_lightning.load(path)
    for row in (0, 7):
        found = alone.embed(store.raw(row), tr_s=store.tr_s, atlas=store.atlas, embeddings=["cls", "mean"])
        assert cls_B1D[row, 0].numpy() == pytest.approx(found["cls"], abs=1e-4)
        assert tokens_BLD[row].mean(0).numpy() == pytest.approx(found["mean"], abs=1e-4)
    assert model.space == store.atlas.name


def test_a_probe_trains_and_the_encoder_does_not(one):
    path, store = one
    transform, model = plugin(path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe = torch.nn.Linear(40, 1)
    optimiser = torch.optim.AdamW([*probe.parameters(), *model.parameters()], lr=1e-2)
    batch = next(iter(DataLoader(Samples(store, transform), batch_size=8)))
    losses = []
    for _ in range(20):
        loss = (probe(model(batch).patch_embeds.mean(1))[:, 0] - torch.linspace(-1, 1, 8)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_samples_that_do_not_fit_are_refused(one):
    transform, _ = plugin(one[0], num_windows=4)
    with pytest.raises(ValueError, match=r"the sample's series is \(60, 15\), the checkpoint is in 'simulated'"):
        transform({"bold": np.zeros((60, 15)), "tr": 1.0})
    with pytest.raises(ValueError, match="has 3 windows, 4 are wanted"):
        transform({"bold": one[1].raw(0), "tr": 1.0})
