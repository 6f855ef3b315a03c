"""Everyday mistakes end in one message with what, where and what to do; `--debug` shows the traceback."""

import os
import re
import resource
import signal
import subprocess
import sys

import pytest
from test_door_faults import refused
from tiny import CONFIG, REPOSITORY, arguments, run_main

RATE = "model.init_args.optimisation.learning_rate"
MANIFEST = "data_manifests/simulated.yaml"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Files of a simulated cohort."""
    folder = tmp_path_factory.mktemp("source") / "files"
    run_main(["simulate", str(folder), "--subjects=6", "--parcels=16", "--frames=60", "--networks=4"])
    return folder


def preparing(source, output, *options):
    return ["prepare", f"--config={MANIFEST}", "--jobs=1", f"--root={source}", f"--output={output}", "--min_frames=20",
            *options]  # fmt: skip


PREPARING = {  # options -> what is said
    "--root=nowhere": r"nowhere: no such folder; `root` names the folder",
    "--recordings.table=nope.tsv": r"nope.tsv: there is no such file or folder",
    "--atlas.table=nope.tsv": r"nope.tsv: there is no such file or folder",
    "--jobs=0": r"--jobs is 0; expected a number of processes from 1 on",
    "--recordings=null": r"recordings.*null",
    "--tr_s=null": r"tr_s.*\n?.*float",
    "--split.val=null": r"(?s)split|null",
    "--tr_s=-1": r"tr_s is -1.0.*expected both above 0",
}


@pytest.mark.parametrize("option", PREPARING)
def test_a_mistake_in_preparing_is_one_message(option, source, tmp_path, capsys):
    message = refused(preparing(source, tmp_path / "simulated", option), capsys)
    assert re.search(PREPARING[option], message), message
    assert "the traceback is in" not in message
    assert not (tmp_path / "simulated").exists()


FILES = {  # what a file of settings holds -> what is said
    "broken": (b"data: [a\n", r"settings.yaml, line 2, column 1: no valid YAML: did not find expected"),
    "tabs": (b"\tdata: 1\n", r"settings.yaml, line 1, column 1: no valid YAML"),
    "a list": (b"- a\n", r"settings.yaml: expected settings \(`name: value`\)"),
    "another encoding": (b"experiment: K\xf6ln\n", r"settings.yaml: not UTF-8 at byte 13; save the file as UTF-8"),
    "no text": (bytes(range(200, 256)), r"settings.yaml: not UTF-8 at byte 0"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_yaml_is_named_with_the_line(case, tmp_path, capsys):
    content, message = FILES[case]
    (tmp_path / "settings.yaml").write_bytes(content)
    said = refused(["fit", f"--config={tmp_path / 'settings.yaml'}"], capsys)
    assert re.search(message, said), said


SETTINGS = {
    "negative learning rate": ({RATE: -0.1}, "optimisation.learning_rate is -0.1; expected a rate of 0 or more"),
    "no rate": ({RATE: "null"}, "learning_rate"),
    "no batch": ({"data.global_batch_size": 0}, "data.global_batch_size is 0; expected a whole number from 1 on"),
    "no window": ({"data.window_frames": 0}, "data.window_frames is 0; expected"),
    "no evaluation": ({"data.eval_batch_size": 0}, "data.eval_batch_size is 0; expected"),
    "readers": ({"data.num_workers": -1}, "data.num_workers is -1; expected a whole number from 0 on"),
    "no cohort": ({"data.cohorts": "{}"}, "data.cohorts is {}; expected"),
    "weight": ({"data.cohorts": "{tiny: -1}"}, "with weights above 0"),
    "width": ({f"{CONFIG}.embed_dim": -40}, "embed_dim is -40; expected a whole number from 1 on"),
    "depth": ({f"{CONFIG}.depth": 0}, "depth is 0; expected"),
    "heads": ({f"{CONFIG}.num_heads": 0}, "num_heads is 0; expected"),
    "dropout": ({f"{CONFIG}.dropout": 2}, "dropout is 2.0; expected a share"),
    "steps": ({"trainer.max_steps": -5}, "`max_steps` must be a non-negative integer"),
    "devices": ({"trainer.devices": 0}, "devices"),
    "accelerator": ({"trainer.accelerator": "abacus"}, "accelerator"),
    "checkpoints": ({"checkpoint_every": 0}, "checkpoint_every is 0; expected a number of steps from 1 on"),
    "validation": ({"trainer.val_check_interval": 0}, "val_check_interval is 0; expected"),
    "accumulation": ({"trainer.accumulate_grad_batches": 3}, "follows from data.global_batch_size"),
    "seed": ({"seed_everything": -1}, "seed_everything is -1; expected a number from 0"),
    "experiment": ({"experiment": "../elsewhere"}, "'../elsewhere' is not inside"),
    "nothing as a plan": ({"model.init_args.masking": "null"}, "Union subtypes"),
    "a grid that is none": ({"sweep": "{over: 3}"}, "sweep.over is 3; expected a mapping"),
    "a sweep that is none": ({"sweep": "3"}, "sweep is 3; expected {over:"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_value_that_nothing_can_run_with_is_refused(case, runs, capsys):
    settings, message = SETTINGS[case]
    said = refused(arguments("fit", runs, settings), capsys)
    assert message in said
    assert "the traceback is in" not in said
    assert not runs.exists()


def test_a_file_where_a_folder_belongs_is_named(runs, capsys):
    runs.write_text("a file")
    assert f"{runs}/demo/version_0: a part of this path is a file" in refused(arguments("fit", runs), capsys)


def test_debug_shows_the_traceback(runs):
    with pytest.raises(ValueError, match="expected a rate of 0 or more"):
        run_main(["--debug", *arguments("fit", runs, {RATE: -0.1})])


def test_a_fault_of_the_package_is_one_message_and_keeps_its_traceback(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("brainlm_lightning.data.prepare.write_store", lambda *given, **more: int("seven"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said = refused(preparing(source, tmp_path / "simulated"), capsys)
    (kept,) = tmp_path.glob("brainlm-*.txt")
    assert f"the traceback is in {kept}, and --debug shows it" in said
    assert "ValueError: invalid literal for int() with base 10: 'seven'" in said
    assert "Traceback (most recent call last)" in kept.read_text()


def with_files_of(most_bytes, command, folder):
    """Runs a command that may not write larger files: the error is that of a full disk but for its number."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "brainlm_lightning.cli", *command]
    return subprocess.run(
        command, preexec_fn=limit, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=100
    )


@pytest.mark.parametrize(("most_bytes", "file"), [(3_000, ".npz."), (20_000, "shard-00000.h5.part")])
def test_a_full_disk_is_named_while_a_store_is_made_and_the_next_call_goes_on(most_bytes, file, source, tmp_path):
    output = tmp_path / "simulated"
    done = with_files_of(most_bytes, preparing(source, output, "--truth=null"), tmp_path)
    assert done.returncode == 1, done.stderr
    assert f"{tmp_path / 'simulated.part'}" in done.stderr.splitlines()[-1]
    assert file in done.stderr.splitlines()[-1]
    assert "the disk is full; free some space" in done.stderr
    assert "Traceback" not in done.stderr
    run_main(preparing(source, output, "--truth=null"))


def test_a_full_disk_is_named_while_a_checkpoint_is_written(runs, tmp_path):
    done = with_files_of(50_000, arguments("fit", runs), tmp_path)
    assert done.returncode == 1, done.stderr
    assert "checkpoints/last.ckpt: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(runs.rglob("*.ckpt*"))
