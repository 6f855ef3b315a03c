"""What a checkpoint says of itself: enough to use it without the run that made it, and to refuse what does not fit."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from hashlib import blake2b
from typing import Any, Protocol

from brainlm_lightning import __version__
from brainlm_lightning.checkpoint.registry import class_path, current_path
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.provenance import git_commit

KEY = "brainlm"
FORMAT_VERSION = 1
Description = dict[str, Any]


class Configured(Protocol):
    """A model that its class and ``config``, a dataclass of plain values, describe."""

    config: Any


def describe_data(datamodule: CohortDataModule) -> Description:
    """What a model must know of the data that it was trained on, as plain values."""
    store = datamodule.stores[0]
    atlas = store.atlas
    return {
        "parcels": {
            "atlas": atlas.name,
            "sha256": atlas.sha256,
            "index": [int(index) for index in atlas.parcels["index"]],
            "label": [str(label) for label in atlas.parcels["label"]],
            "xyz_mm": [[float(x) for x in row] for row in atlas.xyz_mm],
        },
        "tr_s": float(store.tr_s),
        "window_frames": datamodule.window_frames,
        "scaling": {"recipe": datamodule.scaling, "statistics": datamodule.statistics().to_json()},
        "subjects": {"train": _digests(datamodule, "train"), "val": _digests(datamodule, "val")},
    }


def subject_digest(subject_id: str) -> str:
    """A pseudonym, 16 hexadecimal digits: who has the subject's name can ask whether a model has seen the subject."""
    return blake2b(subject_id.encode(), digest_size=8).hexdigest()


def _digests(datamodule: CohortDataModule, split: str) -> list[str]:
    rows = {"train": datamodule.train_rows, "val": datamodule.val_rows}[split]
    return sorted({subject_digest(subject) for subject in datamodule.recordings.table["subject_id"].iloc[rows]})


def describe_model(net: Configured) -> Description:
    """What is needed to build a model again, besides its data's geometry."""
    return {"class_path": class_path(type(net)), "config": asdict(net.config)}


def describe(net: Configured, datamodule: CohortDataModule, start: str = "standard") -> Description:
    """All that is needed to use a model again, and to build it as it was before its first step.

    Args:
        net: the model.
        datamodule: that it was trained on.
        start: its initial values, ``kernel`` or ``standard``.
    """
    return {
        "format_version": FORMAT_VERSION,
        "model": describe_model(net),
        "initialisation": {"start": start, "seed": datamodule.seed},
        "package_version": __version__,
        "git_commit": git_commit(),
        **describe_data(datamodule),
    }


Entry = Callable[[Description], Any]

COMPARED_DATA: dict[str, Entry] = {
    "number of parcels": lambda of: len(of["parcels"]["index"]),
    "parcel table and order (sha256)": lambda of: of["parcels"]["sha256"],
    "seconds between frames (tr_s)": lambda of: of["tr_s"],
    "frames of a window": lambda of: of["window_frames"],
    "scaling recipe": lambda of: of["scaling"]["recipe"],
}
COMPARED_SCALED_DATA: dict[str, Entry] = {
    **COMPARED_DATA,
    "scaling statistics": lambda of: of["scaling"]["statistics"],
}
COMPARED: dict[str, Entry] = {
    "model class": lambda of: current_path(of["model"]["class_path"]),
    "model config": lambda of: of["model"]["config"],
    **COMPARED_SCALED_DATA,
}


def check_matches(found: Description, expected: Description, compared: Mapping[str, Entry] = COMPARED) -> None:
    """Compares a checkpoint with what it is loaded for.

    Args:
        found: the checkpoint's description.
        expected: that of this experiment.
        compared: what is compared: name -> where it stands in a description. A pretrained model brings its own scaling
            statistics, so of its data only `COMPARED_DATA` has to match.

    Raises:
        ValueError: they differ; says in what.
    """
    differences = []
    for name, entry in compared.items():
        here, there = entry(expected), entry(found)
        if here != there:
            differences.append(f"{name}: the checkpoint has {_short(there)}, this experiment {_short(here)}")
    if differences:
        raise ValueError("the checkpoint does not fit this experiment:\n  " + "\n  ".join(differences))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]} …"


def check_format(description: Description | None, source: str) -> Description:
    """Returns the description of a checkpoint.

    Raises:
        ValueError: it has none, or one of a later version of this package.
    """
    if not description:
        raise ValueError(f"{source} does not say what it is (no {KEY!r} entry): it was not written by this package")
    if description["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{source} has format {description['format_version']}, this package reads up to {FORMAT_VERSION}; update it"
        )
    return description
