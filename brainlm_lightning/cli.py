"""The command line: ``python -m brainlm_lightning.cli VERB``.

    describe               write a first manifest for a folder
    prepare, verify        make a store from recordings; check it
    simulate               write recordings whose best reconstruction is known
    fit, validate, test    run an experiment
    report, export         show the tables of runs; convert a checkpoint to safetensors
    import-weights         turn published weights into a checkpoint
    calibrate, embed       find the input gain of an imported model; embed recordings
    reproduce-published    an imported model's numbers beside the paper's and those of others
    move                   a model to another atlas
    push                   publish an exported model on the Hugging Face hub

``--debug`` with any of them shows the traceback of an error.

Verbs that do not need torch do not import it, so that data can be prepared on a machine without it.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from brainlm_lightning import weights_verbs
from brainlm_lightning.failure import briefly_in_threads, end
from brainlm_lightning.orphans import end_with_first_rank

DEBUG = "--debug"
EXPERIMENT_VERBS = ("fit", "validate", "test")
INCOMPLETE = 3  # exit status: the store was made, but lacks more recordings than `max_left_out` allows


class _WithManifestKeys(argparse.HelpFormatter):
    """Help that ends with every key of a manifest, as its dataclasses say; they are imported only then."""

    def end_section(self) -> None:
        super().end_section()
        self._full = True  # a usage line has no sections

    def format_help(self) -> str:
        text = super().format_help()
        if not getattr(self, "_full", False):
            return text
        from brainlm_lightning.data.manifest import Manifest
        from brainlm_lightning.data.manifest_help import plain_reference

        return (
            f"{text}\nkeys of a manifest, which can be set here, too (--split.test 0.3):\n{plain_reference(Manifest)}\n"
        )


def _prepare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace, list[str]], None]:
    parser.add_argument("--config", type=Path, required=True, help="manifest of the cohort (data_manifests/*.yaml)")
    where = "folder of the store; its name must be the cohort's (default: $BRAINLM_DATA/<cohort>)"
    parser.add_argument("--output", type=Path, help=where)
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="number of processes (default: all cores)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be read and what is missing; write nothing"
    )
    parser.add_argument("--backend", default="loky", help="loky, threading, multiprocessing, dask or ray")
    parser.formatter_class = _WithManifestKeys

    def run(args: argparse.Namespace, overrides: list[str]) -> None:
        from brainlm_lightning.data.manifest import load_manifest
        from brainlm_lightning.data.prepare import prepare, share_left_out

        if args.jobs < 1:
            raise ValueError(f"--jobs is {args.jobs}; expected a number of processes from 1 on")
        manifest = load_manifest(args.config, overrides)
        name = args.output.resolve().name if args.output else manifest.cohort
        if name != manifest.cohort:
            raise ValueError(
                f"--output {args.output}: experiments look for cohort {manifest.cohort!r} in a folder of that name; "
                f"use --output {args.output.with_name(manifest.cohort)}, or rename the cohort with --cohort {name}"
            )
        if args.dry_run:
            from brainlm_lightning.data.dry_run import dry_run

            sys.exit(INCOMPLETE if dry_run(manifest, args.jobs) else 0)
        store = prepare(manifest, output=args.output, jobs=args.jobs, backend=args.backend)
        if share_left_out(store) > manifest.max_left_out:
            sys.exit(INCOMPLETE)

    return run


def _describe(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace, list[str]], None]:
    parser.add_argument("folder", type=Path, help="fMRIPrep or XCP-D derivatives, or series and a table")
    parser.add_argument("--atlas", type=Path, help="parcel table below the folder (default: looked for)")
    parser.add_argument("--output", type=Path, help="manifest to write (default: printed)")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from brainlm_lightning.atomic import refuse_existing
        from brainlm_lightning.data.describe import FILL_IN, describe

        manifest = describe(args.folder, args.atlas)
        if args.output is None:
            print(manifest, end="")
            return
        refuse_existing(args.output)
        args.output.write_text(manifest, encoding="utf-8")
        print(f"{args.output}: {manifest.count(FILL_IN) - 1} marks of {FILL_IN} left; then `prepare --dry-run`")

    return run


def _verify(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace, list[str]], None]:
    parser.add_argument("store", type=Path, help="folder of the store")
    parser.add_argument("--report", action="store_true", help="write the page on its quality anew")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from brainlm_lightning.data.quality import write_page
        from brainlm_lightning.data.store import Store, verify

        problems = verify(args.store)
        if problems:
            sys.exit("\n".join([f"{args.store}: {len(problems)} problems", *problems]))
        print(f"{args.store}: sound")
        if args.report:
            print(write_page(Store(args.store)))

    return run


def _simulate(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace, list[str]], None]:
    parser.add_argument("folder", type=Path, help="folder to write, which must not exist")
    parser.add_argument(
        "--other", action="store_true", help="simulate another scanner and population, with the same atlas"
    )
    parser.epilog = "Any setting of the simulation can be given, for instance --subjects 100 --parcels 64"

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from jsonargparse import ArgumentParser

        from brainlm_lightning.simulation.simulate import OTHER_COHORT, Simulation, simulate

        settings = ArgumentParser()
        settings.add_class_arguments(Simulation, as_group=False)
        settings.set_defaults(asdict(OTHER_COHORT if args.other else Simulation()))
        simulation = Simulation(**vars(settings.parse_args(rest)))
        print(f"simulated {simulation.subjects} subjects in {simulate(simulation, args.folder)}")

    return run


def _report(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace, list[str]], None]:
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or runs/EXPERIMENT for its newest test")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--files", type=Path, help="also write each run's figures, pages and tables to this folder")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        import rich

        from brainlm_lightning.report.reconstruction import side_by_side
        from brainlm_lightning.report.tables import markdown, tables
        from brainlm_lightning.run_folder import read_metrics

        folders = [_newest_results(path) for path in args.runs]
        runs = {f"{folder.parent.name} {folder.name}": read_metrics(folder) for folder in folders}
        if args.files:
            _write_files(args.files, folders)
        if args.markdown:
            print("\n".join(markdown(metrics) for metrics in runs.values()))
            return
        for name, metrics in runs.items():
            rich.print(name, *tables(metrics))
        if len(runs) > 1:
            rich.print(side_by_side(runs).rich())

    return run


def _newest_results(path: Path) -> Path:
    """A run folder itself; of an experiment's folder, the newest run that kept arrays, as tests do, or else any."""
    from brainlm_lightning.run_folder import newest_run

    if (path / "metrics.json").is_file():
        return path
    try:
        return newest_run(path, "arrays.npz")
    except FileNotFoundError:  # a task need not keep any
        return newest_run(path, "metrics.json")


