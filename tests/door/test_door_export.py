import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import door, run_main

from brainlm_lightning.checkpoint.description import FORMAT_VERSION, KEY
from brainlm_lightning.checkpoint.pretrained import load_model
from brainlm_lightning.data.store import Store


@pytest.fixture(scope="module")
def exported(stores, tmp_path_factory):
    """``last.ckpt`` of two steps, and its export."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        checkpoint = door("fit", folder / "runs") / "checkpoints" / "last.ckpt"
    run_main(["export", str(checkpoint), str(folder / "model.safetensors")])
    return checkpoint, folder / "model.safetensors"


def changed(file, target, description=None, drop=(), add=None, config=None):
    """A copy of an exported file with another header or other tensors."""
    weights = {name: value for name, value in load_file(file).items() if name not in drop} | (add or {})
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()[KEY]) | (description or {})
    header["model"]["config"].update(config or {})
    save_file(weights, target, metadata={KEY: json.dumps(header)})
    return target


def reconstruct(model):
    generator = torch.Generator().manual_seed(0)
    signal_BPT = torch.randn(3, 16, 40, generator=generator)
    hidden_BPN = torch.rand(3, 16, 4, generator=generator) < 0.75
    with torch.no_grad():
        return model(signal_BPT, hidden_BPN, torch.ones(3, 16, dtype=torch.bool))


def test_an_export_reconstructs_as_its_checkpoint_does(exported):
    (one, description), (other, same) = load_model(exported[0]), load_model(exported[1])
    here, there = reconstruct(one), reconstruct(other)
    assert torch.equal(here.prediction_BPT, there.prediction_BPT)
    assert torch.equal(here.cls_BD, there.cls_BD)
    assert description == same
    assert not one.training


def test_a_model_knows_what_its_data_were(exported, stores):
    store = Store(stores / "tiny")
    _, description = load_model(exported[1])
    assert description["parcels"]["sha256"] == store.atlas.sha256
    assert description["parcels"]["label"] == store.atlas.parcels["label"].tolist()
    assert torch.tensor(description["parcels"]["xyz_mm"]).numpy() == pytest.approx(store.atlas.xyz_mm)
    assert (description["tr_s"], description["window_frames"]) == (1.0, 40)
    assert description["scaling"] == {"recipe": "robust", "statistics": store.statistics.to_json()}


def test_loading_counts_its_tensors(exported, caplog):
    model, _ = load_model(exported[1])
    count = len(model.state_dict())
    assert f"loaded {count} of {count} tensors from {exported[1]}" in caplog.text
    assert count == len(load_file(exported[1]))


WRONG = {
    "missing": ({"drop": ("cls_D", "head.bias")}, r"missing \['cls_D', 'head.bias'\], unexpected none"),
    "unexpected": ({"add": {"extra.weight": torch.zeros(2)}}, r"missing none, unexpected \['extra.weight'\]"),
    "reshaped": ({"add": {"head.bias": torch.zeros(11)}}, r"of another shape \['head.bias'\]"),
    "of the future": ({"description": {"format_version": FORMAT_VERSION + 1}}, r"format 2, this package reads up to 1"),
    "deep without end": ({"config": {"depth": 10**9}}, "depth is 1,000,000,000, and its 40 tensors"),
    "wide without end": ({"config": {"embed_dim": 10**9}}, "embed_dim is 1,000,000,000"),
    "a window without end": ({"description": {"window_frames": 10**12}}, "window_frames 1000000000000"),
    "no parcels": ({"description": {"parcels": None}}, "parcels is 'None'"),
    "text as seconds": ({"description": {"tr_s": "1"}}, "tr_s is '1'"),
    "another model": ({"description": {"model": {"class_path": "other.Model", "config": {}}}}, "holds a other.Model"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_does_not_fit_is_refused(case, exported, tmp_path):
    alteration, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        load_model(changed(exported[1], tmp_path / "changed.safetensors", **alteration))


def test_tensors_that_were_changed_since_the_export_are_refused(exported, tmp_path):
    with safe_open(exported[1], framework="pt") as opened:
        header = opened.metadata()
    weights = load_file(exported[1])
    save_file(weights, tmp_path / "same.safetensors", metadata=header)
    load_model(tmp_path / "same.safetensors")
    weights["head.bias"][0] += 1e-6
    save_file(weights, tmp_path / "model.safetensors", metadata=header)
    with pytest.raises(ValueError, match="not those that were exported"):
        load_model(tmp_path / "model.safetensors")


def test_a_file_that_says_nothing_of_itself_is_refused(exported, tmp_path):
    save_file(load_file(exported[1]), tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="has no description"):
        load_model(tmp_path / "bare.safetensors")


def test_a_damaged_file_is_refused_by_name(exported, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(exported[1].read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"damaged\.safetensors"):
        load_model(damaged)


def test_an_export_is_never_overwritten(exported):
    before = exported[1].read_bytes()
    with pytest.raises(SystemExit, match="exports are never overwritten"):
        run_main(["export", str(exported[0]), str(exported[1])])
    assert exported[1].read_bytes() == before


def test_exporting_what_is_not_there_is_one_error(tmp_path):
    with pytest.raises(SystemExit, match=r"FileNotFoundError: no checkpoint at .*absent\.ckpt"):
        run_main(["export", str(tmp_path / "absent.ckpt"), str(tmp_path / "model.safetensors")])
