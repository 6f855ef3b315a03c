"""One training step of the paper's 13-million-parameter model, against a plain one (`benchmarks.reference`).

Forward, loss, backward and AdamW at 424 parcels x 200 frames, 75 % hidden. Memory of each variant is measured in its
own process: on a CPU, peak resident memory minus that before the first step; on a GPU, the allocator's peak minus the
memory allocated before. Times are medians of interleaved repeats, as wall time and as CPU time of the process; the
latter, with one thread (OMP_NUM_THREADS=1), does not depend on other load on the machine.

    python -m benchmarks.training_step [--batch 4] [--repeats 3]
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import psutil
import torch

from benchmarks.reference import PlainAutoencoder, plain_loss
from benchmarks.results import save, show
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.masked import reconstruction_loss
from brainlm_lightning.model.masking import Grid, counter_noise, draw_mask
from brainlm_lightning.tasks.reconstruction.plan import MaskingPlan

PARCELS, FRAMES, BATCH, RATIO = 424, 200, 4, 0.75
REPEATS = 3
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DECODED = {  # decoder, and the share of hidden patches that a step decodes (null: everything, as the reference)
    "ours": ("joint", None),
    "ours, hidden alone": ("joint", 1.0),
    "cross": ("cross", 1.0),
    "cross, half": ("cross", 0.5),
    "cross, a quarter": ("cross", 0.25),
}
REFERENCE = "reference, float32"
VARIANTS = (REFERENCE, *(f"{name}, {kind}" for kind in ("float32", "bfloat16") for name in DECODED))
Step = Callable[[], float]


def make_step(variant: str, batch: int) -> Step:
    """A function that performs one training step of a variant and returns the loss."""
    if variant == REFERENCE:
        return reference_step(MAEConfig(), batch)
    name, kind = variant.rsplit(", ", 1)
    decoder, share = DECODED[name]
    return our_step(MAEConfig(decoder=decoder), batch, kind == "bfloat16", share)


def reference_step(config: MAEConfig, batch: int) -> Step:
    """A training step of the plain reference."""
    geometry, signal_BPT, key_B = _inputs(batch)
    net = PlainAutoencoder(geometry, config).to(DEVICE)
    tokens = PARCELS * FRAMES // config.patch_frames

    def loss() -> torch.Tensor:
        prediction_BLS, hidden_BL = net(signal_BPT, counter_noise(key_B, tokens), tokens - round(tokens * RATIO))
        return plain_loss(prediction_BLS, signal_BPT, hidden_BL)

    return _step(net, loss)


def our_step(config: MAEConfig, batch: int, bf16: bool, decoded_share: float | None = None) -> Step:
    """A training step of this package's model; `decoded_share` as in `MaskingPlan`."""
    plan = MaskingPlan(RATIO, decoded_share=decoded_share)
    geometry, signal_BPT, key_B = _inputs(batch)
    net = MaskedAutoencoder(geometry, config).to(DEVICE)
    observed_BP = torch.ones(batch, PARCELS, dtype=torch.bool, device=DEVICE)

    def loss() -> torch.Tensor:
        hidden_BPN = draw_mask("random", key_B, RATIO, Grid(observed_BP, net.num_patches))
        wanted_BPN = plan.wanted(key_B, hidden_BPN)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
            if wanted_BPN is None:
                prediction_BPT = net(signal_BPT, hidden_BPN, observed_BP).prediction_BPT
            else:
                prediction_BPT = net.reconstruct(signal_BPT, hidden_BPN, observed_BP, wanted_BPN).prediction_BPT
        return reconstruction_loss(prediction_BPT, signal_BPT, hidden_BPN if wanted_BPN is None else wanted_BPN)

    return _step(net, loss)


def _inputs(batch: int) -> tuple[Geometry, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    signal_BPT = torch.randn(batch, PARCELS, FRAMES, device=DEVICE)
    return Geometry(torch.randn(PARCELS, 3) * 40, FRAMES), signal_BPT, torch.arange(batch, device=DEVICE)


def _step(net: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def step() -> float:
        value = loss()
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
        return value.item()  # waits for the device

    return step


def peak_bytes(variant: str, batch: int) -> int:
    """Memory of a variant's first step, in addition to model, optimiser and data."""
    step = make_step(variant, batch)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before: int = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    before, earlier_peak = int(psutil.Process().memory_info().rss), _peak_resident()
    step()
    assert _peak_resident() > earlier_peak, "the step did not exceed the earlier peak, so its memory is unknown"
    return _peak_resident() - before


def _peak_resident() -> int:
    """Highest resident memory of this process so far; Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def step_seconds(batch: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Wall and CPU seconds of each variant's steps, interleaved, after a warm-up step."""
    steps = {variant: make_step(variant, batch) for variant in VARIANTS}
    found: dict[str, dict[str, list[float]]] = {variant: {"wall": [], "core": []} for variant in VARIANTS}
    for repeat in range(repeats + 1):
        for variant, step in steps.items():
            wall, core = time.perf_counter(), time.process_time()
            step()
            if repeat:
                found[variant]["wall"].append(time.perf_counter() - wall)
                found[variant]["core"].append(time.process_time() - core)
    return found


def _in_fresh_process(work: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def main(batch: int = BATCH, repeats: int = REPEATS) -> None:
    """Measures, shows and saves."""
    peak = {variant: _in_fresh_process(peak_bytes, variant, batch) for variant in VARIANTS}
    seconds = _in_fresh_process(step_seconds, batch, repeats)
    median = {
        variant: {clock: statistics.median(values) for clock, values in clocks.items()}
        for variant, clocks in seconds.items()
    }
    first = VARIANTS[0]
    rows = [
        {
            "one training step": variant,
            "seconds": median[variant]["wall"],
            "faster": f"{median[first]['wall'] / median[variant]['wall']:.2f} x",
            "core seconds": median[variant]["core"],
            "fewer": f"{median[first]['core'] / median[variant]['core']:.2f} x",
            "peak MB": f"{peak[variant] / 1e6:,.0f}",
            "less memory": f"{peak[first] / peak[variant]:.2f} x",
        }
        for variant in VARIANTS
    ]
    show(f"{PARCELS} parcels x {FRAMES} frames, batch {batch}, {RATIO:.0%} hidden, 13M parameters, {DEVICE}", rows)
    name = "training_step" if batch == BATCH else f"training_step_batch{batch}"
    save(name, {"batch": batch, "rows": rows, "seconds": seconds, "peak_bytes": peak})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=BATCH, help="windows of a step")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="measured steps of each variant")
    given = parser.parse_args()
    main(given.batch, given.repeats)