def _write_files(target: Path, folders: list[Path]) -> None:
    """Writes the figures, pages and tables of runs, each run into its own folder."""
    from brainlm_lightning.report.files import write_files_of_run

    for folder in folders:
        own = target / f"{folder.parent.name}_{folder.name}"
        for name, _ in write_files_of_run(own, folder):
            print(f"{own}: {name}")


def _export(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace, list[str]], None]:
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file; or, for a folder, also a run or an experiment")
    parser.add_argument("output", type=Path, help="model.safetensors; or a folder, for weights, config and model card")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from brainlm_lightning.checkpoint.pretrained import export
        from brainlm_lightning.checkpoint.sharing import export_folder

        print((export if args.output.suffix == ".safetensors" else export_folder)(args.checkpoint, args.output))

    return run


TOOLS = {
    "describe": (_describe, "look at a folder and write a first manifest"),
    "prepare": (_prepare, "make a store from the recordings of a manifest"),
    "verify": (_verify, "check a store: recompute its checksums and statistics"),
    "simulate": (_simulate, "write a simulated cohort whose best reconstruction is known"),
    "report": (_report, "print the tables of run folders"),
    "export": (_export, "convert the model of a checkpoint to safetensors"),
    "import-weights": (weights_verbs.import_weights, "turn published BrainLM weights into a checkpoint"),
    "embed": (weights_verbs.embed, "embed recordings with a checkpoint"),
    "calibrate": (weights_verbs.calibrate, "find the input gain of an imported model"),
    "reproduce-published": (weights_verbs.reproduce_published, "measure an imported model beside published numbers"),
    "move": (weights_verbs.move, "move a model to the atlas of a cohort"),
    "push": (weights_verbs.push, "publish an exported model on the Hugging Face hub"),
}
OWN_SETTINGS = ("prepare", "simulate")  # verbs that also take settings of the manifest or simulation


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
    if args and args[0] in EXPERIMENT_VERBS:
        end_with_first_rank()
        from brainlm_lightning.sweep import run

        run(args)
        return
    parser = argparse.ArgumentParser(prog="python -m brainlm_lightning.cli", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (add, text) in TOOLS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        verb.set_defaults(run=add(verb))
    for name in EXPERIMENT_VERBS:
        verbs.add_parser(name, help=f"{name} an experiment: {name} --help")
    known, rest = parser.parse_known_args(args)
    if rest and known.verb not in OWN_SETTINGS:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    known.run(known, rest)


if __name__ == "__main__":
    main()
