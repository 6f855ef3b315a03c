"""From a manifest to a store, with all cores, and from where it stopped where it was killed.

<cohort>.part/recordings/<name>.npz   each recording as it will be stored, written by the workers
<cohort>.part/store/                  the store, put together from those; renamed to <cohort> when it is whole
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from brainlm_lightning import __version__
from brainlm_lightning.atomic import alone, refuse_existing
from brainlm_lightning.data.convert import Conversion, Outcome, convert, load_converted
from brainlm_lightning.data.listing import list_recordings
from brainlm_lightning.data.manifest import Manifest
from brainlm_lightning.data.quality import write_page
from brainlm_lightning.data.read import Expected
from brainlm_lightning.data.split import assign_splits, units_of
from brainlm_lightning.data.store import Store, store_root
from brainlm_lightning.data.summary import summarise
from brainlm_lightning.data.workers import workers
from brainlm_lightning.data.write import Cohort, write_store
from brainlm_lightning.spreadsheet import harmless

MOST_LISTED = 10  # problems in an error message


def prepare(
    manifest: Manifest,
    *,
    output: Path | None = None,
    jobs: int = 1,
    backend: str = "loky",
    shard_recordings: int = 64,
) -> Path:
    """Prepares a cohort's store. Killed at any moment, a further call continues and ends in the same bytes.

    Args:
        manifest: What to prepare.
        output: The store's folder; `$BRAINLM_DATA/<cohort>` where None.
        jobs: Processes; each holds one recording at a time.
        backend: See `workers`; the folders of recordings and store must be there on every machine of a cluster.
        shard_recordings: Recordings in a file of the store.

    Returns:
        The store's folder.

    Raises:
        FileExistsError: The store is there already.
        ValueError: The manifest and the files disagree; float16 cannot hold a series; no recording is usable; or, under
            `policy: error`, a recording has a problem.
    """
    target = (Path(output) if output is not None else store_root() / manifest.cohort).absolute()
    work = target.with_name(target.name + ".part")
    if not work.exists():
        refuse_existing(target)
    listing, atlas = list_recordings(manifest), manifest.read_atlas()
    listed = listing.table
    with alone(work, target):
        (work / "recordings").mkdir(exist_ok=True)
        expected = manifest.expected(atlas)
        conversions = [conversion_of(manifest, expected, row, work) for row in listed.to_dict("records")]
        outcomes = _convert_all(conversions, jobs, backend)
        table, dropped = _judge(manifest, listed, outcomes)
        kept = [conversions[row].path for row in table.index]
        stage = _empty(work / "store")
        if manifest.truth is not None:
            shutil.copyfile(manifest.below_root(manifest.truth), stage / "truth.npz")
        harmless(dropped).to_csv(stage / "dropped.csv", index=False, lineterminator="\n")
        cohort = Cohort(manifest.cohort, atlas, manifest.tr_s, manifest.dtype, _made_by(manifest))
        write_store(stage, cohort, table, lambda row: load_converted(kept[row]), shard_recordings=shard_recordings)
        write_page(Store(stage))
        os.rename(stage, target)
        shutil.rmtree(work, ignore_errors=True)  # a second process may just be looking into it
    summarise(Store(target), dropped, outcomes, listing.remarks)
    return target


def share_left_out(folder: Path) -> float:
    """Returns the share of a store's recordings that were left out, of all that the manifest names."""
    left_out = len(pd.read_csv(folder / "dropped.csv"))
    return left_out / (left_out + len(Store(folder)))


def conversion_of(manifest: Manifest, expected: Expected, row: dict[Any, Any], work: Path) -> Conversion:
    """Returns what a worker needs to convert a row of the listing."""
    name = row["recording_id"]
    # Readable, and safe on any file system: what the first part loses, the hash keeps apart.
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:80] + "-" + blake2b(name.encode(), digest_size=8).hexdigest()
    return Conversion(
        recording_id=name,
        location=row["location"],
        path=work / "recordings" / f"{safe}.npz",
        expected=expected,
        tr_s=row["source_tr_s"],
        target_tr_s=manifest.tr_s,
        dtype=manifest.dtype,
        made_by=f"{__version__} {manifest.sha256}",
        skip_frames=manifest.recordings.skip_frames,
        mark_missing=manifest.missing_frames == "mark",
        cleaning=manifest.cleaning,
        motion=manifest.recordings.derivatives is not None or manifest.max_mean_fd_mm is not None,
    )


def _convert_all(conversions: list[Conversion], jobs: int, backend: str) -> list[Outcome]:
    """Converts every recording, in whatever order; returns the outcomes in the order of the conversions."""
    with workers(backend, jobs) as parallel:
        outcomes = parallel(joblib.delayed(convert)(conversion) for conversion in conversions)
        shown = track(outcomes, "recordings", total=len(conversions), console=Console(stderr=True))
        by_name = {outcome.recording_id: outcome for outcome in shown}
    return [by_name[conversion.recording_id] for conversion in conversions]


