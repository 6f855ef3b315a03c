"""Damages inputs one after the other, and counts how the commands that meet them end."""

import random
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import torch
from kinds import KINDS
from sound import make_sound

import brainlm_lightning.sweep  # noqa: F401 (imported once, here, for all forks)
from brainlm_lightning.data import convert, prepare  # noqa: F401

GOOD = ("message", "right")
VERDICTS = (*GOOD, "silently wrong", "traceback", "hang", "memory")


def count(cases: int, seed: int, place: Path) -> tuple[dict[str, Counter[str]], list[str]]:
    """Runs cases; what they do depends on seed and number alone.

    Args:
        cases: how many, in turn of each kind.
        seed: of the damages.
        place: an empty folder.

    Returns:
        By kind, how often commands ended in which way; and a text for each end that must not be.
    """
    torch.set_num_threads(1)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    wrong, sound = [], make_sound(place / "sound")
    for number in range(cases):
        kind = list(KINDS)[number % len(KINDS)]
        with tempfile.TemporaryDirectory(dir=place) as folder:
            verdict = KINDS[kind](sound, Path(folder), random.Random(f"{seed} {number}"))
        word = verdict.partition(": ")[0]
        counts[kind][word] += 1
        if word not in GOOD:
            wrong.append(f"case {number} ({kind}): {verdict[:100]} … {verdict[-1500:]}")
    return counts, wrong
