"""What is damaged, which command meets it, and whether what it accepted is right by a reader of another make."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
import yaml
from attempt import attempt, command
from mutate import bytes_damaged, json_damaged, lines_damaged
from safetensors.torch import load_file

from brainlm_lightning.data.store import Store
from brainlm_lightning.data.verify import verify

PARCELS, FRAMES = 16, 60
SETTINGS = {"root": "files", "cohort": "toy", "min_frames": 20, "split": {"method": "exact", "val": 0.2, "test": 0.2}}


@dataclass(frozen=True)
class Sound:
    """Whole inputs, made once: a cohort's files, its store, a run folder and an export."""

    files: Path
    store: Path
    run: Path
    export: Path


Kind = Callable[[Sound, Path, random.Random], str]


def _verdict(args: list[str], is_right: Callable[[], bool]) -> str:
    """The verdict of a command; what it accepted is right, or silently wrong."""
    ended = attempt(command(args))
    if ended.verdict == "accepted":
        return "right" if is_right() else "silently wrong"
    return ended.verdict if ended.verdict == "message" else f"{ended.verdict}: {ended.output[-3000:]}"


def _copied(sound: Sound, folder: Path) -> Path:
    files = folder / "files"
    shutil.copytree(sound.files, files)
    manifest = yaml.safe_load((files / "manifest.yaml").read_text())
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest | {"root": str(files)}))
    return files


def _prepare(folder: Path) -> list[str]:
    return ["prepare", f"--config={folder / 'manifest.yaml'}", "--jobs=1", f"--output={folder / 'toy'}"]


def _holds_only(store: Path, expected: dict[str, np.ndarray]) -> bool:
    """The store is sound, and each of its recordings is what it should be."""
    opened = Store(store)
    names = opened.recordings["recording_id"]
    same = [np.allclose(opened.raw(row), expected[name], rtol=1e-3, atol=1e-2) for row, name in enumerate(names)
            if name in expected]  # fmt: skip
    return not verify(store) and all(same) and len(same) == len(names)


def _series_of(files: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path) for path in files.glob("r*.npy")}


def series(sound: Sound, folder: Path, chance: random.Random) -> str:
    """One recording of a cohort, in one of several formats, is damaged."""
    files = _copied(sound, folder)
    whole = _series_of(sound.files)
    ending = chance.choice(("npy", "npz", "h5", "csv"))
    target = files / f"r0.{ending}"
    _write(target, whole["r0"])
    target.write_bytes(bytes_damaged(target.read_bytes(), chance))
    table = pd.read_csv(files / "recordings.tsv", sep="\t", dtype=str)
    table.loc[0, "file"] = target.name
    table.to_csv(files / "recordings.tsv", sep="\t", index=False)

    def is_right() -> bool:
        try:
            now = whole | {"r0": np.where(np.isfinite(found := _read(target)), found, np.nan).astype(np.float32)}
        except Exception:
            now = {name: value for name, value in whole.items() if name != "r0"}
        opened = Store(folder / "toy")
        kept = set(opened.recordings["recording_id"])
        usable = {name: value for name, value in now.items() if name != "r0"}
        rows = opened.recordings.index[opened.recordings["recording_id"] != "r0"]
        right = all(np.allclose(opened.raw(int(row)), usable[opened.recordings["recording_id"][row]], atol=1e-2)
                    for row in rows)  # fmt: skip
        return right and not verify(folder / "toy") and ("r0" not in kept or _same_where_known(opened, now.get("r0")))

    return _verdict(_prepare(folder), is_right)


def _same_where_known(opened: Store, expected: np.ndarray | None) -> bool:
    """The damaged recording has what another reader finds in its file, where both have a number."""
    if expected is None:
        return False
    row = int(opened.recordings.index[opened.recordings["recording_id"] == "r0"][0])
    stored = opened.raw(row)
    if stored.shape != expected.shape:
        return False
    known = np.isfinite(stored) & np.isfinite(expected)
    scale = np.maximum(np.abs(expected), 10.0)  # series are stored as float16, about a mean of 100
    return bool((np.abs(stored - expected)[known] <= 1e-2 * scale[known]).all())


def _write(path: Path, values: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, series=values)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["series"] = values
    else:
        np.savetxt(path, values, delimiter=",", fmt="%.4f")


