"""What `prepare` would do, without doing it: what would be read, what is missing and why, how large and how long."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape

from brainlm_lightning.data.convert import Conversion, Prepared, explained, prepare_recording
from brainlm_lightning.data.listing import list_recordings
from brainlm_lightning.data.manifest import Manifest
from brainlm_lightning.data.prepare import conversion_of
from brainlm_lightning.data.split import SPLITS
from brainlm_lightning.failure import printable

MOST_LISTED = 50
BUDGET_S = 20  # for reading recordings whole


def dry_run(manifest: Manifest, jobs: int) -> int:
    """Prints what a preparation would read and make; writes nothing.

    Args:
        manifest: What would be prepared.
        jobs: Processes that it would use.

    Returns:
        How many recordings cannot be read.

    Raises:
        ValueError: The tables and the manifest disagree.
    """
    listing, atlas = list_recordings(manifest), manifest.read_atlas()
    expected = manifest.expected(atlas)
    conversions = [conversion_of(manifest, expected, row, Path()) for row in listing.table.to_dict("records")]
    absent = [conversion for conversion in conversions if not _file(conversion).is_file()]
    problems = {conversion.recording_id: f"{_file(conversion)}: no such file" for conversion in absent}
    there = [conversion for conversion in conversions if conversion.recording_id not in problems]
    tried, seconds = _try(there, problems)
    console = Console(soft_wrap=True, highlight=False)
    subjects = listing.table["subject_id"].nunique()
    console.print(f"{manifest.cohort}: {len(conversions)} recordings of {subjects} subjects, "
                  f"{atlas.num_parcels} parcels of {atlas.name}; {len(absent)} files are not there")  # fmt: skip
    console.print(_splits(listing.table))
    for remark in (*listing.remarks, *dict.fromkeys(text for prepared in tried for text in _remarks(prepared))):
        console.print(escape(printable(remark)))
    for name, reason in list(problems.items())[:MOST_LISTED]:
        console.print(escape(printable(f"  {name}: {reason}")))
    if tried:
        console.print(_cost(manifest, tried, len(there), seconds, jobs))
    return len(problems)


def _try(there: list[Conversion], problems: dict[str, str]) -> tuple[list[Prepared], float]:
    """Reads recordings, spread over the table, for some seconds; returns them and the seconds that one takes."""
    tried: list[Prepared] = []
    order = np.random.default_rng(0).permutation(len(there)).tolist()
    begun, read = time.perf_counter(), 0
    for index in order:
        read += 1
        try:
            tried.append(prepare_recording(there[index]))
        except Exception as error:  # whatever a reader raises is that recording's problem
            problems[there[index].recording_id] = explained(there[index], error)
        if time.perf_counter() - begun > BUDGET_S:
            break
    return tried, (time.perf_counter() - begun) / max(read, 1)


def _cost(manifest: Manifest, tried: list[Prepared], recordings: int, seconds: float, jobs: int) -> str:
    frames = np.mean([len(prepared.series) for prepared in tried])
    parcels = tried[0].series.shape[1]
    size = recordings * frames * parcels * np.dtype(manifest.dtype).itemsize
    short = sum(len(prepared.series) < manifest.min_frames for prepared in tried)
    warning = f"; {short} of them are shorter than min_frames {manifest.min_frames}" * bool(short)
    return (
        f"{len(tried)} of {recordings} recordings read whole: {frames:.0f} frames at tr_s {manifest.tr_s}{warning}. "
        f"Expected: a store of {size / 1e6:,.0f} MB in about {recordings * seconds / jobs / 60:.1f} minutes "
        f"with {jobs} processes"
    )


def _splits(table: pd.DataFrame) -> str:
    counts = Counter(table.drop_duplicates("subject_id")["split"])
    return "subjects: " + ", ".join(f"{name} {counts[name]}" for name in SPLITS)


def _remarks(prepared: Prepared) -> list[str]:
    return [remark for remark in prepared.outcome.remarks.split(";") if remark]


def _file(conversion: Conversion) -> Path:
    return Path(conversion.location.partition("::")[0])
