"""Every command of the README and of docs/: run by a test, parsed as it would be when run, or listed below.

Run as they stand: all of `docs/extending.md` (`test_door_extending.py`) and the way of a newcomer in
`docs/first_run.md` (`test_door_newcomer.py`). Experiments are run at a tiny size by the door's other tests, each file
by each of its verbs; here their commands are parsed, options, files and classes included, and so is what `make`
would run.
"""

import re
import shlex
import subprocess

import pytest
from tiny import REPOSITORY, run_main

from brainlm_lightning.cli import EXPERIMENT_VERBS, TOOLS, _parser, _verbs
from brainlm_lightning.data_verbs import own_settings
from brainlm_lightning.experiment import settings_of
from brainlm_lightning.shell import refuse_unknown_options
from brainlm_lightning.sweep import Command

DOCS = REPOSITORY / "docs"
PAGES = [*REPOSITORY.glob("*.md"), *DOCS.glob("*.md"), REPOSITORY / "experiments" / "README.md"]
RUN_WHOLE = {"docs/extending.md": "test_door_extending.py", "docs/first_run.md": "test_door_newcomer.py"}
DOOR = ("python", "-m", "brainlm_lightning.cli")
PROGRAMS = ["python", "make", "brainlm", "pip", "conda", "source", "pytest", ".venv/bin/pre-commit"]
PROGRAMS += ["docker", "apptainer", "sbatch", "torchrun"]

NOT_RUN = {  # the beginning of a command -> why no test runs it
    "pip install": "needs the internet",
    "conda": "needs the internet",
    "docker": "needs the internet",
    "apptainer": "needs the internet",
    "source": "of the shell",
    "sbatch": "needs a cluster",
    "torchrun": "needs several machines",
    "pytest": "runs tests",
    ".venv/bin/pre-commit": "writes into the checkout's git folder",
    "python -m benchmarks": "takes minutes, and writes into the checkout; `test_benchmarks.py` tests its parts",
    "python tests/fuzz": "takes minutes; a sample of it is a test of its own",
}
MAKE_OUTSIDE = {  # targets whose recipes hold no command of ours -> why no test runs them
    "setup": "needs the internet",
    "help": "prints comments",
    "docs": "a part of `make check`",
    "check": "runs the tests",
    "test": "runs the tests",
    "test-slow": "runs the tests",
    "fuzz": "takes minutes; a sample of it is a test of its own",
    "kills": "takes minutes",
    "bench": "takes minutes",
    "tensorboard": "a server",
}


def commands_of(text):
    """Commands in blocks and between backticks, as lists of words; `…` at their beginning is the door."""
    blocks = re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    for line in [*lines, *inline]:
        words = line.strip().split(maxsplit=1)
        if words and (words[0] in PROGRAMS or (words[0] == "…" and len(words) > 1)):
            split = shlex.split(line.replace("\\|", "|"), comments=True)
            yield [*DOOR, *split[1:]] if split[0] in ("…", "brainlm") else split


COMMANDS = {
    (str(page.relative_to(REPOSITORY)), *command) for page in PAGES for command in commands_of(page.read_text())
}
WITH_A_VERB = [(page, *rest[3:]) for page, *rest in COMMANDS if tuple(rest[:3]) == DOOR and rest[3:]]
OURS = sorted({command for command in WITH_A_VERB if command[1] != "VERB"})
MAKE = sorted({tuple(rest[1:]) for _, *rest in COMMANDS if rest[0] == "make" and rest[1:]})
OTHERS = sorted({tuple(rest) for _, *rest in COMMANDS if rest[0] != "make" and tuple(rest[:3]) != DOOR})


def check(verb, given):
    """Parses a command as it would be parsed when run; placeholders (`…`, FOLDER) stand for any value."""
    assert verb in (*EXPERIMENT_VERBS, *TOOLS), verb
    if any("…" in word for word in given) or not given:  # the beginning of one
        return
    if any(word.startswith(("--help", "--model.help")) for word in given):
        with pytest.raises(SystemExit) as shown:
            run_main([verb, *given])
        assert not shown.value.code
        return
    if verb in TOOLS:
        parser = _parser("")
        refuse_unknown_options(_verbs(parser)[verb], given, own_settings(verb))
        parser.parse_known_args([verb, *given])
        return
    if given[::2] == ["--config"] * len(given[::2]):
        assert all((REPOSITORY / file).is_file() for file in given[1::2])
        return
    # `test` has the same options, and would look for a checkpoint.
    settings_of(["fit", *Command.of(["fit", *given]).arguments])


def test_commands_are_found():
    assert len(OURS) > 40
    assert len(MAKE) > 15
    assert ("README.md", "make", "demo") in COMMANDS
    assert not [command for command in COMMANDS if len(command) == 1]


@pytest.mark.parametrize("command", OURS, ids=" ".join)
def test_a_command_is_understood(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    page, verb, *given = command
    if page in RUN_WHOLE and "…" not in "".join(given):
        runs = (REPOSITORY / "tests" / "door" / RUN_WHOLE[page]).read_text()
        assert page in runs or f'"docs" / "{page.removeprefix("docs/")}"' in runs
        assert verb in (*EXPERIMENT_VERBS, *TOOLS)
        return
    check(verb, given)


@pytest.mark.parametrize("words", MAKE, ids=" ".join)
def test_what_make_would_run_is_understood(words, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    done = subprocess.run(["make", "-n", *words], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    if words[0] in MAKE_OUTSIDE:
        return
    recipe = done.stdout.replace("\\\n", " ")
    recipe = re.sub(
        r"for name in ([^;]+); do (?:for verb in fit test; do )?",
        lambda loop: f"name={loop[1].split()[0]}; ",  # the first turn of a loop
        recipe,
    )
    name = re.search(r"name=(\w+);", recipe)
    recipe = recipe.replace("$name", name[1] if name else "").replace("$verb", "fit")
    ours = re.findall(r"-m brainlm_lightning\.cli ([^;|&\n]+)", recipe)
    assert ours, recipe
    for command in ours:
        verb, *given = shlex.split(command)
        check(verb, given)


@pytest.mark.parametrize("command", OTHERS, ids=" ".join)
def test_a_command_that_no_test_runs_is_listed_with_the_reason(command):
    assert any(" ".join(command).startswith(beginning) for beginning in NOT_RUN), command
