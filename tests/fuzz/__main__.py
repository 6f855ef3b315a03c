"""``python tests/fuzz --cases 2000 --seed 0``: damages inputs of six kinds, and counts how the commands end."""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / "door"), str(Path(__file__).parents[2])]

import torch  # noqa: E402

import brainlm_lightning.sweep  # noqa: E402, F401 (imported once, here, for all forks)
from brainlm_lightning.data import convert, prepare  # noqa: E402, F401

VERDICTS = ("message", "right", "silently wrong", "traceback", "hang", "memory")


def run(cases: int, seed: int) -> dict[str, Counter[str]]:
    """Returns, by kind, how often commands ended in which way; prints what must not be."""
    from kinds import KINDS
    from sound import make_sound

    torch.set_num_threads(1)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as place:
        sound = make_sound(Path(place) / "sound")

        def case(number: int) -> None:
            kind = list(KINDS)[number % len(KINDS)]
            with tempfile.TemporaryDirectory(dir=place) as folder:
                verdict = KINDS[kind](sound, Path(folder), random.Random(f"{seed} {number}"))
            word, _, output = verdict.partition(": ")
            counts[kind][word] += 1
            if word not in ("message", "right"):
                print(f"case {number} ({kind}): {verdict[-1500:]}", flush=True)

        for number in range(cases):
            case(number)
    return counts


def main() -> None:
    """Prints the table; ends with status 1 if there is anything but messages and right results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begun = time.monotonic()
    counts = run(given.cases, given.seed)
    print(f"{given.cases} cases, seed {given.seed}, {time.monotonic() - begun:.0f} s\n")
    print("| kind | " + " | ".join(VERDICTS) + " |")
    print("| --- " * (len(VERDICTS) + 1) + "|")
    for kind, found in counts.items():
        print(f"| {kind} | " + " | ".join(str(found[word]) for word in VERDICTS) + " |")
    bad = sum(found[word] for found in counts.values() for word in VERDICTS[2:])
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
