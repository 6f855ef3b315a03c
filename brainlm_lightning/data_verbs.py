"""Verbs of the command line that are about recordings: `describe`, `prepare`, `verify` and `simulate`.

None of them imports torch.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

from brainlm_lightning.shell import EVERYTHING

Verb = Callable[[argparse.Namespace, list[str]], None]
INCOMPLETE = 3  # exit status: a store lacks more recordings than `max_left_out` allows, or a study a step that failed


def own_settings(verb: str) -> list[str]:
    """The keys that a verb takes as options beside its own: of the manifest, or of the simulation."""
    if verb == "prepare":
        from brainlm_lightning.data.manifest import Manifest
        from brainlm_lightning.data.manifest_help import keys_of

        return [key.name for key in keys_of(Manifest)]
    if verb == "simulate":
        from brainlm_lightning.simulation.simulate import Simulation

        return [field.name for field in fields(Simulation)]
    return []


class _ManifestHelp(argparse.Action):
    """`--help-all`: every key of a manifest, as its dataclasses say; they are imported only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from brainlm_lightning.data.manifest import Manifest
        from brainlm_lightning.data.manifest_help import plain_reference

        print(f"keys of a manifest, which can be set here, too (--split.test 0.3):\n{plain_reference(Manifest)}")
        sys.exit()


def prepare(parser: argparse.ArgumentParser) -> Verb:
    """`prepare --config MANIFEST`: the store of a cohort."""
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
    parser.add_argument(EVERYTHING, nargs=0, action=_ManifestHelp, help="explain every key of a manifest")
    parser.epilog = (
        "Every key of the manifest is an option, too: --root, --tr_s, --split.test,\n"
        "--recordings.tr_s, --phenotypes.match, --cleaning.low_pass_hz, …"
    )

    def run(args: argparse.Namespace, overrides: list[str]) -> None:
        from brainlm_lightning.data import prepare as preparation
        from brainlm_lightning.data.manifest import load_manifest

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
        store = preparation.prepare(manifest, output=args.output, jobs=args.jobs, backend=args.backend)
        if preparation.share_left_out(store) > manifest.max_left_out:
            sys.exit(INCOMPLETE)

    return run


def describe(parser: argparse.ArgumentParser) -> Verb:
    """`describe FOLDER`: a first manifest."""
    parser.add_argument("folder", type=Path, help="fMRIPrep or XCP-D derivatives, or series and a table")
    parser.add_argument("--atlas", type=Path, help="parcel table below the folder (default: looked for)")
    parser.add_argument("--output", type=Path, help="manifest to write (default: printed)")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from brainlm_lightning.atomic import refuse_existing
        from brainlm_lightning.data.describe import FILL_IN
        from brainlm_lightning.data.describe import describe as first_manifest

        manifest = first_manifest(args.folder, args.atlas)
        if args.output is None:
            print(manifest, end="")
            return
        refuse_existing(args.output)
        args.output.write_text(manifest, encoding="utf-8")
        print(f"{args.output}: {manifest.count(FILL_IN) - 1} marks of {FILL_IN} left; then `prepare --dry-run`")

    return run


def verify(parser: argparse.ArgumentParser) -> Verb:
    """`verify STORE`: recomputes its checksums and statistics."""
    parser.add_argument("store", type=Path, help="folder of the store")
    parser.add_argument("--report", action="store_true", help="write the page on its quality anew")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from brainlm_lightning.data.quality import write_page
        from brainlm_lightning.data.store import Store
        from brainlm_lightning.data.verify import verify

        problems = verify(args.store)
        if problems:
            sys.exit("\n".join([f"{args.store}: {len(problems)} problems", *problems]))
        print(f"{args.store}: sound")
        if args.report:
            print(write_page(Store(args.store)))

    return run


def simulate(parser: argparse.ArgumentParser) -> Verb:
    """`simulate FOLDER`: recordings whose best possible reconstruction is known."""
    parser.add_argument("folder", type=Path, help="folder to write, which must not exist")
    parser.add_argument(
        "--other", action="store_true", help="simulate another scanner and population, with the same atlas"
    )
    parser.epilog = "Any setting of the simulation can be given, for instance --subjects 100 --parcels 64"

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from jsonargparse import ArgumentParser

        from brainlm_lightning.simulation.simulate import OTHER_COHORT, Simulation
        from brainlm_lightning.simulation.simulate import simulate as write

        settings = ArgumentParser()
        settings.add_class_arguments(Simulation, as_group=False)
        settings.set_defaults(asdict(OTHER_COHORT if args.other else Simulation()))
        simulation = Simulation(**vars(settings.parse_args(rest)))
        print(f"simulated {simulation.subjects} subjects in {write(simulation, args.folder)}")

    return run
