"""The way of a newcomer: text files and a table of people, from a first look at them to a model that can be loaded."""

import numpy as np
import pandas as pd
import pytest
from tiny import door, run_main

from brainlm_lightning.checkpoint.pretrained import load_model
from brainlm_lightning.run_folder import read_metrics

SUBJECTS, PARCELS, FRAMES = 30, 12, 60


@pytest.fixture
def lab(tmp_path):
    """What a laboratory has: a text file a person, who they are, and where the parcels lie."""
    folder = tmp_path / "lab"
    folder.mkdir()
    rng = np.random.default_rng(0)
    mixing = rng.normal(0, 1, (4, PARCELS))
    names = [f"sub-{number:02d}" for number in range(1, SUBJECTS + 1)]
    for name in names:
        states = np.cumsum(rng.normal(0, 1, (FRAMES, 4)), axis=0)
        series = states @ mixing + rng.normal(0, 1, (FRAMES, PARCELS))
        np.savetxt(folder / f"{name}_bold.txt", series, fmt="%.4f")
    people = {"participant_id": names, "age": rng.integers(18, 80, SUBJECTS), "sex": ["F", "M"] * (SUBJECTS // 2)}
    pd.DataFrame(people).to_csv(folder / "participants.tsv", sep="\t", index=False)
    parcels = {"index": range(1, PARCELS + 1), "label": [f"P{number}" for number in range(PARCELS)]}
    places = dict(zip("xyz", rng.uniform(-60, 60, (3, PARCELS)).round(1), strict=True))
    pd.DataFrame(parcels | places).to_csv(folder / "parcels.tsv", sep="\t", index=False)
    return folder


def test_from_text_files_to_a_model_that_can_be_loaded(lab, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BRAINLM_DATA", str(tmp_path / "stores"))
    manifest = tmp_path / "lab.yaml"
    run_main(["describe", str(lab), "--output", str(manifest)])
    manifest.write_text(manifest.read_text().replace("tr_s: FILL_IN", "tr_s: 2.0"))
    with pytest.raises(SystemExit) as looked:
        run_main(["prepare", "--config", str(manifest), "--dry-run"])
    assert looked.value.code == 0
    run_main(["prepare", "--config", str(manifest), "--jobs", "1"])
    run_main(["verify", str(tmp_path / "stores" / "lab")])
    assert "30 of 30 recordings read whole" in capsys.readouterr().out

    runs, small = tmp_path / "runs", "experiments/pretrain_small.yaml"
    fitted = door("fit", runs, {"data.cohorts": "lab"}, small)
    metrics = read_metrics(door("test", runs, {"data.cohorts": "lab"}, small))
    assert np.isfinite(metrics["test/lab/hidden0.75/mae/r2_pooled"])
    run_main(["export", str(fitted / "checkpoints" / "best.ckpt"), str(tmp_path / "model.safetensors")])
    _, description = load_model(tmp_path / "model.safetensors")
    assert description["parcels"]["label"] == [f"P{number}" for number in range(PARCELS)]
    assert description["tr_s"] == 2.0
