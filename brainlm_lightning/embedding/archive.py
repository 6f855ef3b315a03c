"""Embeddings of many files in one archive: what the verb `embed` does."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.embedding.one_line import load

NEEDED = ("recordings", "model", "output")


@dataclass(frozen=True)
class EmbeddingPlan:
    """What is embedded by what.

    Attributes:
        recordings: files; see `EmbeddingModel.embed`.
        model: see `brainlm_lightning.load`.
        output: `.npz` to write.
        tr_s: seconds from one frame to the next, where files do not say it.
        atlas: name of the checkpoint's atlas, where files do not name their columns.
        label_image: of the atlas, for volumes.
        parcels: table of another atlas that the recordings are in, to which the model moves by position; its columns
            are ``index, label, x, y, z`` in mm, its name is that of the file.
        embeddings: names; None = the default ones that do not decode.
        orientation: of the series in their files.
        parts: in how many parts a window's tokens are encoded; see `embedding.states`.
    """

    recordings: tuple[str, ...]
    model: str
    output: Path
    tr_s: float | None = None
    atlas: str | None = None
    label_image: Path | None = None
    parcels: Path | None = None
    embeddings: tuple[str, ...] | None = None
    orientation: str = "frames_parcels"
    parts: int = 1

    @classmethod
    def of(cls, values: Mapping[str, Any], source: str) -> "EmbeddingPlan":
        """A plan from plain values.

        Raises:
            ValueError: a value is missing, or unknown.
        """
        known = {field.name for field in fields(cls)}
        unknown, missing = sorted(set(values) - known), [name for name in NEEDED if not values.get(name)]
        if unknown or missing:
            raise ValueError(
                f"{source}: lacks {', '.join(missing) or 'nothing'}, does not know {', '.join(unknown) or 'nothing'}; "
                f"expected {', '.join(sorted(known))}"
            )
        plan = cls(**values)
        wanted = tuple(plan.embeddings) if plan.embeddings is not None else None
        recordings = tuple(str(name) for name in plan.recordings)
        return replace(plan, recordings=recordings, output=Path(plan.output), embeddings=wanted)


def read_plan(path: Path, overrides: Mapping[str, Any]) -> EmbeddingPlan:
    """The plan in a YAML file; overrides outrank it."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected keys and values, got {type(values).__name__}")
    return EmbeddingPlan.of({**values, **overrides}, str(path))


def embed_files(plan: EmbeddingPlan) -> Path:
    """Embeds all files; writes the archive only when every one could be embedded.

    Returns:
        The archive: `recording` (R,) names of the files; `unlike_training` (R,) in which numbers a recording looks
        unlike those of the training, empty where in none, or where the checkpoint does not know; and an array (R, F)
        float32 for each embedding.

    Raises:
        FileExistsError: the output exists.
        ValueError: a file does not fit the model; or the output has another ending.
    """
    if plan.output.suffix != ".npz":
        raise ValueError(f"{plan.output}: embeddings are written as .npz; name it {plan.output.with_suffix('.npz')}")
    if plan.output.exists():
        raise FileExistsError(f"{plan.output} exists; name another file")
    model = load(plan.model)
    if plan.parcels is not None:
        table = Path(plan.parcels)
        model = model.on(Atlas.from_table(table.stem, table, index="index", label="label", xyz_mm=("x", "y", "z")))
    source: dict[str, Any] = {name: getattr(plan, name) for name in ("tr_s", "atlas", "label_image", "orientation")}
    rows, unlike = [], []
    for recording in plan.recordings:
        batch = model.read(recording, **source)
        unlike.append("; ".join(model.unlike(batch) or []))
        if unlike[-1]:
            print(f"{recording} looks unlike the recordings of the training: {unlike[-1]}", file=sys.stderr)
        rows.append(model.embed_windows(batch, atlas=plan.atlas, embeddings=plan.embeddings, parts=plan.parts))
    arrays: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    arrays["unlike_training"] = np.array(unlike)
    plan.output.parent.mkdir(parents=True, exist_ok=True)
    part = plan.output.with_name(plan.output.name + ".part")
    with part.open("wb") as file:
        np.savez(file, recording=np.array(plan.recordings), **arrays)
    part.replace(plan.output)
    return plan.output
