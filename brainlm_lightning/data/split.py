"""Which subjects train, validate and test: a pure function of the subject's name."""

import hashlib
from collections.abc import Sequence
from typing import Literal

import pandas as pd

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
RISK = 0.01  # of an empty side of the split, from which on it is said
LONGEST_KEY = 64  # bytes, of blake2b


def assign_split(subject_id: str, *, key: str, val: float, test: float) -> Split:
    """Assigns a subject to a split, from a keyed hash of its name alone.

    The hash places the subject at u in [0, 1): below `test` it tests, in the next `val` it validates. Adding or
    removing other subjects moves nobody, and a subject of two cohorts with one key stands on the same side in both.
    The shares hold in expectation: of n subjects, test * n +- sqrt(test * (1 - test) * n) test.

    Args:
        subject_id: The person, not the recording.
        key: Names the split; another key is another, independent split. 1 to 64 bytes.
        val: Share of subjects that validate.
        test: Share of subjects that test.

    Raises:
        ValueError: Empty subject, unusable key or shares outside [0, 1].
    """
    check_shares(key=key, val=val, test=test)
    if not subject_id:
        raise ValueError("a recording has an empty subject_id; splits are by subject, so each needs one")
    position = _position(subject_id, key)
    if position < test:
        return "test"
    return "val" if position < test + val else "train"


def assign_splits(units: Sequence[str] | pd.Series, *, key: str, val: float, test: float, method: str) -> pd.Series:
    """Assigns units (subjects, or families) to splits.

    Args:
        units: With repetitions.
        key: See `assign_split`.
        val: Share that validates.
        test: Share that tests.
        method: `hash`: see `assign_split`. `exact`: in the order of their hashes, the first `test * n` units test and
            the next `val * n` validate, rounded, and at least one where a share is not 0 and there are three units; to
            add a unit may then move others.

    Returns:
        The split of each unit, by name.
    """
    names = list(dict.fromkeys(units))
    if method == "hash":
        return pd.Series({name: assign_split(name, key=key, val=val, test=test) for name in names}, dtype=object)
    check_shares(key=key, val=val, test=test)
    ordered = sorted(names, key=lambda name: (_position(name, key), name))
    least = int(len(names) >= len(SPLITS))
    num_test = max(round(test * len(names)), least * (test > 0))
    num_val = max(round(val * len(names)), least * (val > 0))
    sides = ["test"] * num_test + ["val"] * num_val + ["train"] * len(names)
    return pd.Series(dict(zip(ordered, sides, strict=False)), dtype=object).loc[names]


def units_of(recordings: pd.DataFrame) -> pd.Series:
    """Returns what no split may tear: a recording's family, or its subject where it has none.

    Args:
        recordings: With `subject_id` and, where families are known, `family`.
    """
    if "family" not in recordings:
        return recordings["subject_id"]
    return recordings["subject_id"].where(recordings["family"] == "", "family " + recordings["family"])


def split_remarks(assigned: pd.Series, *, key: str, val: float, test: float, method: str) -> list[str]:
    """Returns a warning where so few units leave a side of the split empty, or might well have."""
    remarks, total = [], len(assigned)
    for name, share in (("train", 1 - val - test), ("val", val), ("test", test)):
        count = int((assigned == name).sum())
        if share and not count:
            remarks.append(
                f"split: not one of {total} subjects is in {name!r}; set `split.method: exact`, or another `split.key`"
            )
        elif share and method == "hash" and (1 - share) ** total > RISK:
            remarks.append(
                f"split: {count} of {total} subjects are in {name!r}, by a hash that leaves it empty for "
                f"{(1 - share) ** total:.0%} of keys; `split.method: exact` gives exact shares"
            )
    return remarks


def _position(name: str, key: str) -> float:
    """Returns where in [0, 1) a name stands."""
    digest = hashlib.blake2b(name.encode(), key=key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def check_shares(*, key: str, val: float, test: float) -> None:
    """Raises ValueError where a split cannot be made with these."""
    if not 1 <= len(key.encode()) <= LONGEST_KEY:
        raise ValueError(f"split key has {len(key.encode())} bytes; expected 1 to {LONGEST_KEY}")
    if not (0 <= val <= 1 and 0 <= test <= 1 and val + test <= 1):
        raise ValueError(f"split shares are val={val}, test={test}; expected each in [0, 1] and together at most 1")
