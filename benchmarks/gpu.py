"""GPU utilisation of training: windows per second, memory, and the share of the measured bfloat16 matmul rate.

The three sizes of the paper at 424 parcels x 200 frames, 75 % hidden, bfloat16, sizes as in their experiment files.
Operations are counted on the meta device (attention on a CPU would count as none), with the backward pass, without
recomputation.

    python -m benchmarks.gpu
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results import save, show
from benchmarks.training_step import FRAMES, PARCELS, RATIO, our_step
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SIZES = {"13M": ("pretrain", 64), "111M": ("pretrain_111M", 16), "650M": ("pretrain_650M", 16)}  # file, batch
MATMUL_WIDTH = 8192
WARM_UP, REPEATS = 3, 10


def model_config(experiment: str) -> MAEConfig:
    """The model's sizes in an experiment file; the defaults where it names none."""
    content = yaml.safe_load((EXPERIMENTS / f"{experiment}.yaml").read_text(encoding="utf-8"))
    model = content["model"]["init_args"].get("model", {})
    return MAEConfig(**model.get("init_args", {}).get("config", {}))


def step_flops(geometry: Geometry, config: MAEConfig, num_visible: int) -> int:
    """Floating-point operations of one window's forward and backward passes.

    Calls the model's parts in the order of `forward`, which cannot select visible tokens on the meta device.
    """
    with torch.device("meta"):
        net = MaskedAutoencoder(geometry, config)
        tokens = geometry.num_parcels * net.num_patches
        with FlopCounterMode(display=False) as counter:
            visible_BVD = net.patch_projection(torch.empty(1, num_visible, config.patch_frames))
            encoded_BVD = net.encoder(torch.cat([net.cls_D.expand(1, 1, -1), visible_BVD], dim=1))
            hidden_BLD = net.mask_token_D.expand(1, tokens - num_visible, -1)
            full_BLD = torch.cat([net.decoder_projection(encoded_BVD), hidden_BLD], dim=1)
            net.head(net.decoder(full_BLD)[:, 1:]).sum().backward()
    total: int = counter.get_total_flops()
    return total


def _median_seconds(work: Callable[[], Any]) -> float:
    """Median time of repeated work on the GPU, after a warm-up."""
    seconds = []
    for repeat in range(WARM_UP + REPEATS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if repeat >= WARM_UP:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def matmul_rate() -> float:
    """Measured operations per second of a large bfloat16 matrix product."""
    a, b = torch.randn(2, MATMUL_WIDTH, MATMUL_WIDTH, device="cuda", dtype=torch.bfloat16)
    return 2 * MATMUL_WIDTH**3 / _median_seconds(lambda: a @ b)


def measure(name: str, rate: float) -> dict[str, str | float]:
    """One row of the table, for one model size."""
    experiment, batch = SIZES[name]
    config = model_config(experiment)
    tokens = PARCELS * FRAMES // config.patch_frames
    flops = step_flops(Geometry(torch.zeros(PARCELS, 3), FRAMES), config, tokens - round(tokens * RATIO))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    seconds = _median_seconds(our_step(config, batch, bf16=True))
    row: dict[str, str | float] = {"size": name, "batch": str(batch), "windows/s": batch / seconds}
    row |= {"peak GB": torch.cuda.max_memory_allocated() / 1e9, "TFLOP a window": flops / 1e12}
    return row | {"TFLOP/s": batch * flops / seconds / 1e12, "of the matmul rate": batch * flops / seconds / rate}


def main() -> None:
    """Measures, shows and saves, if there is a CUDA device."""
    if not torch.cuda.is_available():
        print("no CUDA device: skipped")
        return
    rate = matmul_rate()
    rows = [measure(name, rate) for name in SIZES]
    show(f"Training in bfloat16 on one {torch.cuda.get_device_name()}; matmul rate {rate / 1e12:.0f} TFLOP/s", rows)
    save("gpu", {"rows": rows, "matmul_flops_per_second": rate})


if __name__ == "__main__":
    main()
