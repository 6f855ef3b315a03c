"""A store that was edited or damaged is refused when it is opened, with the entry that is wrong."""

import contextlib
import functools
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from brainlm_lightning.data.facts import cohort_facts
from brainlm_lightning.data.store import Store, open_cohort
from brainlm_lightning.data.verify import verify


@pytest.fixture
def own(tiny_stores, tmp_path, monkeypatch):
    """A copy of the store, found through $BRAINLM_DATA, to be changed."""
    monkeypatch.setenv("BRAINLM_DATA", str(tmp_path))
    return shutil.copytree(tiny_stores / "tiny", tmp_path / "tiny")


def edit(store, change):
    path = store / "store.json"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


OTHER_FILE = "expected the name of a file in the store"
EDITS = {
    "shards.offsets negative": (lambda m: m["shards"][0]["offsets"].update(series=-8), r"offsets.series is '-8'"),
    "shards.offsets missing": (lambda m: m["shards"][0]["offsets"].pop("std"), "offsets.std is missing"),
    "offset beyond": (lambda m: m["shards"][0]["offsets"].update(mean=10**12), "would lie from byte"),
    "elsewhere": (
        lambda m: m["shards"][0].update(file="../shard-00000.h5"),
        OTHER_FILE,
    ),
    "absolute": (lambda m: m["shards"][0].update(file="/etc/passwd"), OTHER_FILE),
    "frames": (lambda m: m["shards"][0].update(num_frames="60"), "expected a number of frames"),
    "no shards": (lambda m: m.pop("shards"), "shards is missing"),
    "shard": (lambda m: m.update(shards=["shard-00000.h5"]), r"shards\[0\] is no mapping"),
    "tr_s": (lambda m: m.update(tr_s=0), "expected a number of seconds above 0"),
    "tr_s text": (lambda m: m.update(tr_s="one"), "expected a number of seconds above 0"),
    "dtype": (lambda m: m.update(dtype="object"), "float16 or float32"),
    "scale": (lambda m: m["statistics"]["robust"].update(scale=[0.0] * 16), "scale has 0.0, expected numbers above 0"),
    "no scale": (lambda m: m["statistics"].pop("robust_centred"), "statistics.robust_centred lacks"),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_a_store_says_of_itself_is_checked(name, own):
    change, message = EDITS[name]
    edit(own, change)
    with pytest.raises(ValueError, match=message):
        open_cohort("tiny")


def places(metadata, within=()):
    """Every place of nested mappings, as the keys that lead to it; of a list its first entry alone."""
    items = metadata.items() if isinstance(metadata, dict) else [(0, metadata[0])] if metadata else []
    for key, value in items:
        yield (*within, key)
        if isinstance(value, dict | list):
            yield from places(value, (*within, key))


WRONG = {
    "missing": None,
    "null": lambda: None,
    "word": lambda: "word",
    "list": list,
    "mapping": dict,
    "number": lambda: -3,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_whatever_is_wrong_in_the_file_a_store_is_sound_or_refused(wrong, own):
    text = (own / "store.json").read_text()
    whole = json.loads(text)
    for *path, last in places(whole):
        metadata = json.loads(text)
        inner = functools.reduce(lambda at, key: at[key], path, metadata)
        if WRONG[wrong] is None:
            del inner[last]
        else:
            inner[last] = WRONG[wrong]()
        (own / "store.json").write_text(json.dumps(metadata))
        verify(own)
        with contextlib.suppress(ValueError):
            cohort_facts(open_cohort("tiny"))


@pytest.mark.parametrize("column", ["shard", "shard_row", "first_frame", "num_frames"])
def test_places_that_are_no_whole_numbers_are_refused(column, own):
    (own / "recordings.npz").unlink(missing_ok=True)
    table = pd.read_csv(own / "recordings.csv", dtype=str)
    table.loc[3, column] = "three"
    table.to_csv(own / "recordings.csv", index=False)
    with pytest.raises(ValueError, match=rf"\['{column}'\] must hold whole numbers"):
        Store(own)


def test_a_shard_that_is_a_link_to_elsewhere_is_not_read(own, tmp_path):
    shard = own / "shard-00000.h5"
    shard.rename(tmp_path / "elsewhere.h5")
    shard.symlink_to(tmp_path / "elsewhere.h5")
    with pytest.raises(ValueError, match="is not inside"):
        Store(own).series(0)


def test_a_subject_moved_to_another_split_is_noticed_before_any_work(own):
    table = pd.read_csv(own / "recordings.csv")
    table["split"] = table["split"].replace("test", "train")
    table.to_csv(own / "recordings.csv", index=False)
    with pytest.raises(ValueError, match=r"recordings.csv was changed since the store was prepared"):
        open_cohort("tiny")


def test_parcels_in_another_order_are_noticed_before_any_work(own):
    lines = (own / "parcels.csv").read_text().splitlines()
    (own / "parcels.csv").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    with pytest.raises(ValueError, match=r"parcels.csv was changed|parcels"):
        open_cohort("tiny")


def test_a_store_as_it_was_made_opens(own):
    store = open_cohort("tiny")
    assert np.isfinite(store.series(0)).all()
