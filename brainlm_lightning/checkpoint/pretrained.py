"""Loads pretrained models, and builds the same models without pretraining as controls."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from brainlm_lightning.checkpoint.description import (
    COMPARED_DATA,
    KEY,
    Description,
    Entry,
    check_matches,
    describe_data,
    subject_digest,
)
from brainlm_lightning.checkpoint.files import load_strictly, read_checkpoint
from brainlm_lightning.checkpoint.registry import build
from brainlm_lightning.checkpoint.start import start_model
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.scaling import ScalingStatistics
from brainlm_lightning.data.split import units_of
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.run_folder import find_checkpoint

ControlStart = Literal["as_pretrained", "standard"]


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model.

    Attributes:
        model: in evaluation mode.
        about: the description in its checkpoint.
        path: of the checkpoint file.
    """

    model: MaskedModel
    about: Description
    path: Path

    @property
    def statistics(self) -> ScalingStatistics:
        """Scaling statistics of the model's training data, with which its inputs must be scaled."""
        return ScalingStatistics.from_json(self.about["scaling"]["statistics"])

    def seen(self, recordings: pd.DataFrame) -> NDArray[np.bool_]:
        """True for recordings of subjects in the model's training or validation data, or with a relative there."""
        return seen_recordings(self.about, recordings)


def seen_recordings(about: Description, recordings: pd.DataFrame) -> NDArray[np.bool_]:
    """True for recordings of subjects in the training or validation data of a model, or with a relative there.

    Args:
        about: description of the model.
        recordings: with `subject_id` and, where families are known, `family`.
    """
    seen = {digest for split in about["subjects"].values() for digest in split}
    names = zip(recordings["subject_id"].astype(str), units_of(recordings).astype(str), strict=True)
    return np.array([any(subject_digest(name) in seen for name in of) for of in names], dtype=bool)


def load_model(path: Path | str, base: type[nn.Module] = nn.Module) -> tuple[Any, Description]:
    """Rebuilds a model from its checkpoint alone, in evaluation mode.

    Args:
        path: a Lightning checkpoint, or an exported ``model.safetensors``.
        base: expected base class, `MaskedModel` or `Forecaster`.

    Returns:
        The model and its description: parcels, ``tr_s``, window, scaling recipe and statistics.

    Raises:
        ValueError: a tensor is missing, unexpected or of another shape; or the model's class is unknown.
    """
    about, weights = read_checkpoint(path)
    model = build(about, base, str(path))
    load_strictly(model, weights, str(path))
    return model.eval(), about


def load_pretrained(
    checkpoint: Path | str, data: CohortDataModule, compared: Mapping[str, Entry] = COMPARED_DATA
) -> Pretrained:
    """Loads a pretrained model and checks that it matches the data, which must be scaled by `Pretrained.statistics`.

    Args:
        checkpoint: see `find_checkpoint`.
        data: after its setup; it is not changed.
        compared: what must match.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: parcels, their order, ``tr_s``, window or scaling recipe differ from the model's.
    """
    path = find_checkpoint(checkpoint)
    model, about = load_model(path, MaskedModel)
    check_matches(about, describe_data(data), compared)
    return Pretrained(model, about, path)


def refuse_seen(about: Description, path: Path, tested: pd.DataFrame, purpose: str) -> None:
    """Checks that no test subject was in a model's pretraining data, nor a relative.

    Args:
        about: description of the model.
        path: of its checkpoint, for the message.
        tested: recordings of the test subjects.
        purpose: what the subjects are used for, for the message.

    Raises:
        ValueError: some were; says how many.
    """
    subjects = tested["subject_id"].nunique()
    seen = sorted(set(tested["subject_id"][seen_recordings(about, tested)]))
    if seen:
        raise ValueError(
            f"{len(seen)} of {subjects} subjects {purpose}, or relatives of theirs, were seen in the pretraining of "
            f"{path}, {seen[0]!r} first; use the split key and shares of the pretraining, or a model pretrained "
            "without them"
        )


def untrained(
    pretrained: Pretrained,
    data: CohortDataModule,
    start: ControlStart = "as_pretrained",
    rows: NDArray[np.intp] | None = None,
) -> MaskedModel:
    """The same architecture without pretraining.

    Args:
        pretrained: gives the sizes and the seed.
        data: scaled by the pretrained model's statistics.
        start: ``as_pretrained``, the state before the first step of pretraining (bit-identical if the training subjects
            are the same), or the random ``standard`` start.
        rows: recordings whose moments the start may use; None = the training recordings.

    Returns:
        The model, in evaluation mode.
    """
    first = pretrained.about["initialisation"]
    chosen = first["start"] if start == "as_pretrained" else "standard"
    rank_zero_info(f"control: {pretrained.model.name} without pretraining, {chosen} start")
    kind, config = type(pretrained.model), pretrained.model.config
    return start_model(lambda geometry: kind(geometry, config), data, chosen, first["seed"], rows)[0].eval()


def export(checkpoint: Path, output: Path) -> Path:
    """Writes the model of a Lightning checkpoint as safetensors, with its description in the header.

    Args:
        checkpoint: of a run.
        output: ``.safetensors`` file to write.

    Raises:
        FileExistsError: the output exists.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists; exports are never overwritten, name another file")
    model, about = load_model(checkpoint)
    output.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    part = output.with_name(output.name + ".part")
    save_file(weights, part, metadata={KEY: json.dumps(about)})
    part.replace(output)
    return output
