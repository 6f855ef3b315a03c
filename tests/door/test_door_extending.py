"""Everything that plugs in, driven through the real command line: the examples of ``docs/extending.md`` as they stand.

The page's modules lie on the Python path beside the metadata that installing them would leave.
"""

import os
import re
import subprocess
import sys
import tomllib
from importlib import invalidate_caches

import numpy as np
import pytest
from tiny import REPOSITORY, SIZES, door, run_main

from brainlm_lightning.data.read import Expected, read_series
from brainlm_lightning.data.store import Store
from brainlm_lightning.run_folder import newest_run, read_metrics

PAGE = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")


def files_of_the_page():
    """File -> its text: the code blocks whose first line names a file, in the order of the page."""
    found = {}
    for name, text in re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE):
        found[name] = found.get(name, "") + text
    return found


FILES = files_of_the_page()
MODULES = ("my_lab", "my_lab_page", "my_lab_files")


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory):
    """A folder on the Python path with the page's modules, and what their installation would leave beside them."""
    folder = tmp_path_factory.mktemp("lab")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    installed = folder / f"my_lab-{project['version']}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = project["entry-points"].items()
    lines = [
        line
        for group, names in groups
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in names.items()))
    ]
    (installed / "entry_points.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        invalidate_caches()
        yield folder
    for module in MODULES:
        sys.modules.pop(module, None)


@pytest.fixture
def run(lab, runs):
    """Runs an example of the page on the tiny cohort, as the page says; returns the run folder."""

    def run(verb, example, **settings):
        sizes = {**SIZES, "runs": runs, **{f"model.init_args.{name}": value for name, value in settings.items()}}
        files = [f"--config={lab / 'base.yaml'}", f"--config={lab / example}.yaml"]
        run_main([verb, *files, *(f"--{name}={value}" for name, value in sizes.items())])
        return newest_run(runs / example, "config.yaml")

    return run


def best_of(folder):
    return newest_run(folder, "checkpoints") / "checkpoints" / "best.ckpt"


def test_a_masked_model_and_a_baseline_of_reconstruction(run, runs, tmp_path, capsys):
    run("fit", "mixer")
    tested = run("test", "mixer", test_ratios="[0.5]")
    methods = {name.split("/")[3] for name in read_metrics(tested) if name.startswith("test/tiny/hidden0.5/")}
    assert {"mixer", "mixer_untrained", "parcel_mean", "zero", "optimum"} <= methods
    assert "linear_interpolation" not in methods
    capsys.readouterr()
    run_main(["report", str(tested), "--markdown"])
    assert "| parcel_mean |" in capsys.readouterr().out
    run_main(["export", str(best_of(runs / "mixer")), str(tmp_path / "mixer.safetensors")])
    assert (tmp_path / "mixer.safetensors").stat().st_size > 0


def test_a_registered_model_is_exported_by_a_process_that_never_imported_it(run, runs, lab, tmp_path):
    run("fit", "mixer")
    output = str(tmp_path / "out.safetensors")
    command = [sys.executable, "-m", "brainlm_lightning.cli", "export", str(best_of(runs / "mixer")), output]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{lab}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert "loaded 2 of 2 tensors" in done.stderr + done.stdout


def test_a_forecaster_and_a_baseline_of_forecasts(run, runs, tmp_path):
    run("fit", "decay")
    metrics = read_metrics(run("test", "decay"))
    assert np.isfinite(metrics["test/tiny/horizon20/decay/r2_pooled"])
    assert metrics["test/tiny/horizon20/decay_minus_context_mean/num_subjects"] > 1
    run_main(["export", str(best_of(runs / "decay")), str(tmp_path / "decay.safetensors")])
    assert (tmp_path / "decay.safetensors").stat().st_size > 0


def test_a_clinical_baseline(run, pretrained):
    metrics = read_metrics(run("test", "median", pretrained=pretrained))
    assert metrics["test/tiny/age/median/mse_scaled"] > 0
    assert not [name for name in metrics if "connectivity" in name]


def test_a_task_and_the_table_of_its_page(run, capsys):
    tested = run("test", "count")
    count = read_metrics(tested)["test/tiny/windows/counter/count"]
    assert count > 0
    capsys.readouterr()
    run_main(["report", str(tested), "--markdown"])
    shown = capsys.readouterr().out
    assert "### Windows of tiny" in shown
    assert f"| counter | {count:.0f} |" in shown


def test_a_task_shows_a_table_although_no_page_knows_it(run, capsys, monkeypatch):
    monkeypatch.setattr("my_lab_page.WindowsPage.tables", lambda page, metrics: [])
    tested = run("test", "count")
    capsys.readouterr()
    run_main(["report", str(tested)])
    assert "counter" in capsys.readouterr().out


def test_a_baseline_of_networks(run, make_tiny_store, tmp_path, monkeypatch, runs):
    make_tiny_store(tmp_path / "stores", "--split.test=0.3", parcels=20, networks=3, atlas_seed=1, frames=100)
    monkeypatch.setenv("BRAINLM_DATA", str(tmp_path / "stores"))
    run("fit", "mixer")
    autoencoder = door("fit", runs) / "checkpoints" / "best.ckpt"
    embeddings = f"{{mixer: {runs / 'mixer'}}}"
    metrics = read_metrics(run("test", "amplitude", pretrained=autoencoder, embeddings=embeddings))
    assert 0 <= metrics["test/tiny/networks/amplitude/accuracy"] <= 1
    assert 0 <= metrics["test/tiny/networks/mixer/accuracy"] <= 1
    assert "test/tiny/networks/raw_series/accuracy" not in metrics


def test_a_reader_of_files(lab, tmp_path, monkeypatch):
    raw, series = tmp_path / "raw", {}
    raw.mkdir()
    atlas = [f"{parcel},p{parcel},{parcel},{-parcel},0" for parcel in range(1, 6)]
    (raw / "atlas.csv").write_text("\n".join(["index,label,x,y,z", *atlas]))
    for subject in ("a", "b", "c"):
        series[subject] = np.random.default_rng(len(series)).standard_normal((210, 5)).astype("<f4")
        (raw / f"{subject}.f32").write_bytes(np.int32(5).tobytes() + series[subject].tobytes())
    (raw / "recordings.csv").write_text("\n".join(["subject", *series]))
    monkeypatch.chdir(tmp_path)
    stores = tmp_path / "stores"
    run_main(
        [
            "prepare",
            "--config",
            str(lab / "scanner.yaml"),
            "--output",
            str(stores / "scanner"),
            "--jobs=1",
            "--dtype=float32",
        ]
    )
    store = Store(stores / "scanner")
    assert list(store.recordings["recording_id"]) == list(series)
    for row, values in enumerate(series.values()):
        np.testing.assert_allclose(store.raw(row), values, atol=1e-6)


def test_an_ending_that_nobody_reads_is_refused_with_those_that_are_read(tmp_path):
    (tmp_path / "series.xyz").write_text("1 2")
    with pytest.raises(ValueError, match=r"cannot read \.xyz; can read .*'\.f32'"):
        read_series(tmp_path / "series.xyz", Expected("frames_parcels", 2))