def _judge(manifest: Manifest, listed: pd.DataFrame, outcomes: list[Outcome]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Applies the policy; returns the recordings of the store, and those that are left out with the reasons."""
    found = ("num_frames", "sha256", "num_unobserved", "remarks")
    table = listed.drop(columns=["source_tr_s", "location"]).assign(tr_s=manifest.tr_s)
    table = table.assign(**{name: [getattr(outcome, name) for outcome in outcomes] for name in found})
    table["num_missing_frames"] = [outcome.num_missing for outcome in outcomes]
    table["missing_frames"] = [outcome.missing for outcome in outcomes]
    fd = [outcome.mean_fd_mm for outcome in outcomes]
    if any(value is not None for value in fd) and "mean_fd_mm" not in table:
        table["mean_fd_mm"] = pd.Series(fd, table.index, dtype=float).round(4)
    table["problems"] = list(_problems(listed, outcomes, manifest))
    out = np.array([bool(outcome.unreadable) for outcome in outcomes])
    out |= _moved_too_much(outcomes, manifest.max_mean_fd_mm)
    if manifest.policy != "mark":
        out |= (table["problems"] != "").to_numpy()
    dropped = table.loc[out, ["recording_id", "subject_id", "problems"]]
    some = dropped[["recording_id", "problems"]].head(MOST_LISTED)
    listing = "".join(f"\n  {name}: {problems}" for name, problems in some.itertuples(index=False))
    if manifest.policy == "error" and out.any():
        raise ValueError(f"{len(dropped)} of {len(table)} recordings have problems, and policy is `error`:{listing}")
    if out.all():
        raise ValueError(f"none of {len(table)} recordings can be used:{listing}")
    kept = table.loc[~out].copy()
    units = units_of(kept)
    kept["split"] = assign_splits(units, **asdict(manifest.split)).loc[units].to_numpy()  # exact shares of what is kept
    return kept, dropped


def _moved_too_much(outcomes: list[Outcome], most: float | None) -> np.ndarray:
    """Returns whose mean framewise displacement is too large; where it is not known, nobody's."""
    fd = np.array([np.nan if outcome.mean_fd_mm is None else outcome.mean_fd_mm for outcome in outcomes], float)
    return fd > (np.inf if most is None else most)


def _problems(listed: pd.DataFrame, outcomes: list[Outcome], manifest: Manifest) -> Iterator[str]:
    """Yields each recording's problems, separated by ';': its own, and those that show only beside the others."""
    sites = listed.loc[listed["site"] != ""].groupby("subject_id")["site"].agg(lambda of: sorted(set(of))).to_dict()
    parcels, most = manifest.read_atlas().num_parcels, manifest.max_missing
    first: dict[str, str] = {}
    for outcome, subject in zip(outcomes, listed["subject_id"], strict=True):
        if outcome.unreadable:
            yield outcome.unreadable
            continue
        empty = outcome.num_unobserved == parcels
        original = outcome.recording_id if empty else first.setdefault(outcome.sha256, outcome.recording_id)
        found = {
            f"dead_parcels={outcome.num_dead}": outcome.num_dead > 0,
            f"non_finite_parcels={outcome.num_non_finite}": outcome.num_non_finite > 0,
            "all_unobserved": empty,
            f"too_few_frames={outcome.num_frames}": outcome.num_frames < manifest.min_frames,
            f"too_many_missing_frames={outcome.num_missing}": outcome.num_missing > most * outcome.num_frames,
            f"motion: mean framewise displacement {outcome.mean_fd_mm or 0:.4g} mm": bool(
                _moved_too_much([outcome], manifest.max_mean_fd_mm)[0]
            ),
            f"duplicate_of={original}": original != outcome.recording_id,
            f"subject_at_sites={'+'.join(sites.get(subject, []))}": len(sites.get(subject, [])) > 1,
        }
        yield ";".join(problem for problem, there in found.items() if there)


def _made_by(manifest: Manifest) -> dict[str, Any]:
    processing = {"publisher": manifest.publisher, "here": manifest.cleaning.steps}
    return {
        "package_version": __version__,
        "manifest_sha256": manifest.sha256,
        "manifest": _without_places(asdict(manifest)),
        "processing": processing,
    }


def _without_places(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest without folders of this machine, which may come from the environment and concern nobody else."""
    return {**manifest, "root": "", "atlas": {**manifest["atlas"], "root": None}}


def _empty(folder: Path) -> Path:
    """Makes the folder anew: an earlier call may have been killed while it put the store together."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    return folder
