"""The verb `reproduce`: a whole study, from the cohort to the report."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

FAILED = 3  # exit status: a step failed; the report is there, and says which


def reproduce(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace, list[str]], None]:
    """Adds the arguments of `reproduce`; returns what runs it."""
    parser.add_argument("--cohort", required=True, help="cohort to study; its manifest is data_manifests/COHORT.yaml")
    parser.add_argument("--ood", default="", help="a second cohort of the same parcels that nothing is trained on")
    plans = "experiments/reproduce/COHORT.yaml if it is there, else default.yaml beside it"
    parser.add_argument("--plan", type=Path, help=f"steps to run (default: {plans})")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all experiments (default: runs)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the report (default: report)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that prepare cohorts")

    def run(args: argparse.Namespace, rest: list[str]) -> None:
        from brainlm_lightning.report.html.write import write_report
        from brainlm_lightning.reproduce import Study, read_plan

        own, default = (Path("experiments/reproduce") / f"{name}.yaml" for name in (args.cohort, "default"))
        plan = read_plan(args.plan or (own if own.is_file() else default), args.cohort, args.ood, args.runs)
        whole = Study(plan, args.runs, args.jobs).run()
        print(write_report(args.out, [args.runs]))
        if not whole:
            sys.exit(FAILED)

    return run
