"""Training on 1 to 512 GPUs, on paper: bytes over the interconnect, hours and cost, from counted and measured figures.

Operations and parameters are counted from the experiment files. The rate of a GPU is read from ``results/gpu.json``
where `benchmarks.gpu` has measured it; else it is assumed, and the table says so. Prints the tables of
``docs/scaling.md``:

    python -m benchmarks.scaling
"""

import json
from dataclasses import dataclass

import torch

from benchmarks.gpu import SIZES, model_config, step_flops
from benchmarks.results import RESULTS, show
from benchmarks.training_step import FRAMES, PARCELS, RATIO
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MaskedAutoencoder

GLOBAL_BATCH, EPOCHS = 512, 100  # of the experiment files, and of the paper
RECORDINGS = (61_000, 1_000_000)  # one window of each an epoch
GPUS = (8, 16, 32, 64, 128, 256, 512)
PEAK_FLOPS = 989e12  # dense bfloat16 of an H100 SXM, by its maker
ASSUMED_SHARE = {"13M": 0.35, "111M": 0.5, "650M": 0.5}  # of the peak, where nothing has been measured
LINK_BYTES = 50e9  # a second and GPU, one 400 Gb/s port each, all of it
USD_AN_HOUR = 2.5  # of one GPU
GRADIENT_BYTES = 4  # gradients and weights that are exchanged are float32
DDP_PASSES, SHARDED_PASSES = 2, 3  # reduce-scatter and all-gather; with shards weights are gathered twice


@dataclass(frozen=True)
class Size:
    """A model, counted.

    Attributes:
        name: as in `benchmarks.gpu`.
        parameters: trained numbers.
        flops: of one window's forward and backward passes.
        rate: operations a second that one GPU reaches.
        measured: whether the rate was.
    """

    name: str
    parameters: int
    flops: int
    rate: float
    measured: bool

    def exchanged(self, gpus: int, passes: int) -> float:
        """Bytes that each GPU sends, and receives, in one optimiser step: rings pass each of n parts n - 1 times."""
        return passes * (gpus - 1) / gpus * GRADIENT_BYTES * self.parameters

    def computing(self, gpus: int) -> float:
        """Seconds of one optimiser step in which a GPU computes."""
        return GLOBAL_BATCH / gpus * self.flops / self.rate

    def hours(self, recordings: int) -> float:
        """GPU hours of a pretraining, without exchange and validation."""
        return recordings * EPOCHS * self.flops / self.rate / 3600


def count(name: str) -> Size:
    """Counts a model at the paper's shape."""
    config = model_config(SIZES[name][0])
    tokens = PARCELS * FRAMES // config.patch_frames
    geometry = Geometry(torch.zeros(PARCELS, 3), FRAMES)
    with torch.device("meta"):
        parameters = sum(each.numel() for each in MaskedAutoencoder(geometry, config).parameters())
    rate = measured_rate(name)
    flops = step_flops(geometry, config, tokens - round(tokens * RATIO))
    return Size(name, parameters, flops, rate or ASSUMED_SHARE[name] * PEAK_FLOPS, rate is not None)


def measured_rate(name: str) -> float | None:
    """Operations a second of a size on the GPU that was measured; None where none was."""
    path = RESULTS / "gpu.json"
    if not path.is_file():
        return None
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return next(float(row["TFLOP/s"]) * 1e12 for row in rows if row["size"] == name)


def of_sizes(sizes: list[Size]) -> list[dict[str, str]]:
    """What a pretraining takes: a row for each size and number of recordings."""
    return [
        {
            "model": size.name,
            "parameters": f"{size.parameters / 1e6:.1f} M",
            "GFLOP a window": f"{size.flops / 1e9:,.0f}",
            "TFLOP/s of a GPU": f"{size.rate / 1e12:.0f} ({'measured' if size.measured else 'assumed'})",
            "windows/s of a GPU": f"{size.rate / size.flops:,.0f}",
            "recordings": f"{recordings:,}",
            "optimiser steps": f"{recordings // GLOBAL_BATCH * EPOCHS:,}",
            "GPU hours": f"{size.hours(recordings):,.1f}",
            "USD": f"{size.hours(recordings) * USD_AN_HOUR:,.0f}",
        }
        for size in sizes
        for recordings in RECORDINGS
    ]


def of_gpus(size: Size) -> list[dict[str, str]]:
    """What a step exchanges and how long that takes, by number of GPUs."""
    rows = []
    for gpus in GPUS:
        row = {"GPUs": str(gpus), "windows each": f"{GLOBAL_BATCH // gpus}"}
        row |= {"computing, ms": f"{1000 * size.computing(gpus):.1f}"}
        for name, passes in (("DDP", DDP_PASSES), ("sharded", SHARDED_PASSES)):
            sent = size.exchanged(gpus, passes)
            seconds = sent / LINK_BYTES
            row |= {f"{name}: MB each way": f"{sent / 1e6:,.0f}", f"{name}: ms": f"{1000 * seconds:.1f}"}
            row |= {f"{name}: share computing": f"{size.computing(gpus) / (size.computing(gpus) + seconds):.0%}"}
        rows.append(row)
    return rows


def main() -> None:
    """Prints the tables."""
    sizes = [count(name) for name in SIZES]
    show(f"{EPOCHS} epochs, global batch {GLOBAL_BATCH}, {USD_AN_HOUR} USD for a GPU hour", of_sizes(sizes))
    for size in sizes:
        show(f"One step of {size.name}, nothing overlapped, {LINK_BYTES / 1e9:.0f} GB/s for each GPU", of_gpus(size))


if __name__ == "__main__":
    main()
