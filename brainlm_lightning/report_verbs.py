"""Verbs that show what was run, and the one that runs a whole study; see `brainlm_lightning.cli`."""

import argparse
import os
import sys
from pathlib import Path

from brainlm_lightning import data_verbs


def report(parser: argparse.ArgumentParser) -> data_verbs.Verb:
    """See the verb's help."""
    given = "run folders, runs/EXPERIMENT for its newest test, or (with --out) runs for all"
    parser.add_argument("runs", type=Path, nargs="+", help=given)
    parser.add_argument("--out", type=Path, help="write one HTML page with everything to this folder")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    pool = "show the test subjects of all runs as one sample: one experiment, tested on several splits of a cohort"
    parser.add_argument("--pool", action="store_true", help=pool)
    compare = "with --pool: the method that is compared with the others (default: the model)"
    parser.add_argument("--compare", metavar="METHOD", help=compare)
    parser.add_argument("--files", type=Path, help="also write each run's figures, pages and tables to this folder")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        """Shows the run folders."""
        if args.compare and not args.pool:
            parser.error("--compare says what --pool compares: give --pool, too")
        if args.out:
            from brainlm_lightning.report.html.write import write_report

            print(write_report(args.out, args.runs))
            return
        import rich

        from brainlm_lightning.report.reconstruction import side_by_side
        from brainlm_lightning.report.tables import markdown, tables
        from brainlm_lightning.run_folder import read_metrics

        folders = [_newest_results(path) for path in args.runs]
        runs = {f"{folder.parent.name} {folder.name}": read_metrics(folder) for folder in folders}
        if args.files:
            _write_files(args.files, folders)
        if args.pool:
            from brainlm_lightning.evaluation.pooling import pooled_runs

            together = f"{len(folders)} runs together" if len(folders) > 1 else next(iter(runs))
            runs = {together: pooled_runs(folders, args.compare)}
        if args.markdown:
            print("\n".join(markdown(metrics) for metrics in runs.values()))
            return
        for name, metrics in runs.items():
            rich.print(name, *tables(metrics))
        if len(runs) > 1:
            rich.print(side_by_side(runs).rich())

    return run


def reproduce(parser: argparse.ArgumentParser) -> data_verbs.Verb:
    """See the verb's help."""
    parser.add_argument("--cohort", required=True, help="cohort to study; its manifest is data_manifests/COHORT.yaml")
    parser.add_argument("--ood", default="", help="a second cohort of the same parcels that nothing is trained on")
    plans = "experiments/reproduce/COHORT.yaml if it is there, else default.yaml beside it"
    parser.add_argument("--plan", type=Path, help=f"steps to run (default: {plans})")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all experiments (default: runs)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the report (default: report)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that prepare cohorts")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        """Runs the study."""
        from brainlm_lightning.report.html.write import write_report
        from brainlm_lightning.reproduce import Study, read_plan

        own, default = (Path("experiments/reproduce") / f"{name}.yaml" for name in (args.cohort, "default"))
        plan = read_plan(args.plan or (own if own.is_file() else default), args.cohort, args.ood, args.runs)
        whole = Study(plan, args.runs, args.jobs).run()
        print(write_report(args.out, [args.runs]))
        if not whole:
            sys.exit(data_verbs.INCOMPLETE)

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
