"""What a shell shows: help that fits a screen, the nearest name, completion, files to start with."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from brainlm_lightning import shell, starter_files
from brainlm_lightning.cli import EXPERIMENT_VERBS, TOOLS, main

REPOSITORY = Path(__file__).resolve().parents[1]
SCREEN_LINES, SCREEN_COLUMNS = 40, 100


def said(capsys, *args):
    """Exit status, and everything that a command printed."""
    status = 0
    try:
        main(args)
    except SystemExit as ended:
        status = ended.code
    shown = capsys.readouterr()
    return status, shown.out + shown.err


@pytest.mark.parametrize("verb", [None, *EXPERIMENT_VERBS, *TOOLS])
def test_help_fits_a_screen(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, shown = said(capsys, *([] if verb is None else [verb]), "--help")
    assert not status
    lines = shown.splitlines()
    assert 3 < len(lines) <= SCREEN_LINES
    assert max(map(len, lines)) <= SCREEN_COLUMNS


def test_the_whole_help_names_every_verb(capsys):
    status, shown = said(capsys, "--help")
    assert not status
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("  ")] == [*EXPERIMENT_VERBS, *TOOLS]
    assert said(capsys) == (0, shown)


def test_help_needs_no_torch():
    code = "import sys; from brainlm_lightning.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0


def test_the_keys_in_the_help_of_experiments_are_keys_of_experiments(capsys):
    status, everything = said(capsys, "fit", shell.EVERYTHING)
    assert not status
    listed = [option for keys in shell.KEYS.values() for option in keys]
    assert len(listed) > 15
    missing = [option for option in listed if not re.search(rf"(?<!\S){re.escape(option)}(?![\w.])", everything)]
    assert missing == ["--model.class_path", "--model.init_args.KEY"]  # which --model stands for
    assert "--model CONFIG | CLASS_PATH_OR_NAME" in everything


MISTYPED = {
    ("prapare",): "unknown verb 'prapare'; did you mean prepare?",
    ("tset",): "unknown verb 'tset'; did you mean test?",
    ("xyz",): "unknown verb 'xyz' (",
    ("prepare", "--confg", "m.yaml"): "unknown option --confg; did you mean --config",
    ("prepare", "--splt.test=0.3"): "unknown option --splt.test; did you mean --split.test",
    ("simulate", "folder", "--subject", "3"): "unknown option --subject; did you mean --subjects?",
    ("verify", "store", "--reprot"): "unknown option --reprot; did you mean --report?",
    ("export", "a", "b", "--zzz"): "unknown option --zzz\n",
}


@pytest.mark.parametrize("args", MISTYPED)
def test_a_mistyped_name_is_answered_with_the_nearest(args, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, shown = said(capsys, *args)
    assert status == 2
    assert MISTYPED[args] in shown
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_file_is_answered_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "demo.yaml").touch()
    with pytest.raises(SystemExit, match=r"no experiment file experiments/dmo.yaml; did you mean demo.yaml\?"):
        main(["fit", "--config", "experiments/dmo.yaml"])
    with pytest.raises(SystemExit, match=r"no experiment file elsewhere/demo.yaml; `init` copies those that come with"):
        main(["fit", "--config=elsewhere/demo.yaml"])


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_brainlm
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["brainlm", "pre"], ["prepare"]),
        (["brainlm", "fit", "--data.w"], ["--data.window_frames", "--data.windows_per_recording"]),
        (["brainlm", "prepare", "--dry"], ["--dry-run"]),
        (["brainlm", "fit", "--config", "exp"], ["experiments"]),
    ],
)
def test_bash_completes(typed, completed, capsys, tmp_path):
    status, script = said(capsys, "completion", "bash")
    assert not status
    (tmp_path / "script").write_text(script)
    (tmp_path / "experiments").mkdir()
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", str(tmp_path / "script"), *typed],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(set(done.stdout.split())) == completed


def test_init_copies_what_comes_with_the_package_once(capsys, tmp_path):
    assert said(capsys, "init", str(tmp_path / "lab"))[0] == 0
    for name in starter_files.FOLDERS:
        ours, copied = REPOSITORY / name, tmp_path / "lab" / name
        files = sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file())
        assert sorted(path.relative_to(copied) for path in copied.rglob("*") if path.is_file()) == files
        assert all((copied / file).read_bytes() == (ours / file).read_bytes() for file in files)
    shutil.rmtree(tmp_path / "lab" / "experiments")
    with pytest.raises(SystemExit, match="data_manifests is there already"):
        main(["init", str(tmp_path / "lab")])
    assert not (tmp_path / "lab" / "experiments").exists()
