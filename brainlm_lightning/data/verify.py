"""Whether a store is still what it was when it was made."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from brainlm_lightning.data.shard import ARRAYS, StoredRecording, population_std, shard_shapes
from brainlm_lightning.data.split import assign_splits, units_of
from brainlm_lightning.data.store import Store, training_statistics
from brainlm_lightning.data.store_schema import TABLES, check_entries


def verify(folder: Path | str) -> list[str]:
    """Reads the whole store and recomputes checksums, statistics and splits.

    Returns:
        One message per problem, naming the file or recording; [] for a sound store.
    """
    try:
        store = Store(folder)
        check_entries(store.metadata, store.folder)
    except (OSError, ValueError, KeyError) as error:
        return [f"cannot be opened: {error}"]
    problems = [*_wrong_tables(store), *_wrong_shards(store)]
    for row in store.by_shard(range(len(store))):
        problems += _wrong_recording(store, row)
    if training_statistics(store).to_json() != store.metadata["statistics"]:
        problems.append("store.json: the scaling statistics are not those of the training subjects")
    return problems


def _wrong_tables(store: Store) -> Iterator[str]:
    for name in TABLES:
        sha256 = store.metadata["tables"][name]
        if hashlib.sha256((store.folder / name).read_bytes()).hexdigest() != sha256:
            yield f"{name}: changed since the store was made"
    if store.atlas.sha256 != store.metadata["atlas"]["sha256"]:
        yield "parcels.csv: not the atlas that store.json names"
    plan = store.metadata["made_by"]["manifest"]["split"]
    units = units_of(store.recordings)
    expected = assign_splits(units, **({"method": "hash"} | plan))
    for unit, rows in store.recordings.groupby(units):
        if set(rows["split"]) != {expected[unit]}:
            yield (
                f"recordings.csv: subject {unit!r} is in {sorted(set(rows['split']))}, its hash says {expected[unit]}"
            )


def _wrong_shards(store: Store) -> Iterator[str]:
    for entry in store.metadata["shards"]:
        shapes = shard_shapes(entry["num_frames"], entry["num_recordings"], store.atlas.num_parcels)
        try:
            with h5py.File(store.folder / entry["file"], "r") as file:
                found = {name: (file[name].shape, file[name].id.get_offset()) for name in ARRAYS}
        except (OSError, KeyError) as error:
            yield f"{entry['file']}: {error}"
            continue
        if found != {name: (shapes[name], entry["offsets"][name]) for name in ARRAYS}:
            yield f"{entry['file']}: its arrays lie elsewhere than store.json says: {found}"


def _wrong_recording(store: Store, row: int) -> Iterator[str]:
    recording = StoredRecording(store.series(row), store.mean(row), store.std(row), store.observed(row))
    entry = store.recordings.iloc[row]
    where = f"recording {entry['recording_id']!r} (shard {entry['shard']})"
    if recording.sha256 != entry["sha256"]:
        yield f"{where}: its bytes changed since the store was made"
    if not np.allclose(population_std(recording.series), recording.std, rtol=1e-5, atol=0):
        yield f"{where}: `std` is not the standard deviation of `series`"
    if recording.series[:, ~recording.observed].any():
        yield f"{where}: values in unobserved parcels"
    if entry["num_unobserved"] != np.count_nonzero(~recording.observed):
        yield f"{where}: num_unobserved is {entry['num_unobserved']}, expected {np.count_nonzero(~recording.observed)}"
