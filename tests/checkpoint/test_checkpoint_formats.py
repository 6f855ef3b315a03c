"""Checkpoints written by version 0.1, before the classes moved, still load and give the numbers that they gave.

``files/`` holds them as that version wrote them, and ``expected.npz`` what its models made of one batch.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from brainlm_lightning.checkpoint.files import load_plain
from brainlm_lightning.checkpoint.pretrained import load_model
from brainlm_lightning.checkpoint.registry import MOVED, build
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.tasks.clinical.saved import load_network
from brainlm_lightning.tasks.forecast.net import Forecaster

FILES = Path(__file__).parent / "files"


@pytest.fixture(scope="module")
def expected():
    with np.load(FILES / "expected.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mae.ckpt", "mae.safetensors", "vae.ckpt", "gcn.ckpt"])
def test_masked_models_reconstruct_as_they_did(name, expected):
    model, about = load_model(FILES / name, MaskedModel)
    inputs = (expected[key] for key in ("signal_BPT", "hidden_BPN", "observed_BP"))
    close(model(*inputs).prediction_BPT, expected[name.split(".")[0]])
    assert about["tr_s"] == 1


@torch.no_grad()
@pytest.mark.parametrize("name", ["lstm", "mae_forecaster"])
def test_forecasters_forecast_as_they_did(name, expected):
    model, _ = load_model(FILES / f"{name}.ckpt", Forecaster)
    close(model(expected["signal_BPT"][:, :, :15], expected["observed_BP"]), expected[name])


@torch.no_grad()
def test_clinical_networks_predict_as_they_did(expected):
    network = load_network(FILES / "clinical.ckpt")
    inputs = (expected[key] for key in ("signal_BPT", "hidden_BPN", "observed_BP"))
    close(network.model(*inputs), expected["clinical"])


def test_the_files_name_classes_where_they_were():
    named = {load_plain(path)["brainlm"]["model"]["class_path"] for path in FILES.glob("*.ckpt")}
    assert len(named & MOVED.keys()) == 4


@pytest.mark.parametrize("config", [{"depth": [[]]}, {"num_hea>s": 2}])
def test_a_configuration_that_its_class_does_not_take_is_refused(config):
    about = load_plain(FILES / "mae.ckpt")["brainlm"]
    about["model"]["config"] |= config
    with pytest.raises(ValueError, match=r"damaged.ckpt: its description does not fit a .*MaskedAutoencoder"):
        build(about, MaskedModel, "damaged.ckpt")


@pytest.mark.parametrize("path", ["os.system", "brainlm_lightning.cli.main", "brainlm_lightning.nowhere.Model", "x.Y"])
def test_classes_that_nobody_registered_are_never_imported(path):
    about = {"model": {"class_path": path, "config": {}}}
    with pytest.raises(ValueError, match=r"here holds a .*(unknown here|expected a MaskedModel)"):
        build(about, MaskedModel, "here")
