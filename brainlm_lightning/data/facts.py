"""What a report says of a cohort, as plain numbers that a run folder keeps; without names of people."""

from typing import Any

import pandas as pd

from brainlm_lightning.data.store import COLUMNS, Store

TRUTH = "truth.npz"  # a simulated cohort's
MOST_VALUES = 30  # sites or tasks that are counted one by one
MOTION = ("mean_fd_mm", "mean_fd")


def cohort_facts(store: Store) -> dict[str, Any]:
    """Numbers of recordings and subjects, lengths, parcels, free dimensions, motion, and phenotypes.

    Returns:
        Plain values: `hours` of all recordings together, `frames` as (fewest, median, most), counts by `split`, `site`
        and `task`, `phenotypes` with the number of recordings that have each.
    """
    table, atlas, made_by = store.recordings, store.atlas, store.metadata["made_by"]
    dimensions = store.metadata.get("effective_dimensions") or {}
    motion = next((name for name in MOTION if name in table.select_dtypes("number")), None)
    unobserved = pd.to_numeric(table["num_unobserved"], errors="coerce").fillna(0)
    return {
        "cohort": store.name,
        "atlas": atlas.name,
        "parcels": atlas.num_parcels,
        "networks": int(pd.Series(atlas.networks).nunique()),
        "tr_s": store.tr_s,
        "recordings": len(table),
        "subjects": int(table["subject_id"].nunique()),
        "hours": float((table["num_frames"] * store.tr_s).sum() / 3600),
        "frames": [float(table["num_frames"].quantile(share)) for share in (0, 0.5, 1)],
        "split": _counts(table, "split"),
        "site": _counts(table, "site"),
        "task": _counts(table, "task"),
        "missing_frames": int(pd.to_numeric(table["num_missing_frames"], errors="coerce").fillna(0).sum()),
        "unobserved_parcels": [int(unobserved.median()), int(unobserved.max())],
        "motion_mm": None if motion is None else float(table[motion].median()),
        "effective_dimensions": dimensions.get("dimensions"),
        "window_frames": dimensions.get("window_frames"),
        "phenotypes": {name: int(table[name].notna().sum()) for name in table if name not in COLUMNS},
        "cleaning": made_by.get("manifest", {}).get("cleaning"),
        "published_processing": made_by.get("processing", {}).get("publisher") or "",
        "simulated": (store.folder / TRUTH).is_file(),
        "package": made_by.get("package_version"),
    }


def _counts(table: pd.DataFrame, by: str) -> dict[str, list[int]]:
    """Value -> recordings and subjects; the most frequent ones where there are many."""
    named = table[table[by].notna() & (table[by].astype(str) != "")]
    grouped = named.groupby(by).agg(recordings=("recording_id", "size"), subjects=("subject_id", "nunique"))
    most = grouped.sort_values("recordings", ascending=False, kind="stable").head(MOST_VALUES)
    counts = most[["recordings", "subjects"]].to_numpy().tolist()
    return {str(name): both for name, both in zip(most.index, counts, strict=True)}
