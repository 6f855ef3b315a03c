"""What a shell asks of the command line: help that fits a screen, the nearest name to a mistyped one, completion.

Nothing here imports torch: help and completion answer at once. The keys of an experiment are therefore listed by hand
(`KEYS`); a test compares them with the parser that reads experiments.
"""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

WIDTH = 100  # columns of help, where the terminal has no fewer
EVERYTHING = "--help-all"
SHELLS = ("bash", "zsh", "tcsh")

# Keys of an experiment that its help names: group -> option -> what it stands for, and what it is.
KEYS: dict[str, dict[str, tuple[str, str]]] = {
    "the run": {
        "--config": ("FILE", "the experiment; of several the later wins"),
        "--experiment": ("NAME", "its folder below `runs`"),
        "--runs": ("FOLDER", "of all runs (default: runs)"),
        "--seed_everything": ("N", "one seed for everything (default: 0)"),
        "--checkpoint_every": ("STEPS", "write last.ckpt so often"),
        "--sweep": ("MAPPING", "many runs: {over: {KEY: [VALUE]}}"),
        "--ckpt_path": ("FILE", "to resume from; to test (default: best)"),
        "--print_config": ("", "print all settings, and stop"),
    },
    "model: the question and the network": {
        "--model.class_path": ("CLASS", "the task, in brainlm_lightning.tasks"),
        "--model.init_args.KEY": ("VALUE", "its settings; --model.help CLASS has them"),
    },
    "data": {
        "--data.cohorts": ("NAME", "prepared cohorts that train"),
        "--data.test_cohorts": ("[NAME]", "further ones, for the test alone"),
        "--data.window_frames": ("N", "seen at once; a multiple of the patch"),
        "--data.global_batch_size": ("N", "windows a step, over all devices"),
        "--data.micro_batch_size": ("N", "windows a device takes at once"),
        "--data.windows_per_recording": ("N", "in an epoch"),
        "--data.train_fraction": ("SHARE", "of the training subjects"),
        "--data.scaling": ("RECIPE", "robust, recording_zscore, none, …"),
    },
    "trainer: any argument of Lightning's Trainer": {
        "--trainer.max_steps": ("N", "optimiser steps"),
        "--trainer.val_check_interval": ("N", "validate every so many batches"),
        "--trainer.devices": ("N", "GPUs, or processes"),
        "--trainer.accelerator": ("KIND", "cpu, gpu, auto"),
        "--trainer.precision": ("KIND", "32-true, bf16-mixed, …"),
    },
}


class Help(argparse.RawDescriptionHelpFormatter):
    """Help with options in one line each, on at most `WIDTH` columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)
        self._width = min(self._width, WIDTH)


def add_experiment_keys(parser: argparse.ArgumentParser, verb: str) -> None:
    """Describes the verb of an experiment, for help and completion alone: `experiment` parses it.

    Args:
        parser: gets the options.
        verb: fit, validate or test.
    """
    parser.formatter_class = Help
    parser.usage = f"{parser.prog} --config experiments/NAME.yaml [--KEY VALUE …]"
    parser.epilog = f"Every key of the file is an option. All of them, with types and defaults: {verb} {EVERYTHING}"
    for title, keys in KEYS.items():
        group = parser.add_argument_group(title)
        for option, (stands_for, text) in keys.items():
            kind: dict[str, Any] = {"metavar": stands_for} if stands_for else {"action": "store_true"}
            group.add_argument(option, help=text, **kind)


def overview(verbs: Iterable[tuple[str, str]], prog: str) -> str:
    """The help of the whole: a line for each verb.

    Args:
        verbs: name and what it does.
        prog: how the program is called.
    """
    listed = list(verbs)
    width = max(len(name) for name, _ in listed)
    lines = [f"  {name:<{width}}  {text}" for name, text in listed]
    return "\n".join([
        f"usage: {prog} VERB …   (installed, also: brainlm VERB …)",
        "",
        *lines,
        "",
        "VERB --help explains one; --debug with any shows the traceback of an error.",
        "What to ask, and what it costs: experiments/README.md. First steps: docs/first_run.md.",
        "",
    ])  # fmt: skip


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing where no known name is near."""
    near = difflib.get_close_matches(name, list(known), 2, 0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def refuse_unknown_options(parser: argparse.ArgumentParser, given: Sequence[str], further: Iterable[str]) -> None:
    """Ends with the nearest option where a verb does not have one; exit status 2, as argparse's.

    Args:
        parser: of the verb.
        given: its arguments.
        further: other keys that the verb takes as options, with dots for those inside others.
    """
    options = {option for action in parser._actions for option in action.option_strings}
    options |= {f"--{key}" for key in further}
    first_words = {option.partition(".")[0] for option in options}
    for argument in given:
        option = argument.partition("=")[0]
        if argument.startswith("--") and option.partition(".")[0] not in first_words:
            parser.error(f"unknown option {option}{nearest(option, options)}")


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """A script that completes verbs, options and files.

    Args:
        parser: of the whole command line.
        shell: one of `SHELLS`.
    """
    import shtab

    return str(shtab.complete(_completed(parser), shell))


def _completed(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Marks what takes a path, in a parser and in those of its verbs."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                _completed(verb)
        elif action.type is Path or action.metavar == "FILE":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser
