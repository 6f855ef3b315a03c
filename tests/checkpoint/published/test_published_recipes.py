"""The scalings of public code, against their formulas on raw values."""

import numpy as np
import pytest
import torch

from brainlm_lightning.checkpoint.description import describe_model, describe_parcels
from brainlm_lightning.checkpoint.pretrained import load_model
from brainlm_lightning.checkpoint.published.importing import save_imported
from brainlm_lightning.checkpoint.published.recipes import RECIPES, with_recipe
from brainlm_lightning.data.store import Store
from brainlm_lightning.data.windows import scale_on_device
from brainlm_lightning.embedding.one_line import EmbeddingModel
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.published.brainlm import BrainLM, BrainLMConfig

SMALL = {"patch_frames": 10, "embed_dim": 16, "depth": 1, "num_heads": 2, "decoder_embed_dim": 16, "decoder_depth": 1}


def about_of(model, store):
    return {
        "format_version": 1,
        "model": describe_model(model),
        "parcels": describe_parcels(store.atlas),
        "tr_s": store.tr_s,
        "window_frames": 20,
        "scaling": {"recipe": "robust", "statistics": store.statistics.to_json()},
        "subjects": {"train": [], "val": []},
    }


@pytest.fixture
def store(tiny_store):
    return Store(tiny_store)


def fed(store, name, raw):
    """What a model with a recipe feeds its first layer, of the first window, (frames, parcels)."""
    model = BrainLM(Geometry(torch.tensor(store.atlas.xyz_mm), 20), BrainLMConfig(**SMALL))
    model, about = with_recipe(model, about_of(model, store), name, store)
    scaled = scale_on_device(EmbeddingModel(model, about).windows(raw, store.tr_s))["signal_BPT"][0].T
    assert about["scaling"]["public_code"] == name
    return (scaled * model.config.input_gain + model.config.input_offset).numpy()


def training_values(store):
    """All frames of the training recordings, (frames, parcels)."""
    return np.concatenate([store.raw(int(row)) for row in np.flatnonzero(store.recordings["split"] == "train")])


FORMULAS = {
    "brainmarks": lambda x, median, iqr, low, high: (x - median) / iqr,
    "toolkit": lambda x, median, iqr, low, high: x - median / iqr,
    "toolkit_intended": lambda x, median, iqr, low, high: (x - median) / iqr,
    "converter": lambda x, median, iqr, low, high: x,
    "tutorial": lambda x, median, iqr, low, high: (x - low) / (high - low) / 5.6430855,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_recipe_is_the_formula_of_the_public_code(name, store):
    assert FORMULAS.keys() == RECIPES.keys()
    raw, values = store.raw(2), training_values(store)
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    expected = FORMULAS[name](raw[:20], median, high - low, values.min(), values.max())
    assert fed(store, name, raw) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_checkpoint_keeps_its_recipe(store, tmp_path):
    model = BrainLM(Geometry(torch.tensor(store.atlas.xyz_mm), 20), BrainLMConfig(**SMALL))
    save_imported(*with_recipe(model, about_of(model, store), "tutorial", store), tmp_path / "model.safetensors")
    again, about = load_model(tmp_path / "model.safetensors")
    assert about["scaling"]["public_code"] == "tutorial"
    assert again.config.input_offset != 0


def test_what_takes_no_recipe_is_refused(store):
    geometry = Geometry(torch.tensor(store.atlas.xyz_mm), 20)
    model, ours = BrainLM(geometry, BrainLMConfig(**SMALL)), MaskedAutoencoder(geometry, MAEConfig(**SMALL))
    about = about_of(model, store)
    with pytest.raises(ValueError, match="no recipe 'robust'; public code has brainmarks, toolkit"):
        with_recipe(model, about, "robust", store)
    with pytest.raises(ValueError, match="a mae has the scaling that it was trained with"):
        with_recipe(ours, about, "converter", store)
    elsewhere = {**about, "parcels": {**about["parcels"], "sha256": "0"}}
    with pytest.raises(ValueError, match="in another atlas than the model's"):
        with_recipe(model, elsewhere, "converter", store)
