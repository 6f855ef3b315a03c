"""``python tests/fuzz/kills.py``: kills `fit` and `prepare` at random moments, and compares how they end when they go on.

Each of twenty rounds of `fit` is killed (SIGKILL) up to three times and resumed from the newest `last.ckpt`; its end is
that of a run that was never killed: last and best checkpoint, metrics, and where early stopping stopped. Each of twenty
rounds of `prepare` is killed likewise; the store has the same bytes.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / "door"), str(Path(__file__).parents[2])]

from sound import make_sound
from tiny import differing, newest, process, versions

from brainlm_lightning.run_folder import read_metrics

MOST_KILLS = 3
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


def killed(running: subprocess.Popen, seconds: float) -> bool:
    """Kills a process and all that it started after some seconds; False where it ended before."""
    try:
        running.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        return True
    return False


def fitted(runs: Path, seconds: list[float]) -> tuple[Path, int]:
    """Fits, killed after each of some times and resumed; returns the last run folder, and how often it was killed."""
    kills, settings = 0, dict(FIT)
    for after in [*seconds, 300.0]:
        if not killed(process("fit", runs, settings), after):
            return newest(runs), kills
        kills += 1
        last = [run / "checkpoints" / "last.ckpt" for run in versions(runs)]
        there = [path for path in last if path.is_file()]
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
    command = [sys.executable, "-m", "brainlm_lightning.cli", "prepare", f"--config={manifest}", f"--output={output}"]
    for after in [*seconds, 300.0]:
        with subprocess.Popen(
            [*command, "--jobs=2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        ) as running:
            kills += killed(running, after)
        if output.exists():
            return output, kills
    raise RuntimeError("a preparation did not end")


def main() -> None:
    """Prints how many rounds ended as if never killed; ends with status 1 where one did not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("fit", "prepare"))
    given = parser.parse_args()
    chance, good = random.Random(given.seed), True
    with tempfile.TemporaryDirectory() as place:
        sound = make_sound(Path(place) / "sound")
        for verb in ("fit", "prepare"):
            if given.only not in (None, verb):
                continue
            begun = time.monotonic()
            whole: Path
            if verb == "fit":
                whole = fitted(Path(place) / "whole", [])[0]
            else:
                whole = prepared(sound.files / "manifest.yaml", Path(place) / "whole" / "toy", [])[0]
            duration, kills, alike = time.monotonic() - begun, 0, 0
            for number in range(given.rounds):
                seconds = [chance.uniform(0.4, 1.0) * duration for _ in range(chance.randint(1, MOST_KILLS))]
                folder = Path(place) / f"{verb}{number}"
                if verb == "fit":
                    end, count = fitted(folder, seconds)
                    wrong = ends_alike(end, whole)
                else:
                    end, count = prepared(sound.files / "manifest.yaml", folder / "toy", seconds)
                    wrong = [] if contents(end) == contents(whole) else ["bytes"]
                kills, alike = kills + count, alike + (not wrong)
                print(
                    f"{verb} {number}: killed {count} times, {'differs: ' + str(wrong[:5]) if wrong else 'alike'}",
                    flush=True,
                )
            print(f"{verb}: {alike} of {given.rounds} ended as if never killed, after {kills} kills", flush=True)
            good &= alike == given.rounds
    sys.exit(not good)


if __name__ == "__main__":
    main()
