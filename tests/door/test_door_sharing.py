import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from tiny import REPOSITORY, door, run_main

import brainlm_lightning
from brainlm_lightning.checkpoint.sharing import model_card
from brainlm_lightning.data.store import Store
from brainlm_lightning.run_folder import find_checkpoint

EMBED = """
import sys, numpy, brainlm_lightning
model = brainlm_lightning.load(sys.argv[1])
found = model.embed(numpy.load(sys.argv[2]), tr_s=1.0, atlas=model.about["parcels"]["atlas"])
numpy.savez(sys.argv[3], **found)
"""


@pytest.fixture(scope="module")
def shared(stores, tmp_path_factory):
    """A folder with an exported model, and what the run itself makes of a recording; the run folder is gone."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        run = door("fit", folder / "runs")
    run_main(["export", str(run), str(folder / "model")])
    np.save(folder / "raw.npy", Store(stores / "tiny").raw(0))
    own = brainlm_lightning.load(run / "checkpoints" / "best.ckpt")
    before = own.embed(np.load(folder / "raw.npy"), tr_s=1.0, atlas=own.about["parcels"]["atlas"])
    shutil.rmtree(folder / "runs")
    return folder, own.about, before


def test_an_export_embeds_to_the_bit_in_a_fresh_process_without_its_run(shared):
    folder, _, before = shared
    command = [sys.executable, "-c", EMBED, str(folder / "model"), str(folder / "raw.npy"), str(folder / "out.npz")]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    subprocess.run(command, check=True, cwd=folder, env=environment, timeout=90)
    with np.load(folder / "out.npz") as after:
        assert set(after) == set(before)
        assert all(np.array_equal(after[name], before[name]) for name in before)


def test_a_shared_folder_says_what_it_is(shared):
    folder, about, _ = shared
    assert sorted(path.name for path in (folder / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["model"] == about["model"]
    assert config["parcels"] == {"atlas": about["parcels"]["atlas"], "sha256": about["parcels"]["sha256"]}
    assert find_checkpoint(folder / "model") == folder / "model" / "model.safetensors"  # for tasks that start from it
    card = (folder / "model" / "README.md").read_text()
    with safe_open(folder / "model" / "model.safetensors", framework="pt") as file:
        count = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 (not a mapping)
    for said in (f"{count:,} values", about["parcels"]["sha256"], "`robust`", "windows of 40 frames", "FILL IN"):
        assert said in card


def test_a_card_shows_what_has_an_interval(shared):
    metrics = {"test/a/b/mae/r2": 0.5, "test/a/b/mae/r2_low": 0.4, "test/a/b/mae/r2_high": 0.6, "seconds": 3.0}
    card = model_card(shared[1], 10, metrics)
    assert "| test/a/b/mae/r2 | 0.5 | 0.4 to 0.6 |" in card
    assert "seconds" not in card


def test_a_shared_folder_is_never_overwritten(shared, tmp_path):
    with pytest.raises(SystemExit, match="exports are never overwritten"):
        run_main(["export", str(tmp_path), str(shared[0] / "model")])
