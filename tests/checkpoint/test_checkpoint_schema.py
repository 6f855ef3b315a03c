"""Sizes in a description are compared with the tensors beside it; settings that are no sizes are not."""

from dataclasses import asdict

import pytest
import torch

from brainlm_lightning.checkpoint.description import describe_model
from brainlm_lightning.checkpoint.schema import check_entries, check_plausible
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.gcn import GraphConvolutionalNetwork
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.prior import PriorAutoencoder
from brainlm_lightning.model.tied import TiedAutoencoder
from brainlm_lightning.model.tied_prior import TiedPriorAutoencoder
from brainlm_lightning.model.vae import VariationalAutoencoder
from brainlm_lightning.tasks.forecast.latent_ode import LatentODE
from brainlm_lightning.tasks.forecast.lstm import LSTM
from brainlm_lightning.tasks.forecast.net import ForecastSetting
from brainlm_lightning.tasks.forecast.neural_ode import NeuralODE

GEOMETRY = Geometry(torch.zeros(12, 3), 60)
ENTRIES = {"parcels": {"index": list(range(12))}, "window_frames": 60}
MASKED = (
    MaskedAutoencoder,
    PriorAutoencoder,
    TiedAutoencoder,
    TiedPriorAutoencoder,
    VariationalAutoencoder,
    GraphConvolutionalNetwork,
)
MODELS = {kind.__name__: (kind, GEOMETRY) for kind in MASKED}
MODELS |= {kind.__name__: (kind, ForecastSetting(GEOMETRY, 20)) for kind in (LSTM, NeuralODE, LatentODE)}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_with_its_defaults_is_plausible_and_one_of_a_billion_is_not(name):
    kind, of = MODELS[name]
    model = kind(of)
    about = {**ENTRIES, "model": describe_model(model)}
    check_plausible(about, model.state_dict(), "model.ckpt")
    config = asdict(model.config)
    for size in {"depth", "layers", "hidden", "hidden_dim", "embed_dim", "extra"} & set(config):
        huge = {**about, "model": {**about["model"], "config": {**config, size: 10**9}}}
        with pytest.raises(ValueError, match=rf"{size} is 1,000,000,000"):
            check_plausible(huge, model.state_dict(), "model.ckpt")


WHOLE = {
    "model": {"class_path": "x", "config": {}},
    "parcels": {"sha256": "c", "index": [1, 2, 3], "label": ["a", "b", "c"], "xyz_mm": [[0, 0, 0]] * 3},
    "tr_s": 1.0,
    "window_frames": 20,
    "scaling": {"recipe": "robust", "statistics": {}},
    "subjects": {},
}
PARTS = {
    "a gap": [{"sha256": "a", "first": 0, "count": 1}, {"sha256": "b", "first": 2, "count": 1}],
    "too few": [{"sha256": "a", "first": 0, "count": 2}],
    "none": [{"sha256": "a", "first": 0, "count": 0}, {"sha256": "b", "first": 0, "count": 3}],
    "no number": [{"sha256": "a", "first": 0, "count": "3"}],
    "no list": {"sha256": "a", "first": 0, "count": 2},
    "no hash": [{"first": 0, "count": 3}],
}


def described(parts):
    return {**WHOLE, "parcels": {**WHOLE["parcels"], "parts": parts}}


@pytest.mark.parametrize("case", PARTS)
def test_atlases_of_a_model_are_all_of_its_parcels_one_after_the_other(case):
    check_entries(described([{"sha256": "a", "first": 0, "count": 1}, {"sha256": "b", "first": 1, "count": 2}]), "file")
    with pytest.raises(ValueError, match="does not fit a model"):
        check_entries(described(PARTS[case]), "file")