def _read(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.asarray(np.load(path), np.float32)
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return np.asarray(archive[archive.files[0]], np.float32)
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return np.asarray(file[next(iter(file))][()], np.float32)
    return np.genfromtxt(path, delimiter=",").astype(np.float32)


def manifests(sound: Sound, folder: Path, chance: random.Random) -> str:
    """The manifest is damaged."""
    _copied(sound, folder)
    path = folder / "manifest.yaml"
    if chance.random() < 0.3:
        path.write_bytes(bytes_damaged(path.read_bytes(), chance))
    else:
        path.write_text(lines_damaged(path.read_text(), chance))
    return _verdict(_prepare(folder), lambda: not verify(folder / "toy"))


def tables(sound: Sound, folder: Path, chance: random.Random) -> str:
    """The table of recordings or of parcels is damaged."""
    files = _copied(sound, folder)
    path = files / chance.choice(("recordings.tsv", "recordings.tsv", "parcels.tsv"))
    if chance.random() < 0.3:
        path.write_bytes(bytes_damaged(path.read_bytes(), chance))
    else:
        path.write_text(lines_damaged(path.read_text(), chance))
    named = {row.recording: row.file for row in pd.read_csv(sound.files / "recordings.tsv", sep="\t").itertuples()}
    values = _series_of(sound.files)

    def is_right() -> bool:
        opened = Store(folder / "toy")
        for row, name in enumerate(opened.recordings["recording_id"]):
            if name in named and not np.allclose(opened.raw(row), values[Path(named[name]).stem], atol=1e-2):
                found = [np.allclose(opened.raw(row), value, atol=1e-2) for value in values.values()]
                if not any(found):  # a table may name another file, which is then what it says
                    return False
        return not verify(folder / "toy")

    return _verdict(_prepare(folder), is_right)


def stores(sound: Sound, folder: Path, chance: random.Random) -> str:
    """A file of a store is damaged: `verify` finds it."""
    target = folder / "toy"
    shutil.copytree(sound.store, target)
    path = chance.choice(sorted(path for path in target.iterdir() if path.suffix in (".json", ".csv", ".h5")))
    if path.suffix == ".json" and chance.random() < 0.7:
        path.write_text(json_damaged(path.read_text(), chance))
    elif path.suffix == ".csv" and chance.random() < 0.7:
        path.write_text(lines_damaged(path.read_text(), chance))
    else:
        path.write_bytes(bytes_damaged(path.read_bytes(), chance))

    def is_right() -> bool:
        here, there = Store(target), Store(sound.store)
        same = here.recordings.equals(there.recordings) and here.atlas.parcels.equals(there.atlas.parcels)
        same &= here.metadata["statistics"] == there.metadata["statistics"] and here.tr_s == there.tr_s
        return same and all(np.array_equal(here.raw(row), there.raw(row), equal_nan=True) for row in range(len(there)))

    return _verdict(["verify", str(target)], is_right)


def checkpoints(sound: Sound, folder: Path, chance: random.Random) -> str:
    """A checkpoint or an export is damaged: it is refused, or its weights are those that were saved."""
    source = chance.choice((sound.run / "checkpoints" / "last.ckpt", sound.export))
    path = folder / source.name
    shutil.copyfile(source, path)
    if path.suffix == ".ckpt" and chance.random() < 0.6:
        content = torch.load(path, weights_only=True)
        content["brainlm"] = json.loads(json_damaged(json.dumps(content["brainlm"]), chance))
        torch.save(content, path)
    else:
        path.write_bytes(bytes_damaged(path.read_bytes(), chance))

    def is_right() -> bool:
        here, there = load_file(folder / "again.safetensors"), load_file(sound.export)
        return here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in there)

    return _verdict(["export", str(path), str(folder / "again.safetensors")], is_right)


def run_folders(sound: Sound, folder: Path, chance: random.Random) -> str:
    """A file of a tested run is damaged: its report says so, or shows the numbers that the file holds."""
    target = folder / "demo" / "version_0"
    shutil.copytree(sound.run, target)
    path = target / chance.choice(("metrics.json", "metrics.json", "provenance.json", "config.yaml", "arrays.npz"))
    if not path.is_file():
        path = target / "metrics.json"
    if path.suffix == ".json" and chance.random() < 0.7:
        path.write_text(json_damaged(path.read_text(), chance))
    else:
        path.write_bytes(bytes_damaged(path.read_bytes(), chance))

    def is_right() -> bool:
        found = json.loads((target / "metrics.json").read_text())
        return all(value is None or isinstance(value, int | float) for value in found.values())

    return _verdict(["report", str(target), f"--files={folder / 'drawn'}", "--markdown"], is_right)


KINDS: dict[str, Kind] = {kind.__name__: kind for kind in (series, manifests, tables, stores, checkpoints, run_folders)}
