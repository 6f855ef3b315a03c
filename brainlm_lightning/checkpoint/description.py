"""The description stored in a checkpoint: enough to use the model elsewhere, and to reject data that do not match."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from hashlib import blake2b
from typing import Any, Protocol

from brainlm_lightning import __version__
from brainlm_lightning.checkpoint.registry import class_path, current_path, find
from brainlm_lightning.checkpoint.schema import check_entries
from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.joined_atlas import JoinedAtlas
from brainlm_lightning.data.split import units_of
from brainlm_lightning.provenance import git_commit

KEY = "brainlm"
FORMAT_VERSION = 1
Description = dict[str, Any]


class Configured(Protocol):
    """A model with a ``config``, a dataclass of plain values."""

    config: Any


def describe_data(datamodule: CohortDataModule) -> Description:
    """Describes the training data, as plain values: parcels, ``tr_s``, window, scaling, subjects."""
    return {
        "parcels": describe_atlases(datamodule.atlases),
        "tr_s": float(datamodule.stores[0].tr_s),
        "window_frames": datamodule.window_frames,
        "scaling": {"recipe": datamodule.scaling, "statistics": datamodule.statistics().to_json()},
        "subjects": {"train": _digests(datamodule, "train"), "val": _digests(datamodule, "val")},
    }


def describe_parcels(atlas: Atlas) -> Description:
    """Describes an atlas: its name, and the parcels in their order."""
    return {
        "atlas": atlas.name,
        "sha256": atlas.sha256,
        "index": [int(index) for index in atlas.parcels["index"]],
        "label": [str(label) for label in atlas.parcels["label"]],
        "xyz_mm": [[float(x) for x in row] for row in atlas.xyz_mm],
    }


def describe_atlases(atlases: JoinedAtlas) -> Description:
    """Describes all parcels of several atlases, and which are whose."""
    described = describe_parcels(atlases.whole)
    if atlases.is_single:
        return described
    parts = [{"sha256": sha256, "first": at.start, "count": at.stop - at.start} for sha256, at in atlases.parts.items()]
    return {**described, "parts": parts}


def parts_of(about: Description) -> dict[str, slice]:
    """Which of a model's parcels are an atlas's, by its sha256; see `JoinedAtlas`."""
    parcels = about["parcels"]
    alone = [{"sha256": parcels["sha256"], "first": 0, "count": len(parcels["index"])}]
    return {part["sha256"]: slice(part["first"], part["first"] + part["count"]) for part in parcels.get("parts", alone)}


def subject_digest(subject_id: str) -> str:
    """Pseudonym of a subject, 16 hexadecimal digits; whoever has the id can check whether a model has seen it."""
    return blake2b(subject_id.encode(), digest_size=8).hexdigest()


def _digests(datamodule: CohortDataModule, split: str) -> list[str]:
    """Pseudonyms of the subjects of a split, and of their families."""
    rows = {"train": datamodule.train_rows, "val": datamodule.val_rows}[split]
    people = datamodule.recordings.table.iloc[rows]
    return sorted({subject_digest(name) for name in {*people["subject_id"], *units_of(people)}})


def describe_model(net: Configured) -> Description:
    """Describes what is needed, besides the geometry of the data, to rebuild a model."""
    return {"class_path": class_path(type(net)), "config": asdict(net.config)}


def describe(net: Configured, datamodule: CohortDataModule, start: str = "standard") -> Description:
    """Describes all that is needed to use a model, and to rebuild it as it was before training.

    Args:
        net: the model.
        datamodule: training data.
        start: name of its initialisation, ``kernel`` or ``standard``.
    """
    return {
        "format_version": FORMAT_VERSION,
        "model": describe_model(net),
        "initialisation": {"start": start, "seed": datamodule.seed},
        "package_version": __version__,
        "git_commit": git_commit(),
        **describe_data(datamodule),
    }


def describe_tuned(about: Description, datamodule: CohortDataModule, **what: Any) -> Description:
    """The description of a pretrained model that was trained further: its subjects, and those it has seen since.

    Args:
        about: description of the pretrained model.
        datamodule: data of the further training.
        what: what it was trained for, as plain values.
    """
    subjects = {
        split: sorted({*seen, *_digests(datamodule, split)} if split in ("train", "val") else seen)
        for split, seen in about["subjects"].items()
    }
    return {**about, "subjects": subjects, "tuned": what}


Entry = Callable[[Description], Any]


def whole_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's configuration; options that are newer than its checkpoint have their defaults."""
    kind = getattr(find(current_path(model["class_path"])), "config_type", None)
    options = fields(kind) if is_dataclass(kind) else ()
    defaults = {option.name: option.default for option in options if option.default is not MISSING}
    return {**defaults, **model["config"]}


COMPARED_SERIES: dict[str, Entry] = {
    "number of parcels": lambda of: len(of["parcels"]["index"]),
    "parcel table and order (sha256)": lambda of: of["parcels"]["sha256"],
    "seconds between frames (tr_s)": lambda of: of["tr_s"],
    "scaling recipe": lambda of: of["scaling"]["recipe"],
}
COMPARED_DATA: dict[str, Entry] = {**COMPARED_SERIES, "frames of a window": lambda of: of["window_frames"]}
COMPARED_SCALED_DATA: dict[str, Entry] = {
    **COMPARED_DATA,
    "scaling statistics": lambda of: of["scaling"]["statistics"],
}
COMPARED: dict[str, Entry] = {
    "model class": lambda of: current_path(of["model"]["class_path"]),
    "model config": lambda of: whole_config(of["model"]),
    **COMPARED_SCALED_DATA,
}


def check_matches(found: Description, expected: Description, compared: Mapping[str, Entry] = COMPARED) -> None:
    """Checks that a checkpoint matches an experiment.

    Args:
        found: the checkpoint's description.
        expected: the description of this experiment.
        compared: what must match: name -> function that reads it from a description. A pretrained model has its own
            scaling statistics, so for its data only `COMPARED_DATA` must match.

    Raises:
        ValueError: they differ; lists the differences.
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
        ValueError: there is none, or it was written by a later version of this package.
    """
    if not description:
        raise ValueError(f"{source} has no description (no {KEY!r} entry): it was not written by this package")
    version = description.get("format_version") if isinstance(description, dict) else None
    if not isinstance(version, int):
        raise ValueError(f"{source}: its description is damaged (format_version {version!r}); export the model again")
    if version > FORMAT_VERSION:
        raise ValueError(f"{source} has format {version}, this package reads up to {FORMAT_VERSION}; update it")
    check_entries(description, source)
    return description
