"""Windows per second from the store, compared with copying memory and with the loader of the field's public code.

300 recordings of 490 frames and 10,000 of 240 frames, each of 424 parcels; random windows of 200 frames in batches of
64, one process, files in the page cache (4 GB, and as much memory for the array that is copied). *Copying memory* is
the upper bound: the same windows copied from one array in memory into the same kind of batch. *The public recipe*
converts a recording to Python objects and loops over its parcels, as the public loader does with rows of an Arrow
table; the additional cost of reading Arrow is left out. Times are CPU times of the process, so that other load on the
machine has little effect.

    python -m benchmarks.loading
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.results import save, show
from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.schedule import WindowRequest
from brainlm_lightning.data.shard import StoredRecording
from brainlm_lightning.data.store import Store
from brainlm_lightning.data.windows import Recordings, WindowDataset
from brainlm_lightning.data.write import Cohort, write_store

PARCELS, WINDOW, BATCH = 424, 200, 64
SIZES = {300: 490, 10_000: 240}  # recordings: frames of each
REPEATS, BATCHES = 15, 10
Load = Callable[[WindowRequest], Any]


def synthetic_store(folder: Path, memory: NDArray[np.floating]) -> Store:
    """Writes an array (recordings, frames, parcels) as a store."""
    recordings, frames, parcels = memory.shape
    names = [f"r{index:05d}" for index in range(recordings)]
    columns = {"recording_id": names, "subject_id": names, "num_frames": frames, "tr_s": 1.0, "num_unobserved": 0}
    texts = {"session": "", "task": "", "site": "", "split": "train", "sha256": "", "problems": ""}
    table = pd.DataFrame(columns | texts)
    at = {axis: np.linspace(-60, 60, parcels) for axis in ("x_mm", "y_mm", "z_mm")}
    labels = [f"p{index}" for index in range(parcels)]
    atlas = Atlas("synthetic", pd.DataFrame({"index": range(parcels), "label": labels, "network": "none", **at}))
    observed = np.ones(parcels, bool)

    def load(row: int) -> StoredRecording:
        return StoredRecording.centred(memory[row], observed, str(memory.dtype))

    return write_store(folder, Cohort("synthetic", atlas, 1.0, str(memory.dtype), {}), table, load)


def random_request(generator: np.random.Generator, recordings: int, frames: int) -> WindowRequest:
    """A batch of windows at random positions."""
    starts = generator.integers(0, frames - WINDOW + 1, BATCH)
    return WindowRequest(generator.integers(0, recordings, BATCH), starts, generator.integers(0, 99, BATCH, np.uint64))


def copy_from(memory: NDArray[np.floating]) -> Load:
    """The upper bound: copies alone."""

    def load(request: WindowRequest) -> NDArray[np.floating]:
        signal = np.empty((len(request), WINDOW, memory.shape[2]), memory.dtype)
        for window, row, start in zip(signal, request.rows.tolist(), request.starts.tolist(), strict=True):
            window[:] = memory[row, start : start + WINDOW]
        return signal

    return load


def public_recipe(memory: NDArray[np.floating]) -> Load:
    """The public loader's method; one window per call."""
    centroids = [{"x": 1.0, "y": 2.0, "z": 3.0} for _ in range(memory.shape[2])]

    def load(request: WindowRequest) -> tuple[torch.Tensor, torch.Tensor]:
        (row,), (start,) = request.rows.tolist(), request.starts.tolist()
        frames = memory[row].tolist()  # the whole recording, as Python objects
        signal, xyz = [], []
        for parcel in range(memory.shape[2]):
            centroid = centroids[parcel]
            signal.append(torch.tensor([frame[parcel] for frame in frames[start : start + WINDOW]]))
            xyz.append(torch.tensor([centroid["x"], centroid["y"], centroid["z"]]))
        return torch.stack(signal), torch.stack(xyz)

    return load


def rates(loads: dict[str, Load], recordings: int) -> dict[str, list[float]]:
    """Windows per second of each method, measured in turn on the same random requests."""
    generator = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in loads}
    for repeat in range(REPEATS + 1):  # the first one is discarded
        requests = [random_request(generator, recordings, SIZES[recordings]) for _ in range(BATCHES)]
        for name, load in loads.items():
            asked = [requests[0][:1]] * 3 if name == "public recipe" else requests
            started = time.process_time()
            for request in asked:
                load(request)
            if repeat:
                found[name].append(sum(map(len, asked)) / (time.process_time() - started))
    return found


def measure(recordings: int, dtype: str, folder: Path) -> dict[str, list[float]]:
    """Rates of all methods for a number of recordings and a data type."""
    memory = np.empty((recordings, SIZES[recordings], PARCELS), dtype)
    generator = np.random.default_rng(1)
    for recording_TP in memory:
        recording_TP[:] = generator.standard_normal(recording_TP.shape, np.float32)
    store = synthetic_store(folder, memory)
    dataset = WindowDataset(Recordings.of([store]), "robust", [store.statistics], WINDOW)
    for row in range(recordings):
        store.series(row).max()  # maps every page, as the first epoch does, in which the rate is lower
    ways = {"copying memory": copy_from(memory), "store": dataset.__getitems__, "public recipe": public_recipe(memory)}
    return rates(ways, recordings)


def main() -> None:
    """Measures, shows and saves."""
    rows, found = [], {}
    for recordings, dtype in itertools.product(SIZES, ("float32", "float16")):
        with tempfile.TemporaryDirectory() as folder:
            found[f"{recordings}, {dtype}"] = ways = measure(recordings, dtype, Path(folder))
        median = {name: statistics.median(values) for name, values in ways.items()}
        window_bytes = WINDOW * PARCELS * np.dtype(dtype).itemsize
        for name, rate in median.items():
            row = {"recordings": f"{recordings:,}", "stored": dtype, "way": name}
            row |= {"windows/s": f"{rate:,.0f}", "GB/s": rate * window_bytes / 1e9}
            row |= {"of copying memory": f"{rate / median['copying memory']:.1%}"}
            rows.append(row | {"of the public recipe": f"{rate / median['public recipe']:.0f} x"})
    show(f"Random windows of {WINDOW} frames x {PARCELS} parcels, batches of {BATCH}, one process", rows)
    save("loading", {"rows": rows, "windows_per_second": found})


if __name__ == "__main__":
    main()
