"""Does the kernel start learn faster than the standard one, at equal compute?

Both starts see the same batches and masks for the same number of steps, from three seeds; the standard one at two
learning rates. Validation R² of the hidden values is measured along the way with the clock stopped. About 25 minutes on
one core:

    BRAINLM_DATA=stores OMP_NUM_THREADS=1 python -m benchmarks.initialisation
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.results import RESULTS, save, show
from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.datamodule import CohortDataModule, ScalingRecipe
from brainlm_lightning.data.shard import StoredRecording
from brainlm_lightning.data.store import Store, store_root
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.data.write import SHARD_COLUMNS, Cohort, write_store
from brainlm_lightning.evaluation.metrics import HiddenSums, r2
from brainlm_lightning.experiment import quieten
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.tasks.compare import LearningData
from brainlm_lightning.tasks.optimisation import OptimisationPlan
from brainlm_lightning.tasks.reconstruction.baselines import ConditionalGaussian
from brainlm_lightning.tasks.reconstruction.methods import MaskedWindows, NetworkReconstruction, ReconstructionMethod
from brainlm_lightning.tasks.reconstruction.plan import MaskingPlan
from brainlm_lightning.tasks.reconstruction.task import PretrainTask

RATIOS = (0.2, 0.5, 0.75)
SEEDS = (0, 1, 2)
STARTS = (("kernel", 3e-3), ("standard", 1e-3), ("standard", 3e-3))
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A cohort, and a model small enough to train on one core.

    Attributes:
        cohort: name of a prepared store.
        parcels: number of parcels to keep, evenly spaced in the atlas.
        width: of encoder and decoder, each of two blocks and four heads.
        batch_size: windows per step.
        scaling: recipe.
        points: steps at which R² is measured; training ends at the last.
    """

    cohort: str
    parcels: int
    width: int
    batch_size: int
    scaling: ScalingRecipe
    points: tuple[int, ...]

    @property
    def config(self) -> MAEConfig:
        """The model's configuration."""
        return MAEConfig(embed_dim=self.width, depth=2, decoder_embed_dim=self.width, decoder_depth=2)


CASES = (
    Case("simulated", 64, 96, 16, "robust", (0, 10, 20, 40, 60, 80, 100, 120)),
    Case("abide_cc400", 128, 96, 8, "recording_zscore", (0, 10, 25, 45, 65, 90)),
)


class Trace(pl.Callback):
    """Measures validation R² at some steps; the clock starts before the model is built and stops during validation."""

    def __init__(self, points: tuple[int, ...]) -> None:
        self.points = points
        self.rows: Rows = []
        self.batches: list[Batch] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts the clock: computing moments of the training data counts."""
        self._clock = _now()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The untrained model."""
        self._take(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The model so far."""
        self._take(pl_module)

    def _take(self, task: pl.LightningModule) -> None:
        assert isinstance(task, PretrainTask)
        if task.global_step not in self.points:
            return
        stopped = _now()
        seconds, core_seconds = (stopped - self._clock).tolist()
        self.batches = self.batches or list(_validation_batches(task.datamodule))
        assert task.net is not None
        scores = val_r2(task, self.batches, NetworkReconstruction(task.net))
        self.rows.append({"step": task.global_step, "seconds": seconds, "core_seconds": core_seconds, **scores})
        self._clock += _now() - stopped


def _now() -> NDArray[np.float64]:
    """Wall time, and CPU time of this process, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def _validation_batches(data: CohortDataModule) -> Iterator[Batch]:
    """The first window of every validation recording, scaled."""
    for batch in data.val_dataloader():
        first = cast(Batch, {name: values[batch["start_B"] == 0] for name, values in batch.items()})
        yield data.on_after_batch_transfer(first, 0)


@torch.no_grad()
def val_r2(task: PretrainTask, batches: list[Batch], method: ReconstructionMethod) -> dict[str, float]:
    """R² pooled over the hidden values of all windows, for each ratio."""
    scores = {}
    for ratio in RATIOS:
        sums = HiddenSums(1, batches[0]["signal_BPT"].shape[1])
        for batch in batches:
            hidden_BPN, names = task.draw_mask(batch, ratio), [""] * len(batch["start_B"])
            signal_BPT, observed_BP, start_B = batch["signal_BPT"], batch["observed_BP"], batch["start_B"]
            windows = MaskedWindows.of(signal_BPT, hidden_BPN, observed_BP, names, start_B)
            sums.update(method.reconstruct(windows), signal_BPT, windows.hidden_BPT, torch.zeros_like(start_B))
        scores[f"r2_hidden{ratio:g}"] = float(r2(sums.compute().numpy().sum((0, 1))))
    return scores


def train(case: Case, start: str, rate: float, seed: int) -> tuple[PretrainTask, Trace]:
    """One training run from a start at a learning rate."""
    task = PretrainTask(
        model=partial(MaskedAutoencoder, config=case.config),
        masking=MaskingPlan(ratio=(0.2, 0.9)),
        optimisation=OptimisationPlan(learning_rate=rate),
        initialisation=start,
    )
    trace = Trace(case.points)
    train_task(task, case, seed, trace)
    return task, trace


def train_task(task: PretrainTask, case: Case, seed: int, watching: pl.Callback) -> None:
    """One training run, to the last of the case's points, with the package's own task, data and Trainer."""
    data = CohortDataModule(
        case.cohort, global_batch_size=case.batch_size, scaling=case.scaling, num_workers=0, seed=seed
    )
    trainer = pl.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        max_steps=case.points[-1],
        gradient_clip_val=1.0,
        limit_val_batches=0,
        callbacks=[watching],
    )
    trainer.fit(task, data)


