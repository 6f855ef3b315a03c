"""The command line: ``python -m brainlm_lightning.cli VERB``; `--help` lists the verbs.

Verbs that do not need torch do not import it, so that data can be prepared on a machine without it.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from brainlm_lightning import data_verbs, report_verbs, weights_verbs
from brainlm_lightning.failure import briefly_in_threads, end
from brainlm_lightning.orphans import end_with_first_rank
from brainlm_lightning.shell import (
    EVERYTHING,
    SHELLS,
    Help,
    add_experiment_keys,
    completion_script,
    nearest,
    overview,
    refuse_unknown_options,
)
from brainlm_lightning.starter_files import init

DEBUG = "--debug"


def _export(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace, list[str]], None]:
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file; or, for a folder, also a run or an experiment")
    parser.add_argument("output", type=Path, help="model.safetensors; or a folder, for weights, config and model card")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from brainlm_lightning.checkpoint.pretrained import export
        from brainlm_lightning.checkpoint.sharing import export_folder

        print((export if args.output.suffix == ".safetensors" else export_folder)(args.checkpoint, args.output))

    return run


def _completion(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace, list[str]], None]:
    parser.add_argument("shell", choices=SHELLS)
    parser.epilog = 'for one session of bash: eval "$(brainlm completion bash)"'

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        print(completion_script(_parser("brainlm"), args.shell))

    return run


TOOLS = {
    "describe": (data_verbs.describe, "look at a folder and write a first manifest"),
    "prepare": (data_verbs.prepare, "make a store from the recordings of a manifest"),
    "verify": (data_verbs.verify, "check a store: recompute its checksums and statistics"),
    "simulate": (data_verbs.simulate, "write a simulated cohort whose best reconstruction is known"),
    "report": (report_verbs.report, "show run folders: one HTML page (--out), or tables"),
    "reproduce": (report_verbs.reproduce, "run a whole study, cohort to report: what is done is not done again"),
    "export": (_export, "convert the model of a checkpoint to safetensors"),
    "import-weights": (weights_verbs.import_weights, "turn published BrainLM weights into a checkpoint"),
    "embed": (weights_verbs.embed, "embed recordings with a checkpoint"),
    "calibrate": (weights_verbs.calibrate, "find the input gain of an imported model"),
    "reproduce-published": (weights_verbs.reproduce_published, "measure an imported model beside published numbers"),
    "move": (weights_verbs.move, "move a model to the atlas of a cohort"),
    "push": (weights_verbs.push, "publish an exported model on the Hugging Face hub"),
    "init": (init, "copy the experiments and manifests that come with the package"),
    "completion": (_completion, "print what lets a shell complete verbs and options"),
}
EXPERIMENT_VERBS = {
    "fit": "train what an experiment file says; go on where it was stopped",
    "validate": "the validation's numbers of an experiment's newest checkpoint",
    "test": "answer an experiment's question on subjects that no training has seen",
}
PROGRAM = "python -m brainlm_lightning.cli"


def main(args: Sequence[str] | None = None) -> None:
    """Runs one verb; what goes wrong is one message, or with ``--debug`` a traceback."""
    given = list(sys.argv[1:] if args is None else args)
    if DEBUG in given:
        _dispatch([argument for argument in given if argument != DEBUG])
        return
    try:
        with briefly_in_threads():
            _dispatch(given)
    except (Exception, KeyboardInterrupt) as error:
        end(error)


def _dispatch(args: list[str]) -> None:
    verb, given = (args[0], args[1:]) if args else ("--help", [])
    if verb in EXPERIMENT_VERBS and not {"-h", "--help"} & set(given):
        end_with_first_rank()
        from brainlm_lightning.sweep import run

        run([verb, *("--help" if argument == EVERYTHING else argument for argument in given)])
        return
    parser = _parser(PROGRAM)
    if verb in ("-h", "--help"):
        print(overview([*EXPERIMENT_VERBS.items(), *((name, text) for name, (_, text) in TOOLS.items())], PROGRAM))
        return
    of_verb = _verbs(parser).get(verb)
    if of_verb is None:
        parser.error(f"unknown verb {verb!r}{nearest(verb, _verbs(parser))} ({PROGRAM} --help lists all)")
    if verb in TOOLS:
        refuse_unknown_options(of_verb, given, data_verbs.own_settings(verb))
    known, rest = parser.parse_known_args(args)
    known.run(known, rest)


def _parser(prog: str) -> argparse.ArgumentParser:
    """The parser of the whole command line; verbs of experiments are described in it, and parsed elsewhere."""
    parser = argparse.ArgumentParser(prog=prog)
    parser.usage = f"{prog} VERB …"
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", prog=prog)
    for name, text in EXPERIMENT_VERBS.items():
        add_experiment_keys(verbs.add_parser(name, help=text, description=text), name)
    for name, (add, text) in TOOLS.items():
        verb = verbs.add_parser(name, help=text, description=text, formatter_class=Help, allow_abbrev=False)
        verb.set_defaults(run=add(verb))
    return parser


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(dict(action.choices) for action in parser._actions if isinstance(action, argparse._SubParsersAction))


if __name__ == "__main__":
    main()
