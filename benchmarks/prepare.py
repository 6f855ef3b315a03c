"""Recordings per second and peak memory of `prepare`, by the command line, from files to a finished store.

Each row makes a cohort of random series in a temporary folder and prepares it in a process of its own. *cpu_s* is the
processor time of that process and its workers, which other load on the machine changes little; *peak_mib* is the
largest sum of resident memory of them all, sampled five times a second. A cohort ten times as large needs the same
memory if recordings are held one at a time.

    python -m benchmarks.prepare                        # 1,000 recordings of 490 × 424, 10,000 of 60 × 100
    python -m benchmarks.prepare --cohorts 200x490x424 --format txt
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import yaml

from benchmarks.results import Row, save, show

COHORTS = ["1000x490x424", "1000x60x100", "10000x60x100"]
SAMPLED_S = 0.2


def write_cohort(folder: Path, recordings: int, frames: int, parcels: int, ending: str) -> Path:
    """Writes series, tables and the manifest; returns the manifest."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    base = rng.standard_normal((frames, parcels)).astype(np.float32)
    names = [f"sub-{number:05d}" for number in range(recordings)]
    for name in names:
        series = base + rng.standard_normal((frames, 1)).astype(np.float32)
        if ending == "npy":
            np.save(folder / f"{name}.npy", series)
        else:
            np.savetxt(folder / f"{name}.txt", series, fmt="%.5f")
    pd.DataFrame({"subject": names}).to_csv(folder / "recordings.tsv", sep="\t", index=False)
    places = dict(zip("xyz", rng.uniform(-60, 60, (3, parcels)).round(2), strict=True))
    labels = {"index": range(1, parcels + 1), "label": [f"P{number}" for number in range(parcels)]}
    pd.DataFrame(labels | places).to_csv(folder / "parcels.tsv", sep="\t", index=False)
    manifest = {
        "cohort": "benchmark",
        "root": str(folder),
        "atlas": {"name": "b", "table": "parcels.tsv", "index": "index", "label": "label", "xyz_mm": ["x", "y", "z"]},
        "recordings": {
            "table": "recordings.tsv",
            "file": f"{{subject}}.{ending}",
            "columns": {"recording_id": "subject", "subject_id": "subject"},
            "tr_s": 1.0,
        },
        "min_frames": 20,
    }
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump(manifest))
    return path


def measure(manifest: Path, output: Path, jobs: int) -> Row:
    """Prepares a cohort; returns seconds, processor seconds and the peak of memory."""
    command = [sys.executable, "-m", "brainlm_lightning.cli", "prepare", "--config", str(manifest)]
    started = time.perf_counter()
    running = subprocess.Popen([*command, "--output", str(output), "--jobs", str(jobs)], stdout=subprocess.DEVNULL)
    peak = main = 0
    while True:
        pid, status, usage = os.wait4(running.pid, os.WNOHANG)
        if pid:
            break
        own, others = _resident(running.pid)
        peak, main = max(peak, own + others), max(main, own)
        time.sleep(SAMPLED_S)
    if status:
        raise RuntimeError(f"prepare ended with status {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mib": peak / 2**20,
        "main_process_mib": main / 2**20,
    }


def _resident(pid: int) -> tuple[int, int]:
    """Resident bytes of a process and of all below it."""
    try:
        process = psutil.Process(pid)
        return process.memory_info().rss, sum(_bytes(child) for child in process.children(recursive=True))
    except psutil.NoSuchProcess:
        return 0, 0


def _bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def main(cohorts: list[str], ending: str, jobs: int) -> None:
    """Measures cohorts given as recordings x frames x parcels, prints a table and saves it."""
    rows: list[Row] = []
    for cohort in cohorts:
        recordings, frames, parcels = map(int, cohort.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            manifest = write_cohort(Path(folder) / "files", recordings, frames, parcels, ending)
            found = measure(manifest, Path(folder) / "benchmark", jobs)
        rate = {"per_s": recordings / float(found["seconds"]), "cpu_ms_each": 1000 * float(found["cpu_s"]) / recordings}
        rows.append({"cohort": cohort, "format": ending, **found, **rate})
    show(f"prepare with {jobs} processes", rows)
    save(f"prepare_{ending}", {"jobs": jobs, "rows": rows})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cohorts", nargs="+", default=COHORTS, help="recordings x frames x parcels of each")
    parser.add_argument("--format", choices=["npy", "txt"], default="npy", help="of the files")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    main(given.cohorts, given.format, given.jobs)
