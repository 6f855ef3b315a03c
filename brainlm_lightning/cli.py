"""The one door: ``python -m brainlm_lightning.cli VERB``.

    describe               a first manifest for a folder
    prepare, verify        recordings to a store, and is it sound?
    simulate               recordings with a known answer
    fit, validate, test    an experiment (LightningCLI)
    report, export         a run's tables; a checkpoint as safetensors

What needs no torch imports none, so that data can be prepared on a machine without it.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

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
    parser.add_argument("--config", type=Path, required=True, help="manifest of the cohort, data_manifests/*.yaml")
    parser.add_argument("--output", type=Path, help="folder of the store (default: $BRAINLM_DATA/<cohort>)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be read and what is missing; write nothing"
    )
    parser.add_argument("--backend", default="loky", help="loky, threading, multiprocessing, dask or ray")
    parser.formatter_class = _WithManifestKeys

    def run(args: argparse.Namespace, overrides: list[str]) -> None:
        from brainlm_lightning.data.manifest import load_manifest
        from brainlm_lightning.data.prepare import prepare, share_left_out

        manifest = load_manifest(args.config, overrides)
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
        from brainlm_lightning.data.describe import FILL_IN, describe

        manifest = describe(args.folder, args.atlas)
        if args.output is None:
            print(manifest, end="")
            return
        with args.output.open("x", encoding="utf-8") as file:
            file.write(manifest)
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
    parser.add_argument("folder", type=Path, help="folder to write; must not exist")
    parser.add_argument("--other", action="store_true", help="the cohort of another scanner and population, same atlas")
    parser.epilog = "Any setting of the simulation can be given: --subjects 100 --parcels 64"

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
    parser.add_argument("runs", type=Path, nargs="+", help="run folders; or runs/EXPERIMENT: its newest test")
    parser.add_argument("--markdown", action="store_true", help="the tables as Markdown")
    parser.add_argument("--files", type=Path, help="folder to write each run's figures, pages and tables to, anew")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        import rich

        from brainlm_lightning.report.reconstruction import side_by_side
        from brainlm_lightning.report.tables import markdown, tables
        from brainlm_lightning.run_folder import newest_run, read_metrics

        folders = [path if (path / "metrics.json").is_file() else newest_run(path, "arrays.npz") for path in args.runs]
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


def _write_files(target: Path, folders: list[Path]) -> None:
    """The figures, pages and tables of runs, each run's in a folder of its own."""
    from brainlm_lightning.report.files import write_files
    from brainlm_lightning.run_folder import read_arrays, read_metrics

    for folder in folders:
        own = target / f"{folder.parent.name}_{folder.name}"
        for name, _ in write_files(own, read_metrics(folder), read_arrays(folder)):
            print(f"{own}: {name}")


def _export(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace, list[str]], None]:
    parser.add_argument("checkpoint", type=Path, help="a .ckpt of a run folder")
    parser.add_argument("output", type=Path, help="model.safetensors to write")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from brainlm_lightning.checkpoint.description import export

        print(export(args.checkpoint, args.output))

    return run


TOOLS = {
    "describe": (_describe, "look at a folder and write a first manifest"),
    "prepare": (_prepare, "recordings of a manifest to a store"),
    "verify": (_verify, "recompute every checksum and statistic of a store"),
    "simulate": (_simulate, "write a cohort whose best reconstruction is known"),
    "report": (_report, "print the tables of run folders"),
    "export": (_export, "write a checkpoint's model as safetensors"),
}
OWN_SETTINGS = ("prepare", "simulate")  # verbs that take settings of the manifest or the simulation as well


def main(args: Sequence[str] | None = None) -> None:
    """Runs one verb."""
    try:
        _dispatch(list(sys.argv[1:] if args is None else args))
    except (ValueError, OSError) as error:
        ours = next((cause for cause in _causes(error) if _is_our_own(cause)), None)
        if ours is None:
            raise
        sys.exit(f"{type(ours).__name__}: {ours}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on: the parser wraps what a class says of its arguments."""
    while error is not None:
        yield error
        error = error.__cause__


def _is_our_own(error: BaseException) -> bool:
    """True for errors that this package raised to be read; those from within a library keep their traceback."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and Path(frames[-1][0].f_code.co_filename).is_relative_to(Path(__file__).parent)


def _dispatch(args: list[str]) -> None:
    if args and args[0] in EXPERIMENT_VERBS:
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
