import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from brainlm_lightning.run_folder import (
    inside,
    newest_run,
    next_version_folder,
    read_arrays,
    read_json,
    read_metrics,
    remove_if_empty,
    write_arrays,
    write_json,
)


def run(folder, *names, content="x"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def test_metrics_come_back_exactly_with_nan_as_null(tmp_path):
    metrics = {"test/a/hidden0.2/mae/r2_pooled": 0.1 + 0.2, "n": np.float64(3), "k": np.int64(4), "none": math.nan}
    write_json(tmp_path / "new" / "metrics.json", metrics | {"infinite": -math.inf})
    assert json.loads((tmp_path / "new" / "metrics.json").read_text())["none"] is None
    found = read_metrics(tmp_path / "new")
    assert [found["test/a/hidden0.2/mae/r2_pooled"], found["n"], found["k"]] == [0.1 + 0.2, 3.0, 4.0]
    assert math.isnan(found["none"])
    assert math.isnan(found["infinite"])
    assert list(found) == [*metrics, "infinite"]


def test_nested_numpy_and_paths_are_written_as_json(tmp_path):
    write_json(tmp_path / "p.json", {"a": {"b": (np.array([1, 2]), np.bool_(True))}, "where": Path("x/y")})
    assert read_json(tmp_path, "p.json") == {"a": {"b": [[1, 2], True]}, "where": "x/y"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    write_json(tmp_path / "metrics.json", {"a": 1.0})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="the disk is full"):
        write_json(tmp_path / "metrics.json", {"a": 2.0})
    assert read_metrics(tmp_path) == {"a": 1.0}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_what_is_no_metrics_file_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics.json does not exist.*brainlm_lightning.cli test"):
        read_metrics(tmp_path)
    for content, message in (
        ('{"a": 1', "is not valid JSON"),
        ("[1]", "holds a list; expected a mapping"),
        ('{"a": "1"}', "metric 'a' in .* is '1'; expected a number or null"),
        ('{"a": true}', "is True; expected a number"),
    ):
        (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_metrics(tmp_path)


def test_arrays_come_back_and_objects_are_neither_written_nor_unpickled(tmp_path):
    write_arrays(tmp_path / "arrays.npz", {"values_P": np.arange(3.0), "labels": np.array(["L", "R"])})
    found = read_arrays(tmp_path)
    np.testing.assert_array_equal(found["values_P"], [0, 1, 2])
    assert found["labels"].tolist() == ["L", "R"]
    with pytest.raises(ValueError, match="array 'labels' holds Python objects"):
        write_arrays(tmp_path / "arrays.npz", {"labels": np.array([{}], dtype=object)})
    np.savez(tmp_path / "bad.npz", labels=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_arrays(tmp_path, "bad.npz")


@pytest.mark.parametrize("name", ["../secret.json", "/etc/passwd", "a/../../secret.json", "link/secret.json", "", "."])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    folder = next_version_folder(tmp_path / "runs")
    run(tmp_path, "secret.json", content="{}")
    (folder / "link").symlink_to(tmp_path)
    for read in (read_json, read_arrays, inside):
        with pytest.raises(ValueError, match="is not inside"):
            read(folder, name)
    with pytest.raises(ValueError, match="is not inside"):
        newest_run(tmp_path / "runs", containing=name)


def test_versions_count_up_from_the_newest_whatever_is_missing_or_a_file(tmp_path):
    assert next_version_folder(tmp_path / "e").name == "version_0"
    (tmp_path / "e" / "version_9").mkdir()
    run(tmp_path / "e", "version_10", "version_99.txt", "other")
    assert next_version_folder(tmp_path / "e").name == "version_11"


def test_starters_at_the_same_moment_never_share_a_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: next_version_folder(tmp_path / "e"), range(64)))
    assert len(set(folders)) == 64
    assert {folder.name for folder in folders} == {f"version_{k}" for k in range(64)}


def test_a_folder_made_between_looking_and_making_is_not_taken(tmp_path, monkeypatch):
    (tmp_path / "version_0").mkdir()
    monkeypatch.setattr("brainlm_lightning.run_folder._versions", lambda _: {})
    assert next_version_folder(tmp_path).name == "version_1"


def test_the_newest_run_is_by_number_and_has_what_is_asked_for(tmp_path):
    run(tmp_path, "version_2/checkpoints/a.ckpt", "version_10/checkpoints/a.ckpt", "version_11/metrics.json")
    (tmp_path / "version_12" / "checkpoints").mkdir(parents=True)
    assert newest_run(tmp_path).name == "version_10"
    assert newest_run(tmp_path, "metrics.json").name == "version_11"


def test_no_run_says_what_to_run(tmp_path):
    expected = r"it has no runs; run `python -m brainlm_lightning.cli fit --config experiments/pretrain.yaml` first"
    with pytest.raises(FileNotFoundError, match=expected):
        newest_run(tmp_path / "pretrain")
    with pytest.raises(FileNotFoundError, match=expected):
        newest_run(tmp_path / "pretrain", "checkpoints/best.ckpt")
    run(tmp_path, "pretrain/version_0/config.yaml")
    with pytest.raises(FileNotFoundError, match=r"none of its 1 runs has metrics.json; run .*cli test"):
        newest_run(tmp_path / "pretrain", "metrics.json")


def test_the_report_is_made_without_torch():
    code = "import sys, brainlm_lightning.run_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_empty_folders_are_removed_up_to_the_first_that_is_not(tmp_path):
    folder = next_version_folder(tmp_path / "runs" / "search" / "rate=1")
    run(tmp_path, "runs/other/version_0/metrics.json")
    remove_if_empty(folder, tmp_path / "runs")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]
    remove_if_empty(tmp_path / "runs" / "other" / "version_0", tmp_path / "runs")
    assert (tmp_path / "runs" / "other" / "version_0" / "metrics.json").is_file()
    (tmp_path / "runs" / "other" / "version_0" / "metrics.json").unlink()
    remove_if_empty(tmp_path / "runs" / "other" / "version_0", tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []
