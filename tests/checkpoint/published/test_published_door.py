"""Published weights through the real command line: from their folder to embeddings and to a task's model."""

import json
import sys
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml
from random_weights import atlas_of, published_folder, reference_of

import brainlm_lightning
from brainlm_lightning.checkpoint.pretrained import load_pretrained
from brainlm_lightning.cli import main
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.store import Store


def brainlm(*command):
    with patch.object(sys, "argv", ["brainlm", *map(str, command)]):
        main()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "checkpoint-1400"
    return published_folder(folder, reference_of("checkpoint-1400").state_dict())


@pytest.fixture(scope="module")
def imported(published, tmp_path_factory):
    """The weights, imported with a table of parcels."""
    folder = tmp_path_factory.mktemp("imported")
    table = atlas_of().parcels.rename(columns={"x_mm": "x", "y_mm": "y", "z_mm": "z"})
    table.to_csv(folder / "A424.csv", index=False)
    brainlm("import-weights", published, folder / "model.safetensors", "--parcels", folder / "A424.csv")
    return folder / "model.safetensors"


def test_importing_says_what_it_loaded(published, imported, tmp_path, capsys):
    command = ("import-weights", published, tmp_path / "out.safetensors", "--parcels", imported.parent / "A424.csv")
    brainlm(*command, "--gain", 7, "--encoding-order", "natural", "--tr-s", 1.0)
    assert "loaded 122 of 122 tensors of 124 in the file; unused, as in the published code:" in capsys.readouterr().out
    model = brainlm_lightning.load(tmp_path / "out.safetensors")
    assert (model.model.config.input_gain, model.model.config.encoding_order) == (7.0, "natural")
    assert (model.about["tr_s"], model.about["scaling"]["recipe"]) == (1.0, "recording_zscore")
    with pytest.raises(SystemExit, match=r"FileExistsError: .* never overwritten"):
        brainlm(*command)


def test_files_are_embedded_as_in_python(imported, tmp_path):
    rng = np.random.default_rng(0)
    series = [rng.normal(1000, 20, (frames, 424)).astype(np.float32) for frames in (210, 250)]
    for number, values in enumerate(series):
        np.save(tmp_path / f"{number}.npy", values)
    files = [tmp_path / "0.npy", tmp_path / "1.npy"]
    chosen = ("--embeddings", "cls", "mean_std", "--tr-s", 0.735, "--atlas", "A424")
    brainlm("embed", *files, "--model", imported, "--output", tmp_path / "one.npz", *chosen)
    plan = {"recordings": [str(file) for file in files], "model": str(imported), "tr_s": 0.735, "atlas": "A424"}
    plan |= {"embeddings": ["cls", "mean_std"], "output": "to be overridden"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    brainlm("embed", "--config", tmp_path / "plan.yaml", "--output", tmp_path / "other.npz")
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "other.npz") as other:
        assert one["recording"].tolist() == [str(file) for file in files]
        assert {name: one[name].shape for name in ("cls", "mean_std")} == {"cls": (2, 256), "mean_std": (2, 512)}
        assert all(np.array_equal(one[name], other[name]) for name in one)
        model = brainlm_lightning.load(imported)
        alone = model.embed(series[1], tr_s=0.735, atlas="A424", embeddings=["cls"])
        assert np.array_equal(alone["cls"], one["cls"][1])


def test_embedding_without_what_is_needed_is_one_error(imported, tmp_path):
    with pytest.raises(SystemExit, match="lacks recordings, output, does not know nothing; expected atlas"):
        brainlm("embed", "--model", imported)
    np.save(tmp_path / "bare.npy", np.ones((200, 424)))
    with pytest.raises(SystemExit, match=r"name it .*out\.npz"):
        brainlm("embed", tmp_path / "bare.npy", "--model", imported, "--output", tmp_path / "out.csv")


def test_an_import_with_a_cohort_starts_its_tasks(published, make_tiny_store, tmp_path, monkeypatch):
    store = make_tiny_store(tmp_path, "--dtype=float32", name="a424", subjects=12, parcels=424, frames=220)
    brainlm("import-weights", published, tmp_path / "m.safetensors", "--cohort", store)
    monkeypatch.setenv("BRAINLM_DATA", str(store.parent))
    data = CohortDataModule("a424", window_frames=200, global_batch_size=4, num_workers=0, scaling="robust")
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, strategy=strategy, accumulate_grad_batches=1)
    data.setup("fit")
    pretrained = load_pretrained(tmp_path / "m.safetensors", data)
    data.adopt_statistics(pretrained.statistics)
    assert pretrained.statistics.to_json() == Store(store).statistics.to_json()
    assert not pretrained.seen(data.recordings.table).any()


def test_an_import_is_measured_beside_published_numbers(published, make_tiny_store, tmp_path, capsys):
    store = make_tiny_store(tmp_path, name="a424", subjects=12, parcels=424, frames=200)
    model = tmp_path / "m.safetensors"
    brainlm("import-weights", published, model, "--cohort", store, "--recipe", "brainmarks")
    assert brainlm_lightning.load(model).about["scaling"]["public_code"] == "brainmarks"
    options = ("--cohort", store, "--recordings", 1, "--output", tmp_path / "numbers.json")
    brainlm("reproduce-published", model, *options)
    shown = " ".join(capsys.readouterr().out.split())
    for published_number in ("0.402 (UKB)", "0.134 (HCP", "−0.016 (HCP", "0.086 (UKB)"):
        assert published_number.split()[0] in shown
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    ways = ("reconstruction/hidden0.2", "reconstruction/hidden0.75", "future/hidden0.1", "future/hidden0.2")
    assert all(np.isfinite(numbers[f"{way}/r2_pooled"]) for way in ways)
    with pytest.raises(SystemExit, match="is there already"):
        brainlm("reproduce-published", model, *options)
    with pytest.raises(SystemExit, match="leave those out"):
        brainlm(
            "import-weights", published, tmp_path / "n.safetensors", "--cohort", store, "--recipe", "x", "--gain", 7
        )
