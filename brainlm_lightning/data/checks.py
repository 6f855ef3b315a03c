"""What must be true of the cohorts of an experiment before anything is trained on them or tested."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from brainlm_lightning.data.places import Places
from brainlm_lightning.data.schedule import TrainingSchedule, windows_per_recording_for
from brainlm_lightning.data.split import units_of
from brainlm_lightning.data.store import Store


def check_together(stores: Sequence[Store], several_atlases: bool = False) -> None:
    """Checks that the cohorts of an experiment share one atlas, in one order, and one frame interval.

    Args:
        stores: of the cohorts.
        several_atlases: their atlases may differ.

    Raises:
        ValueError: Two of them differ.
    """
    first = stores[0]
    for store in stores[1:]:
        if store.atlas.sha256 != first.atlas.sha256 and not several_atlases:
            raise ValueError(
                f"cohorts {first.name!r} and {store.name!r} have different parcels: atlas {first.atlas.name!r} with "
                f"{first.atlas.num_parcels} and {store.atlas.name!r} with {store.atlas.num_parcels}; prepare both with "
                "the same atlas table, in the same order, or pretrain on both with data.several_atlases: true"
            )
        if abs(store.tr_s - first.tr_s) > 1e-6:
            raise ValueError(
                f"cohort {first.name!r} has a frame every {first.tr_s} s, {store.name!r} every {store.tr_s} s; "
                "prepare both with the same tr_s"
            )


def check_atlas_trained(trained: Sequence[Store], tested: Sequence[Store]) -> None:
    """Checks that every cohort that is only tested has an atlas that a training cohort has, whose statistics scale it.

    Raises:
        ValueError: One has not.
    """
    known = {store.atlas.sha256 for store in trained}
    there = ", ".join(sorted({store.atlas.name for store in trained}))
    for store in tested:
        if store.atlas.sha256 not in known:
            raise ValueError(
                f"no training cohort has the atlas of the test cohort {store.name!r}, {store.atlas.name!r} with "
                f"{store.atlas.num_parcels} parcels; they are in {there}: "
                "move the model to the other atlas (`brainlm move`), or test another cohort"
            )


def check_one_split_each(table: pd.DataFrame) -> None:
    """Checks that a subject or family of several cohorts is in the same split in all of them.

    Args:
        table: the recordings of the training cohorts.

    Raises:
        ValueError: A subject or a family is in two splits.
    """
    for units, word in ((table["subject_id"], "subjects"), (units_of(table), "subjects or families")):
        splits = table.groupby(units)["split"].nunique()
        if (splits > 1).any():
            torn = sorted(splits[splits > 1].index)
            raise ValueError(
                f"{len(torn)} {word} are in two splits, {torn[0]!r} first; prepare the cohorts with one split key, the "
                "same shares and the same families, so that all of a unit are in the same split everywhere"
            )


def check_unseen(name: str, tested: pd.DataFrame, seen: pd.DataFrame) -> None:
    """Checks that no subject of a test set trains or validates, and nobody of a tested subject's family.

    Args:
        name: of the test cohort.
        tested: recordings of the test set.
        seen: recordings that train or validate.

    Raises:
        ValueError: Some do.
    """
    both = set(seen["subject_id"]) & set(tested["subject_id"])
    if both:
        raise ValueError(
            f"{len(both)} subjects of the test cohort {name!r} train or validate, {sorted(both)[0]!r} first; a test "
            "subject must be in no training set: leave out the cohort or these subjects"
        )
    related = set(units_of(seen)) & set(units_of(tested))
    if related:
        raise ValueError(
            f"relatives of subjects of the test cohort {name!r} train or validate: {len(related)} families are on both "
            f"sides, {sorted(related)[0]!r} first; leave out the cohort or these families"
        )


def unusable(table: pd.DataFrame, stores: Sequence[Store], places: Places) -> pd.DataFrame:
    """Returns which recordings no window is read from, a column of bools for each reason.

    Args:
        table: recordings of all cohorts, with the number of their store.
        stores: of the cohorts.
        places: of the windows.

    Returns:
        `short`: fewer frames than a window has. `gapped`: no window fits between the frames marked as missing. `empty`:
        not one parcel with data. `duplicate`: of another recording.
    """
    parcels = np.array([store.atlas.num_parcels for store in stores])[table["store"]]
    short = table["num_frames"] < places.window_frames
    return pd.DataFrame(
        {
            "short": short,
            "gapped": ~short & (places.room(np.arange(len(table))) == 0),
            "empty": table["num_unobserved"] >= parcels,
            "duplicate": table["problems"].str.contains("duplicate_of"),
        }
    )


def said_of_unusable(reasons: pd.DataFrame, window_frames: int) -> str:
    """Says how many recordings are `unusable`, and what to do where frames are missing."""
    count = reasons.sum().astype(int)
    said = [
        f"{count['short']} recordings shorter than {window_frames} frames",
        f"{count['duplicate']} duplicates",
        f"{count['empty']} without a usable parcel",
    ]
    if count["gapped"]:
        said.append(f"{count['gapped']} without {window_frames} frames in a row that have data. {_GAPPED}")
    return ", ".join(said)


def check_left_out(table: pd.DataFrame, window_frames: int) -> None:
    """Checks that what is left out can be tested on.

    Args:
        table: the recordings that are left out, with a column `usable`.
        window_frames: T.

    Raises:
        ValueError: none of them is usable.
    """
    if len(table) and not table["usable"].any():
        raise ValueError(
            f"leave_out: none of the {len(table)} recordings left out has a window of {window_frames} frames and is no "
            f"duplicate (the longest has {int(table['num_frames'].max())}), so they cannot be tested; leave out others"
        )


def check_long_enough(table: pd.DataFrame, window_frames: int) -> None:
    """Checks that every cohort has a recording of at least one window.

    Raises:
        ValueError: All recordings of a cohort are shorter.
    """
    for name, rows in table.groupby("cohort", sort=False):
        longest = int(rows["num_frames"].max())
        if longest < window_frames:
            raise ValueError(
                f"all {len(rows)} recordings of cohort {name!r} are shorter than a window of {window_frames} frames; "
                f"the longest has {longest}. {_shorter_window(longest)}"
            )


def check_batches(schedule: TrainingSchedule, cohorts: Sequence[str], weights: Sequence[float], at_once: int) -> None:
    """Checks that an epoch has a batch, and where there are several atlases, one of each.

    Args:
        schedule: of the training.
        cohorts: names of the training cohorts.
        weights: their shares of the windows.
        at_once: windows that all devices process at once.

    Raises:
        ValueError: there are too few windows.
    """
    found = schedule.batches_of
    if all(found.values()):
        return
    begun, asked = "an epoch has", f"fewer than global_batch_size {schedule.global_batch_size}"
    if len(found) > 1:
        windows = dict(zip(cohorts, schedule.windows, strict=True))
        raise ValueError(
            f"{begun} {windows} training windows, of one of the atlases {asked}: lower it, give that cohort a larger "
            "share, or raise data.windows_per_recording"
        )
    available, sizes = sum(schedule.windows), [len(rows) for rows in schedule.groups]
    enough = windows_per_recording_for(schedule.global_batch_size, sizes, list(weights))
    lower = f"set data.global_batch_size to {available // at_once * at_once} or less, or "
    raise ValueError(
        f"{begun} {available} training windows, {asked}: "
        f"{lower if available >= at_once else ''}set data.windows_per_recording to {enough} or more"
    )


def no_windows(purpose: str, table: pd.DataFrame, cohorts: Sequence[str], window_frames: int) -> ValueError:
    """The error of a split that has no window.

    Args:
        purpose: ``train``, ``val`` or ``test``.
        table: all recordings.
        cohorts: whose split it is.
        window_frames: T.

    Returns:
        An error that says whether the split is empty or its recordings are too short, and what to do.
    """
    names, rows = ", ".join(cohorts), table[table["cohort"].isin(list(cohorts)) & (table["split"] == purpose)]
    if rows.empty:
        cure = (
            "lower split.val and split.test in the manifest"
            if purpose == "train"
            else f"raise split.{purpose} in the manifest"
        )
        return ValueError(f"no subject of {names} is in the split {purpose!r}; {cure} and prepare again")
    longest = int(rows["num_frames"].max())
    begun = f"none of the {len(rows)} recordings of {names} in the split {purpose!r} has a window of {window_frames} "
    if longest < window_frames:
        return ValueError(f"{begun}frames: the longest has {longest}. {_shorter_window(longest)}")
    return ValueError(
        f"{begun}frames: those that are long enough are duplicates, have no usable parcel, or have missing frames in "
        f"every window. {_GAPPED}"
    )


_GAPPED = (
    "Where frames are marked as missing, set data.window_frames lower, or prepare with `missing_frames: interpolate`, "
    "which takes interpolated frames as data"
)


def _shorter_window(longest: int) -> str:
    return f"Set data.window_frames to {longest} or less, a multiple of the model's patch_frames"
