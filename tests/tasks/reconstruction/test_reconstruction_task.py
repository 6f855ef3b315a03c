"""The autoencoder and the graph network within the tasks: what starts them, what is added to the loss, checkpoints."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainlm_lightning.checkpoint.description import KEY, describe
from brainlm_lightning.checkpoint.files import PREFIX
from brainlm_lightning.checkpoint.pretrained import export, load_model, load_pretrained, untrained
from brainlm_lightning.checkpoint.start import start_model
from brainlm_lightning.checkpoint.start_from import StartFrom
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.evaluation.covariance import correlation
from brainlm_lightning.model.gcn import GCNConfig, GraphConvolutionalNetwork, nearest_edges, normalised
from brainlm_lightning.model.mae import MAEConfig
from brainlm_lightning.model.masked import Reconstruction, reconstruction_loss
from brainlm_lightning.model.prior import PriorAutoencoder
from brainlm_lightning.model.tied import TiedAutoencoder, TiedConfig
from brainlm_lightning.model.tied_prior import TiedPriorAutoencoder
from brainlm_lightning.model.vae import VAEConfig, VariationalAutoencoder
from brainlm_lightning.tasks.reconstruction.task import PretrainTask

KINDS = {
    "vae": lambda geometry: VariationalAutoencoder(geometry, VAEConfig(10, 16, 4)),
    "prior": lambda geometry: PriorAutoencoder(geometry, MAEConfig(10, 16, 1, 2, 16, 1, 2)),
    "tied": lambda geometry: TiedAutoencoder(geometry, TiedConfig(10, 40, 1, 2)),
    "tied_prior": lambda geometry: TiedPriorAutoencoder(geometry, TiedConfig(10, 40, 1, 2)),
    "gcn": lambda geometry: GraphConvolutionalNetwork(geometry, GCNConfig(10, 16, neighbours=3)),
}


@pytest.fixture
def data(tiny_store):
    data = CohortDataModule("tiny", window_frames=40, global_batch_size=4, num_workers=0)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, strategy=strategy, accumulate_grad_batches=1)
    data.setup("fit")
    return data


def test_the_graph_is_that_of_the_training_subjects_alone(data):
    net, _ = start_model(KINDS["gcn"], data, "standard", 0)
    series = np.concatenate([series_PT for series_PT, _ in data.scaled_recordings(data.train_rows)], axis=1)
    correlations = torch.from_numpy(np.corrcoef(series)).float()
    weights = torch.where(nearest_edges(correlations, 3), correlations.clamp(min=0), 0)
    torch.testing.assert_close(net.adjacency_PP, normalised(weights), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(correlation(torch.from_numpy(np.cov(series))), correlations)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_gives_the_model_back_with_its_graph_or_prior(kind, data, tmp_path):
    net = start_model(KINDS[kind], data, None, 0)[0].eval()
    weights = {f"{PREFIX}{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": weights, KEY: describe(net, data)}, tmp_path / "model.ckpt")
    export(tmp_path / "model.ckpt", tmp_path / "model.safetensors")
    signal_BPT, everything_BP = torch.randn(2, 16, 40), torch.ones(2, 16, dtype=torch.bool)
    hidden_BPN = torch.rand(2, 16, 4) < 0.5
    for name in ("model.ckpt", "model.safetensors"):
        loaded, about = load_model(tmp_path / name)
        assert (type(loaded), loaded.config, about["tr_s"]) == (type(net), net.config, 1.0)
        found, expected = (of.embed(signal_BPT, everything_BP).parcel_BPD for of in (loaded, net))
        assert torch.equal(found, expected)
        found, expected = (of(signal_BPT, hidden_BPN, everything_BP).prediction_BPT for of in (loaded, net))
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_training_starts_from_a_model_of_the_same_atlas_whatever_its_starts_are(kind, data, tmp_path):
    net = start_model(KINDS[kind], data, None, 0)[0]
    weights = {f"{PREFIX}{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": weights, KEY: describe(net, data)}, tmp_path / "model.ckpt")
    task = grown(data, tmp_path / "model.ckpt", KINDS[kind])
    found, expected = task.net.state_dict(), net.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def saved(net, data, path):
    """A checkpoint of a model."""
    weights = {f"{PREFIX}{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": weights, KEY: describe(net, data, net.starts[0])}, path)
    return path


def grown(data, checkpoint, kind=KINDS["tied_prior"]):
    task = PretrainTask(kind, start_from=StartFrom(str(checkpoint)))
    task.trainer = SimpleNamespace(datamodule=data, strategy=data.trainer.strategy)
    task.configure_model()
    return task


def test_a_model_with_a_prior_grows_from_one_without(data, tmp_path):
    plain = start_model(KINDS["tied"], data, "standard", 3)[0]
    task = grown(data, saved(plain, data, tmp_path / "plain.ckpt"))
    alone = start_model(KINDS["tied_prior"], data, None, 0)[0].state_dict()
    of_plain = plain.state_dict()
    for name, value in task.net.state_dict().items():
        assert torch.equal(value, of_plain.get(name, alone[name])), name
    assert float(task.net.prior.noise) != 1  # what it was before it was learnt from the training subjects
    description = task._description()
    assert description["initialisation"] == {"start": "smoother", "seed": data.seed}
    assert description["started_from"]["mapping"] == "none: the same atlas"
    saved_path = tmp_path / "grown.ckpt"
    weights = {f"{PREFIX}{name}": value for name, value in task.net.state_dict().items()}
    torch.save({"state_dict": weights, KEY: description}, saved_path)
    twin = untrained(load_pretrained(saved_path, data), data)
    assert all(torch.equal(value, alone[name]) for name, value in twin.state_dict().items())


def test_a_model_does_not_grow_from_another_kind_or_size(data, tmp_path):
    other = saved(start_model(KINDS["tied"], data, None, 0)[0], data, tmp_path / "tied.ckpt")
    with pytest.raises(ValueError, match="embed_dim: 48, the checkpoint has 40"):
        grown(data, other, lambda geometry: TiedPriorAutoencoder(geometry, TiedConfig(10, 48, 1, 2)))
    with pytest.raises(ValueError, match=r"the model is a .*PriorAutoencoder, .* holds a .*TiedAutoencoder"):
        grown(data, other, KINDS["prior"])
    back = saved(start_model(KINDS["tied_prior"], data, None, 0)[0], data, tmp_path / "prior.ckpt")
    with pytest.raises(ValueError, match=r"the model is a .*TiedAutoencoder, .* holds a .*TiedPriorAutoencoder"):
        grown(data, back, KINDS["tied"])


def test_what_a_model_asks_for_is_added_to_the_loss(monkeypatch):
    task = PretrainTask()
    signal_BPT, hidden_BPN = torch.randn(2, 3, 20), torch.ones(2, 3, 2, dtype=torch.bool)
    task.net = lambda *given: Reconstruction(torch.zeros(2, 3, 20), torch.zeros(2, 4), torch.tensor(5.0))
    task.trainer = SimpleNamespace(datamodule=SimpleNamespace(seed=0, several_atlases=False), global_step=0)
    logged = []
    monkeypatch.setattr(task, "draw_mask", lambda *given: hidden_BPN)
    monkeypatch.setattr(task, "_log_training", lambda loss, *given: logged.append(loss))
    batch = {"signal_BPT": signal_BPT, "observed_BP": hidden_BPN[..., 0], "key_B": torch.arange(2)}
    loss = task.training_step(batch, 0)
    error = reconstruction_loss(torch.zeros(2, 3, 20), signal_BPT, hidden_BPN)
    assert loss == error + 5
    assert logged == [error]
