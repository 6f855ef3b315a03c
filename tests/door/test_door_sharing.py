import inspect
import json
import shutil
import subprocess
import sys

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import safe_open
from tiny import REPOSITORY, door, run_main

import brainlm_lightning
from brainlm_lightning.checkpoint.shared_folder import from_pretrained
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
    """A folder with an exported model, what the run itself made of a recording, and its tensors; the run is gone."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        run = door("fit", folder / "runs")
    run_main(["export", str(run), str(folder / "model")])
    np.save(folder / "raw.npy", Store(stores / "tiny").raw(0))
    own = brainlm_lightning.load(run / "checkpoints" / "best.ckpt")
    before = own.embed(np.load(folder / "raw.npy"), tr_s=1.0, atlas=own.about["parcels"]["atlas"])
    shutil.rmtree(folder / "runs")
    return folder, own.about, before, own.model.state_dict()


def test_an_export_embeds_to_the_bit_in_a_fresh_process_without_its_run(shared):
    folder, _, before, _ = shared
    command = [sys.executable, "-c", EMBED, str(folder / "model"), str(folder / "raw.npy"), str(folder / "out.npz")]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    subprocess.run(command, check=True, cwd=folder, env=environment, timeout=90)
    with np.load(folder / "out.npz") as after:
        assert set(after) == set(before)
        assert all(np.array_equal(after[name], before[name]) for name in before)


REBUILD = """
import socket, sys, torch
import brainlm_lightning, lightning  # lightning's torchmetrics imports the hub where transformers is installed
sys.modules["huggingface_hub"] = None  # an optional extra
socket.socket = None
torch.save(brainlm_lightning.from_pretrained(sys.argv[1]).state_dict(), sys.argv[2])
"""


def test_an_export_is_rebuilt_to_the_bit_in_a_fresh_process_without_the_hub(shared):
    folder = shared[0]
    command = [sys.executable, "-c", REBUILD, str(folder / "model"), str(folder / "state.pt")]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    subprocess.run(command, check=True, cwd=folder, env=environment, timeout=90)
    found, expected = torch.load(folder / "state.pt", weights_only=True), shared[3]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_rebuilding_follows_the_conventions_of_the_hub(shared, monkeypatch):
    own, theirs = (inspect.signature(of).parameters for of in (from_pretrained, PyTorchModelHubMixin.from_pretrained))
    assert next(iter(own)) == next(iter(theirs))
    assert all(theirs[name].default == own[name].default and theirs[name].kind == own[name].kind for name in own)
    asked = {}

    def snapshot_download(repository, **options):
        asked.update(options, repository=repository)
        return str(shared[0] / "model")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert brainlm_lightning.from_pretrained("someone/model", revision="v1", local_files_only=True).name == "mae"
    assert (asked["repository"], asked["revision"], asked["local_files_only"]) == ("someone/model", "v1", True)
    assert "*.safetensors" in asked["allow_patterns"]
    with pytest.raises(FileNotFoundError, match="name an exported folder, or OWNER/NAME on the hub"):
        brainlm_lightning.from_pretrained(shared[0] / "absent")


def test_files_of_two_exports_are_refused(shared, tmp_path):
    shutil.copytree(shared[0] / "model", tmp_path / "mixed")
    config = json.loads((tmp_path / "mixed" / "config.json").read_text())
    (tmp_path / "mixed" / "config.json").write_text(json.dumps(config | {"tr_s": 2.0}))
    with pytest.raises(ValueError, match=r"config.json and the header of model.safetensors differ in tr_s"):
        brainlm_lightning.from_pretrained(tmp_path / "mixed")
    (tmp_path / "mixed" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json; expected a folder that `export` wrote"):
        brainlm_lightning.from_pretrained(tmp_path / "mixed")


@pytest.fixture
def licensed(shared, tmp_path):
    """An export whose licence was filled in."""
    shutil.copytree(shared[0] / "model", tmp_path / "model")
    card = tmp_path / "model" / "README.md"
    card.write_text(card.read_text().replace("FILL IN", "CC BY-NC-SA 4.0"))
    return tmp_path / "model"


def test_a_model_is_pushed_with_all_its_files_and_privately(shared, licensed, monkeypatch, capsys):
    done = []

    class Api:
        def create_repo(self, repository, private, exist_ok):
            done.append((repository, private, exist_ok))

        def upload_folder(self, repo_id, folder_path, commit_message):
            done.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
            return "https://hub/commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(SystemExit, match="does not name a licence yet"):
        run_main(["push", str(shared[0] / "model"), "someone/model"])
    with pytest.raises(SystemExit, match="expected OWNER/NAME"):
        run_main(["push", str(licensed), "model"])
    assert done == []
    run_main(["push", str(licensed), "someone/model"])
    assert done == [
        ("someone/model", True, True),
        ("someone/model", ["README.md", "config.json", "model.safetensors"]),
    ]
    assert "https://hub/commit" in capsys.readouterr().out


def test_pushing_without_the_hub_says_how_to_install_it(licensed, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SystemExit, match=r"push needs huggingface_hub: pip install 'brainlm-lightning\[hub\]'"):
        run_main(["push", str(licensed), "someone/model"])


def test_a_shared_folder_says_what_it_is(shared):
    folder, about, _, _ = shared
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
    assert "Started from" not in card


def test_a_card_says_from_which_model_it_started(shared):
    about = shared[1] | {"started_from": {"atlas": "CC400", "mapping": "overlap"}}
    assert "- Started from a model in CC400, mapping of parcels: overlap.\n- Subjects" in model_card(about, 10, {})


def test_a_shared_folder_is_never_overwritten(shared, tmp_path):
    with pytest.raises(SystemExit, match="exports are never overwritten"):
        run_main(["export", str(tmp_path), str(shared[0] / "model")])
