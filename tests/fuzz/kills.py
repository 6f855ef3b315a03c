"""``python tests/fuzz/kills.py``: kills `fit` and `prepare` at random moments, and compares how they end.

Each of twenty rounds of `fit` is killed (SIGKILL) up to three times and resumed from the newest `last.ckpt`; its end is
that of a run that was never killed: last and best checkpoint, metrics, and where early stopping stopped. Each of twenty
rounds of `prepare` is killed likewise; the store has the same bytes.
"""

import argparse
import hashlib
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / "door"), str(Path(__file__).parents[2])]

import torch
from attempt import command, in_child
from sound import make_sound
from tiny import arguments, differing, newest, versions

import brainlm_lightning.sweep  # noqa: F401 (imported once, here, for all forks)
from brainlm_lightning.run_folder import read_metrics

MOST_KILLS = 3
LONGEST_S = 600.0  # of a command that is left alone; a busy machine takes long
FIT = {
    "data.cohorts": "toy",
    "data.global_batch_size": 2,
    "trainer.max_steps": 60,
    "trainer.val_check_interval": 6,
    "checkpoint_every": 4,
    "trainer.callbacks+": "lightning.pytorch.callbacks.EarlyStopping",
    "trainer.callbacks.monitor": "val/loss",
    "trainer.callbacks.patience": 4,
    "model.init_args.optimisation.learning_rate": 0.01,
}


def killed(args: list[str], seconds: float) -> bool:
    """Runs a command in a fork and kills it and all that it started after some seconds; False where it ended before."""
    child = os.fork()
    if not child:
        with open(os.devnull, "w") as nowhere:
            in_child(command(args), nowhere.fileno())
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def fitted(runs: Path, seconds: list[float]) -> tuple[Path, int]:
    """Fits, killed after each of some times and resumed; returns the last run folder, and how often it was killed."""
    settings = dict(FIT)
    for kills, after in enumerate([*seconds, LONGEST_S]):
        if not killed(arguments("fit", runs, settings), after):
            return newest(runs), kills
        there = [path for run in versions(runs) if (path := run / "checkpoints" / "last.ckpt").is_file()]
        settings = FIT | ({"ckpt_path": there[-1]} if there else {})
    raise RuntimeError("a fit did not end")


def ends_alike(run: Path, whole: Path) -> list[str]:
    """What differs between the ends of two fits."""
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        found += [f"{name}{tensor}" for tensor in differing(run / "checkpoints" / name, whole / "checkpoints" / name)]
    here, there = ({name: value for name, value in read_metrics(of).items() if not name.startswith("speed/")}
                   for of in (run, whole))  # fmt: skip
    return found + [name for name in here.keys() | there.keys() if here.get(name) != there.get(name)]


def contents(store: Path) -> dict[str, str]:
    """Hashes of a store's files."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(store.iterdir())}


def prepared(manifest: Path, output: Path, seconds: list[float]) -> tuple[Path, int]:
    """Prepares, killed after each of some times and called again; returns the store, and how often it was killed."""
    kills = 0
    for after in [*seconds, LONGEST_S]:
        kills += killed(["prepare", f"--config={manifest}", f"--output={output}", "--jobs=1"], after)
        if output.exists():
            return output, kills
    raise RuntimeError("a preparation did not end")


def rounds(number: int, chance: random.Random, whole: Callable[[list[float]], tuple[Path, int]],
           compare: Callable[[Path, Path], list[str]]) -> tuple[int, int]:  # fmt: skip
    """Makes something undisturbed, then `number` times with kills; returns how many ends are alike, and the kills."""
    begun = time.monotonic()
    expected = whole([])[0]
    duration, alike, kills = time.monotonic() - begun, 0, 0
    for place in range(number):
        end, count = whole([chance.uniform(0.1, 0.95) * duration for _ in range(chance.randint(1, MOST_KILLS))])
        wrong = compare(end, expected)
        kills, alike = kills + count, alike + (not wrong)
        print(f"{place}: killed {count} times, {f'differs: {wrong[:5]}' if wrong else 'alike'}", flush=True)
    return alike, kills


def main() -> None:
    """Prints how many rounds ended as if never killed; ends with status 1 where one did not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("prepare", "fit"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    good, folders = True, itertools.count()
    with tempfile.TemporaryDirectory() as place:
        sound = make_sound(Path(place) / "sound")
        manifest = sound.files / "manifest.yaml"
        verbs = {
            "prepare": (
                lambda seconds: prepared(manifest, Path(place) / f"{next(folders)}" / "toy", seconds),
                lambda one, other: [] if contents(one) == contents(other) else ["bytes"],
            ),
            "fit": (lambda seconds: fitted(Path(place) / f"{next(folders)}", seconds), ends_alike),
        }
        for verb, (make, compare) in verbs.items():
            if given.only not in (None, verb):
                continue
            alike, kills = rounds(given.rounds, random.Random(given.seed), make, compare)
            print(f"{verb}: {alike} of {given.rounds} ended as if never killed, after {kills} kills", flush=True)
            good &= alike == given.rounds
    sys.exit(not good)


if __name__ == "__main__":
    main()
