"""Results of a benchmark: printed as a table, and saved as JSON with a description of the machine."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from brainlm_lightning.provenance import provenance
from brainlm_lightning.run_folder import write_json

RESULTS = Path(__file__).parent / "results"
LINE = 200  # characters; wrapped cells would break the Markdown
Row = Mapping[str, str | float]


def machine() -> dict[str, Any]:
    """The hardware that the numbers depend on; no names of hosts or folders."""
    return {
        "processor": _processor(),
        "instructions": instructions(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
    }


INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "sve", "bf16")


def instructions() -> list[str]:
    """The processor's instructions for vectors and matrices, on which ratios of speeds depend.

    First what torch uses, then what the processor has; the latter is known on Linux alone.
    """
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    has = {word for line in text.splitlines() if line.startswith(("flags", "Features")) for word in line.split()}
    return [f"torch {torch.backends.cpu.get_cpu_capability()}", *(name for name in INSTRUCTIONS if name in has)]


def _processor() -> str:
    """Name of the processor: from /proc/cpuinfo on Linux, otherwise from `platform`."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def save(name: str, content: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Writes ``<name>.json`` atomically, with the machine, versions and date of the measurement."""
    path = folder / f"{name}.json"
    write_json(path, {**provenance(machine=machine()), **content})
    return path


def show(title: str, rows: Sequence[Row]) -> None:
    """Prints rows as a Markdown table without wrapping, and the processor; floats have three significant digits."""
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row.values()))
    console = Console(width=LINE)
    console.print(table)
    console.print(f"{_processor()}, {torch.get_num_threads()} threads, {' '.join(instructions())}", highlight=False)
