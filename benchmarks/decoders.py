"""What does the cross decoder reach at equal compute, and what does a share of the hidden patches cost?

Each decoder trains on the simulated cohort with the same recipe, batches and masks until it has used the same core
seconds; validation R² of the hidden values is measured with the clock stopped. Steps are measured first, and the
schedule of each run has as many as the seconds allow. About 15 minutes on a free core:

    BRAINLM_DATA=stores OMP_NUM_THREADS=1 python -m benchmarks.decoders
"""

import argparse
import time
from dataclasses import replace
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np

from benchmarks.initialisation import CASES, RATIOS, Case, Trace, train_task
from benchmarks.results import save, show
from brainlm_lightning.experiment import quieten
from brainlm_lightning.model.decoding import DecoderName
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.tasks.optimisation import OptimisationPlan
from brainlm_lightning.tasks.reconstruction.plan import MaskingPlan
from brainlm_lightning.tasks.reconstruction.task import PretrainTask

RUNS: tuple[tuple[DecoderName, float | None], ...] = (
    ("joint", None),
    ("joint", 1.0),
    ("cross", 1.0),
    ("cross", 0.5),
    ("cross", 0.25),
)
RATE, PROBED = 3e-3, 9  # learning rate; steps from which the seconds of a step are known
Row = dict[str, Any]


class Clock(pl.Callback):
    """The core seconds at the end of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *given: Any) -> None:
        """Looks at the clock."""
        self.seconds.append(time.process_time())


def made(case: Case, decoder: DecoderName, share: float | None) -> PretrainTask:
    """The task of one decoder."""
    return PretrainTask(
        model=partial(MaskedAutoencoder, config=replace(case.config, decoder=decoder)),
        masking=MaskingPlan(ratio=(0.2, 0.9), decoded_share=share),
        optimisation=OptimisationPlan(learning_rate=RATE),
    )


def step_seconds(case: Case, decoder: DecoderName, share: float | None) -> float:
    """Core seconds of a step: the median of the first, which have the recipe's shares hidden."""
    clock = Clock()
    train_task(made(case, decoder, share), replace(case, points=(PROBED,)), 0, clock)
    return float(np.median(np.diff(clock.seconds)))


def compared(case: Case, core_seconds: float, seeds: int) -> list[Row]:
    """One row per decoder, share and seed."""
    rows: list[Row] = []
    for decoder, share in RUNS:
        each = step_seconds(case, decoder, share)
        for seed in range(seeds):
            steps = max(1, round(core_seconds / each))
            trace = Trace((steps,))
            train_task(made(case, decoder, share), replace(case, points=(steps,)), seed, trace)
            row = {"decoder": decoder, "decoded_share": share, "seed": seed, "core_seconds_a_step": each}
            rows.append(row | trace.rows[-1])
            print(rows[-1], flush=True)
    return rows


def summary(rows: list[Row]) -> list[dict[str, str]]:
    """One row per decoder and share: means over seeds, and from where to where."""
    shown = []
    for decoder, share in RUNS:
        those = [row for row in rows if (row["decoder"], row["decoded_share"]) == (decoder, share)]
        row = {"decoder": decoder, "decoded": "everything" if share is None else f"{share:.0%} of the hidden"}
        row |= {"steps": str(those[0]["step"]), "core ms a step": f"{1000 * those[0]['core_seconds_a_step']:.0f}"}
        for ratio in RATIOS:
            values = [one[f"r2_hidden{ratio:g}"] for one in those]
            row[f"{ratio:.0%} hidden"] = f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        shown.append(row)
    return shown


def main() -> None:
    """Compares, shows and saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--core-seconds", type=float, default=60, help="of each run")
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    quieten()
    rows = compared(CASES[0], given.core_seconds, given.seeds)
    show(f"R² of validation subjects, {CASES[0].cohort}, after {given.core_seconds:.0f} core seconds", summary(rows))
    save("decoders", {"core_seconds": given.core_seconds, "rows": rows})


if __name__ == "__main__":
    main()