def study(case: Case) -> Iterator[tuple[str, Rows]]:
    """Yields the points of each run, and for each seed the Gaussian's score on the same windows and masks."""
    for seed in SEEDS:
        for start, rate in STARTS:
            task, trace = train(case, start, rate, seed)
            run = {"cohort": case.cohort, "start": start, "learning_rate": rate, "seed": seed}
            yield "points", [run | row for row in trace.rows]
        gaussian = ConditionalGaussian()
        gaussian.fit(LearningData(task.datamodule))
        yield "gaussian", [{"cohort": case.cohort, "seed": seed, **val_r2(task, trace.batches, gaussian)}]


@contextmanager
def narrowed(case: Case) -> Iterator[None]:
    """Context in which the store root holds the cohort restricted to the case's parcels."""
    source, root = Store(store_root() / case.cohort), os.environ.get("BRAINLM_DATA", "")
    kept = np.linspace(0, source.atlas.num_parcels - 1, case.parcels).round().astype(int)
    atlas = Atlas(source.atlas.name, source.atlas.parcels.iloc[kept].reset_index(drop=True))
    cohort = Cohort(source.name, atlas, source.tr_s, source.metadata["dtype"], {})

    def load(row: int) -> StoredRecording:
        arrays = (source.mean(row), source.std(row), source.observed(row))
        return StoredRecording(np.ascontiguousarray(source.series(row)[:, kept]), *(array[kept] for array in arrays))

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / case.cohort).mkdir()
        write_store(Path(folder) / case.cohort, cohort, source.recordings.drop(columns=list(SHARD_COLUMNS)), load)
        os.environ["BRAINLM_DATA"] = folder
        yield
        os.environ["BRAINLM_DATA"] = root


def summary(found: dict[str, Rows]) -> Rows:
    """One row per cohort, start and learning rate: untrained and final R², mean over seeds (lowest to highest)."""
    rows = []
    for cohort, start, rate in dict.fromkeys((p["cohort"], p["start"], p["learning_rate"]) for p in found["points"]):
        points = chosen(found["points"], cohort=cohort, start=start, learning_rate=rate)
        last = chosen(points, step=max(point["step"] for point in points))
        row = {"cohort": cohort, "method": f"{start}, rate {rate:g}", "steps": str(last[0]["step"])}
        row |= {"core seconds": f"{np.mean([point['core_seconds'] for point in last]):.0f}"}
        row |= {"untrained, 75 %": _spread(chosen(points, step=0), 0.75)}
        rows.append(row | {f"{ratio:.0%} hidden": _spread(last, ratio) for ratio in RATIOS})
        if (start, rate) == STARTS[-1]:
            reference = chosen(found["gaussian"], cohort=cohort)
            row = {"cohort": cohort, "method": "conditional Gaussian", "steps": "–", "core seconds": "–"}
            row |= {"untrained, 75 %": "–"}
            rows.append(row | {f"{ratio:.0%} hidden": _spread(reference, ratio) for ratio in RATIOS})
    return rows


def chosen(rows: Rows, **values: Any) -> Rows:
    """The rows that have these values."""
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def _spread(rows: Rows, ratio: float) -> str:
    values = [row[f"r2_hidden{ratio:g}"] for row in rows]
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def best_rate(points: Rows, cohort: str) -> float:
    """The learning rate with the highest mean final R² of the standard start."""
    ends: dict[float, list[float]] = {}
    last = max(point["step"] for point in chosen(points, cohort=cohort))
    for point in chosen(points, cohort=cohort, start="standard", step=last):
        ends.setdefault(point["learning_rate"], []).append(point["r2_hidden0.75"])
    return max(ends, key=lambda rate: float(np.mean(ends[rate])))


def draw(found: dict[str, Rows], path: Path) -> None:
    """R² at 75 % hidden against seconds: one panel per cohort, one line per seed, the Gaussian dashed."""
    colours = {"kernel": "tab:blue", "standard": "tab:orange"}
    cohorts = list(dict.fromkeys(point["cohort"] for point in found["points"]))
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4.2 * len(cohorts), 3.4), layout="constrained")
        for axes, cohort in zip(figure.subplots(1, len(cohorts), squeeze=False)[0], cohorts, strict=True):
            for start, colour in colours.items():
                rate = best_rate(found["points"], cohort) if start == "standard" else STARTS[0][1]
                for seed in SEEDS:
                    run = chosen(found["points"], cohort=cohort, start=start, learning_rate=rate, seed=seed)
                    label = f"{start} start, rate {rate:g}" if seed == SEEDS[0] else None
                    x, y = ([point[name] for point in run] for name in ("core_seconds", "r2_hidden0.75"))
                    axes.plot(x, y, ".-", color=colour, linewidth=1, label=label)
            level = np.mean([row["r2_hidden0.75"] for row in chosen(found["gaussian"], cohort=cohort)])
            axes.axhline(level, color="0.3", linestyle="--", linewidth=1, label="conditional Gaussian")
            axes.set(title=cohort, xlabel="training time of one core (s)", ylabel="validation R², 75 % hidden")
            axes.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.4))
    figure.savefig(path, dpi=150)


def main() -> None:
    """Runs the study, and saves the results after every run."""
    quieten()
    torch.set_num_threads(1)
    found: dict[str, Rows] = {"points": [], "gaussian": []}
    for case in CASES:
        with narrowed(case):
            for kind, rows in study(case):
                found[kind] += rows
                print(rows[-1], flush=True)
                save("initialisation", {"cases": [asdict(case) for case in CASES], **found})
    table = summary(found)
    show("Kernel and standard start at equal compute: validation R², mean of three seeds (lowest to highest)", table)
    save("initialisation", {"cases": [asdict(case) for case in CASES], "summary": table, **found})
    draw(found, RESULTS.parents[1] / "docs" / "initialisation.png")


if __name__ == "__main__":
    main()
