"""Makes the whole inputs that are damaged: a cohort of eight small recordings, its store, a tested run, an export."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from attempt import attempt, command
from kinds import FRAMES, PARCELS, SETTINGS, Sound
from tiny import arguments

RECORDINGS = 8


def make_sound(folder: Path) -> Sound:
    """Writes everything into an empty folder."""
    files = folder / "files"
    files.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(RECORDINGS):
        np.save(files / f"r{number}.npy", rng.normal(100, 5, (FRAMES, PARCELS)).astype(np.float32))
    names = [f"r{number}" for number in range(RECORDINGS)]
    subjects = {"recording": names, "file": [f"{name}.npy" for name in names], "subject": [f"s{n}" for n in names]}
    table = pd.DataFrame(subjects | {"age": rng.integers(20, 60, RECORDINGS)})
    table.to_csv(files / "recordings.tsv", sep="\t", index=False)
    parcels = {"index": range(1, PARCELS + 1), "label": [f"p{n}" for n in range(PARCELS)], "network": "a"}
    place = pd.DataFrame(rng.normal(0, 40, (PARCELS, 3)).round(1), columns=["x", "y", "z"])
    pd.DataFrame(parcels).join(place).to_csv(files / "parcels.tsv", sep="\t", index=False)
    manifest = SETTINGS | {
        "root": str(files),
        "tr_s": 1.0,
        "atlas": {"name": "six", "table": "parcels.tsv", "index": "index", "label": "label", "xyz_mm": ["x", "y", "z"],
                  "network": "network"},
        "recordings": {"table": "recordings.tsv", "file": "{file}", "tr_s": 1.0, "phenotypes": ["age"],
                       "columns": {"recording_id": "recording", "subject_id": "subject"}},
    }  # fmt: skip
    (files / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    os.environ["BRAINLM_DATA"] = str(folder / "stores")
    _done(["prepare", f"--config={files / 'manifest.yaml'}", "--jobs=1"])
    settings = {"data.cohorts": "toy", "data.global_batch_size": 2}
    _done(arguments("fit", folder / "runs", settings))
    fitted = folder / "runs" / "demo" / "version_0"
    _done(["export", str(fitted / "checkpoints" / "last.ckpt"), str(folder / "model.safetensors")])
    _done(arguments("test", folder / "runs", settings))
    shutil.copytree(fitted / "checkpoints", folder / "runs" / "demo" / "version_1" / "checkpoints")
    return Sound(files, folder / "stores" / "toy", folder / "runs" / "demo" / "version_1", folder / "model.safetensors")


def _done(args: list[str]) -> None:
    ended = attempt(command(args))
    if ended.status != 0:
        raise RuntimeError(f"{args[0]} ended with {ended.status}:\n{ended.output}")
