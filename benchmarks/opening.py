"""Opening a store, setting up `fit` and planning an epoch, by the number of recordings.

Each row writes a store of short series of few parcels, so that what counts is the number of recordings and of shards,
and measures processor time, which other load on the machine changes little. *statistics* is what `prepare` does at its
end with the series of the training subjects, by recording.

    python -m benchmarks.opening [--recordings 100 1000 10000 80000]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
from torch.utils.data import DataLoader

from benchmarks.results import Row, save, show
from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.shard import StoredRecording
from brainlm_lightning.data.store import Store, training_statistics
from brainlm_lightning.data.write import Cohort, write_store

FRAMES, PARCELS = 24, 4
SIZES = (100, 1_000, 10_000)
SPLITS = np.array(["train"] * 8 + ["val", "test"])


def write(folder: Path, recordings: int) -> None:
    """Writes a store; every recording has the same series."""
    rng = np.random.default_rng(0)
    series = rng.standard_normal((FRAMES, PARCELS)).astype(np.float32)
    one = StoredRecording.centred(series, np.ones(PARCELS, bool), "float32")
    names = [f"sub-{number:06d}" for number in range(recordings)]
    table = pd.DataFrame(
        {
            **{"recording_id": names, "subject_id": names, "session": None, "task": "rest", "site": None},
            **{"tr_s": 1.0, "problems": None, "num_frames": FRAMES, "split": np.resize(SPLITS, recordings)},
            **{"sha256": one.sha256, "num_unobserved": 0, "age": rng.uniform(40, 80, recordings).round(1)},
        }
    )
    parcels = {"index": range(1, PARCELS + 1), "label": list("abcd"), "network": "none"}
    centroids = dict(zip(("x_mm", "y_mm", "z_mm"), rng.uniform(-60, 60, (3, PARCELS)), strict=True))
    atlas = Atlas("four", pd.DataFrame(parcels | centroids))
    folder.mkdir()
    plan = {"split": {"key": "k", "val": 0.1, "test": 0.1}}
    write_store(folder, Cohort("many", atlas, 1.0, "float32", {"manifest": plan}), table, lambda row: one)


def measure(root: Path, recordings: int) -> Row:
    """One row of the table."""
    folder = root / "many"
    write(folder, recordings)
    store, opened = _timed(lambda: Store(folder))
    os.environ["BRAINLM_DATA"] = str(root)
    data = CohortDataModule("many", window_frames=20, global_batch_size=16, num_workers=0)
    data.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)
    _, set_up = _timed(lambda: data.setup("fit"))
    _, planned = _timed(lambda: data.schedule.epoch(0))
    _, validation = _timed(lambda: _first(data.val_dataloader()))
    _, statistics = _timed(lambda: training_statistics(store))
    return {
        "recordings": str(recordings),
        "open, s": opened,
        "set up fit, s": set_up,
        "plan an epoch, s": planned,
        "first validation batch, s": validation,
        "statistics, ms each": 1000 * statistics / (0.8 * recordings),
        "set up, ms each": 1000 * set_up / recordings,
    }


def _first(loader: DataLoader[Any]) -> Any:
    return next(iter(loader))


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    found = work()
    return found, time.process_time() - started


def main() -> None:
    """Measures, shows and saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recordings", type=int, nargs="+", default=SIZES)
    rows = []
    for recordings in parser.parse_args().recordings:
        with tempfile.TemporaryDirectory() as root:
            rows.append(measure(Path(root), recordings))
            print(rows[-1], flush=True)
    show(f"Start-up by number of recordings ({FRAMES} frames x {PARCELS} parcels), processor time", rows)
    save("opening", {"rows": rows})


if __name__ == "__main__":
    main()
