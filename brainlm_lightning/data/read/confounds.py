"""Nuisance regressors and frames to censor, as fMRIPrep and XCP-D write them beside a recording."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nilearn.interfaces.fmriprep import load_confounds

from brainlm_lightning.data.nuisance import Nuisance
from brainlm_lightning.data.read.sidecar import ENTITIES, entities
from brainlm_lightning.data.read.table import read_table


def read_nuisance(path: Path, strategy: tuple[str, ...], options: Mapping[str, Any], frames: int) -> Nuisance:
    """Reads the confounds of a recording by nilearn's `load_confounds`, and its motion.

    Args:
        path: The volume or dtseries; without a strategy any file of the same subject, session, task and run.
        strategy: See `load_confounds`; () reads motion and outliers alone.
        options: Its further arguments.
        frames: Of the recording, before any is left out.

    Raises:
        ValueError: There is no confounds file, it is empty, or it has another number of rows than the recording frames.
    """
    table = _beside(path, ("desc-confounds_timeseries.tsv", "desc-confounds_regressors.tsv", "motion.tsv"))
    mean_fd = _mean_fd(table) if table else None
    censored = _outliers(path, frames)
    if not strategy:
        return Nuisance(None, censored, mean_fd)
    if table is None or table.name.endswith("motion.tsv"):
        raise ValueError(f"{path}: no confounds file beside it; expected …_desc-confounds_timeseries.tsv")
    regressors, kept = load_confounds(str(path), strategy=strategy, **options)
    if regressors is None or not len(regressors.columns):
        raise ValueError(f"{table}: no regressors of {list(strategy)} in it")
    if len(regressors) != frames:
        raise ValueError(f"{table}: {len(regressors)} rows for {frames} frames of {path.name}; is it of another run?")
    if kept is not None:
        scrubbed = np.ones(frames, bool)
        scrubbed[kept] = False
        censored = scrubbed if censored is None else censored | scrubbed
    return Nuisance(regressors.to_numpy(np.float64), censored, mean_fd)


def _beside(path: Path, endings: tuple[str, ...]) -> Path | None:
    """Returns the file of the same subject, session, task and run with one of the endings."""
    given = entities(path)
    wanted = [f"{key}-{given[key]}" for key in ENTITIES if key in given]
    for ending in endings:
        for other in sorted(path.parent.glob(f"{wanted[0]}*{ending}")) if wanted else ():
            if all(part in other.name.split("_") for part in wanted):
                return other
    return None


def _mean_fd(table: Path) -> float | None:
    if not table.stat().st_size:
        raise ValueError(f"{table}: an empty confounds file")
    columns = read_table(table)
    name = next((name for name in ("framewise_displacement", "FramewiseDisplacement") if name in columns), None)
    return float(columns[name].astype(float).mean()) if name else None


def _outliers(path: Path, frames: int) -> np.ndarray | None:
    """Returns the frames that XCP-D marks for censoring."""
    table = _beside(path, ("outliers.tsv",))
    if table is None:
        return None
    columns = read_table(table)
    name = next((name for name in ("framewise_displacement", *columns.columns) if name in columns), None)
    if name is None or len(columns) != frames:
        raise ValueError(f"{table}: {len(columns)} rows for {frames} frames of {path.name}")
    return np.asarray(columns[name].to_numpy(float) > 0)
