"""Which subjects train, validate and test: a pure function of the subject's name."""

import hashlib
from typing import Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
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
    digest = hashlib.blake2b(subject_id.encode(), key=key.encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    if position < test:
        return "test"
    return "val" if position < test + val else "train"


def check_shares(*, key: str, val: float, test: float) -> None:
    """Raises ValueError where a split cannot be made with these."""
    if not 1 <= len(key.encode()) <= LONGEST_KEY:
        raise ValueError(f"split key has {len(key.encode())} bytes; expected 1 to {LONGEST_KEY}")
    if not (0 <= val <= 1 and 0 <= test <= 1 and val + test <= 1):
        raise ValueError(f"split shares are val={val}, test={test}; expected each in [0, 1] and together at most 1")
