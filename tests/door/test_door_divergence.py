"""A training that diverges stops with a reason, keeps its last finite checkpoint, and wins no comparison."""

import pytest
import torch
from tiny import arguments, door, newest, run_main

from brainlm_lightning.checkpoint.pretrained import load_model
from brainlm_lightning.data.store import Store
from brainlm_lightning.data.windows import WindowDataset
from brainlm_lightning.run_folder import find_checkpoint, read_json, read_metrics

RATE = "model.init_args.optimisation.learning_rate"
WILD = {RATE: "1.0e+30", "trainer.max_steps": 6, "trainer.gradient_clip_val": "null", "checkpoint_every": 1}
FORECAST = {"trainer.max_steps": 4, "trainer.gradient_clip_val": "null", "trainer.val_check_interval": 1}


def test_a_training_that_diverges_stops_with_a_way_out_and_finite_checkpoints(runs):
    with pytest.raises(SystemExit, match=r"(not finite|is nan|is inf)[\s\S]*Lower the learning rate"):
        door("fit", runs, WILD | {"trainer.val_check_interval": 6})
    folder = newest(runs)
    found = read_metrics(folder)
    assert found["diverged"] == 1
    assert found["val/r2_best"] != found["val/r2_best"]
    for checkpoint in (folder / "checkpoints").glob("*.ckpt"):
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values())


def poisoned(monkeypatch, stores, split):
    """Makes the windows of the first recording of a split NaN; returns the recording's name."""
    table, read = Store(stores / "tiny").recordings, WindowDataset.__getitems__
    row = int((table["split"] == split).to_numpy().nonzero()[0][0])

    def spoil(dataset, request):
        batch = read(dataset, request)
        batch["signal_BPT"][batch["recording_index_B"] == row] = float("nan")
        return batch

    monkeypatch.setattr(WindowDataset, "__getitems__", spoil)
    return table["recording_id"].iloc[row]


def test_the_batch_that_spoils_a_training_is_named(runs, stores, monkeypatch):
    name = poisoned(monkeypatch, stores, "train")
    with pytest.raises(SystemExit, match=f"the loss is (nan|inf) at step .*{name}"):
        door("fit", runs, {"trainer.max_steps": 40, "trainer.val_check_interval": 5})


def test_a_validation_that_is_not_finite_chooses_no_checkpoint(runs, stores, monkeypatch):
    poisoned(monkeypatch, stores, "val")
    with pytest.raises(SystemExit, match=r"val/r2 is nan after step 2.*look for recordings without data"):
        door("fit", runs)
    assert not (newest(runs) / "checkpoints" / "best.ckpt").exists()


def test_a_point_that_diverges_is_never_chosen(runs, pretrained):
    sweep = f"{{over: {{{RATE}: [1.0e+30, 1.0e-3]}}, choose: val/loss}}"
    settings = FORECAST | {"model.init_args.pretrained": pretrained, "sweep": sweep}
    run_main(arguments("fit", runs, settings, "experiments/forecast_lstm.yaml"))
    chosen = read_json(runs / "forecast_lstm", "chosen.json")
    assert chosen["settings"] == {RATE: 1e-3}
    assert chosen["scores"]["learning_rate=1e+30"] is None
    assert find_checkpoint(runs / "forecast_lstm").parents[2].name == "learning_rate=0.001"


def test_when_every_point_diverges_that_is_said(runs, pretrained):
    sweep = f"{{over: {{{RATE}: [1.0e+30, 1.0e+31]}}, choose: val/loss}}"
    settings = FORECAST | {"model.init_args.pretrained": pretrained, "sweep": sweep}
    with pytest.raises(SystemExit, match=r"none of the 2 points .* all diverged"):
        run_main(arguments("fit", runs, settings, "experiments/forecast_lstm.yaml"))


def test_weights_that_are_not_finite_are_neither_loaded_nor_exported(pretrained, tmp_path):
    content = torch.load(pretrained, weights_only=True)
    content["state_dict"]["net.cls_D"][0] = float("nan")
    torch.save(content, tmp_path / "spoilt.ckpt")
    with pytest.raises(ValueError, match="not finite, in cls_D first of 1"):
        load_model(tmp_path / "spoilt.ckpt")
    with pytest.raises(SystemExit, match="its training diverged"):
        run_main(["export", str(tmp_path / "spoilt.ckpt"), str(tmp_path / "out.safetensors")])
    assert not (tmp_path / "out.safetensors").exists()
