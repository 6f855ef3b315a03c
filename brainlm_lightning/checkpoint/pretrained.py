"""A pretrained model for data at hand, and the same model without its pretraining, as a control."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from brainlm_lightning.checkpoint.description import (
    COMPARED_DATA,
    KEY,
    Description,
    check_matches,
    describe_data,
    subject_digest,
)
from brainlm_lightning.checkpoint.files import load_strictly, read_checkpoint
from brainlm_lightning.checkpoint.registry import build
from brainlm_lightning.checkpoint.start import start_model
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.scaling import ScalingStatistics
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.run_folder import find_checkpoint

ControlStart = Literal["as_pretrained", "standard"]


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model.

    Attributes:
        model: in evaluation mode.
        about: what its checkpoint says of it.
        path: of the checkpoint.
    """

    model: MaskedModel
    about: Description
    path: Path

    @property
    def statistics(self) -> ScalingStatistics:
        """By which the model's own data were scaled; whoever uses the model scales by them."""
        return ScalingStatistics.from_json(self.about["scaling"]["statistics"])

    def seen(self, subject_ids: Iterable[str]) -> NDArray[np.bool_]:
        """True for subjects whose recordings trained or validated the model."""
        return seen_subjects(self.about, subject_ids)


def seen_subjects(about: Description, subject_ids: Iterable[str]) -> NDArray[np.bool_]:
    """True for subjects whose recordings trained or validated the model of a checkpoint."""
    seen = {digest for split in about["subjects"].values() for digest in split}
    return np.array([subject_digest(subject) in seen for subject in subject_ids], dtype=bool)


def load_model(path: Path | str, base: type[nn.Module] = nn.Module) -> tuple[Any, Description]:
    """Rebuilds a model from its checkpoint alone, in evaluation mode.

    Args:
        path: a Lightning checkpoint, or an exported ``model.safetensors``.
        base: what the model must be, `MaskedModel` or `Forecaster`.

    Returns:
        The model and its description: parcels, ``tr_s``, window, scaling recipe and statistics.

    Raises:
        ValueError: a tensor is missing, unexpected or of another shape; or the checkpoint is of an unknown model.
    """
    about, weights = read_checkpoint(path)
    model = build(about, base, str(path))
    load_strictly(model, weights, str(path))
    return model.eval(), about


def load_pretrained(checkpoint: Path | str, data: CohortDataModule) -> Pretrained:
    """Loads a pretrained model that fits the data at hand; scale them by its `Pretrained.statistics`.

    Args:
        checkpoint: see `find_checkpoint`.
        data: after its setup; nothing of it changes.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the data are not of the kind that the model knows: parcels, their order, ``tr_s``, window, scaling.
    """
    path = find_checkpoint(checkpoint)
    model, about = load_model(path, MaskedModel)
    check_matches(about, describe_data(data), COMPARED_DATA)
    return Pretrained(model, about, path)


def refuse_seen(about: Description, path: Path, subject_ids: Iterable[str], purpose: str) -> None:
    """Checks that a model has seen no subject that is to be tested on.

    Args:
        about: its description.
        path: of its checkpoint.
        subject_ids: to be tested on.
        purpose: of these subjects, for the message.

    Raises:
        ValueError: it has; says how many.
    """
    subjects = sorted(set(subject_ids))
    seen = np.array(subjects)[seen_subjects(about, subjects)]
    if len(seen):
        raise ValueError(
            f"{len(seen)} of {len(subjects)} subjects {purpose} were seen in the pretraining of {path}, "
            f"{str(seen[0])!r} first; use the split key and shares of the pretraining, or a model pretrained without "
            "them"
        )


def untrained(
    pretrained: Pretrained,
    data: CohortDataModule,
    start: ControlStart = "as_pretrained",
    rows: NDArray[np.intp] | None = None,
) -> MaskedModel:
    """The same architecture without pretraining.

    Args:
        pretrained: whose sizes and seed are taken.
        data: scaled as the pretrained model's own.
        start: ``as_pretrained``, as before the first step of the pretraining (to the bit where the training subjects
            are the same), or the ``standard`` random start.
        rows: recordings from whose moments it may start; None = the training recordings.

    Returns:
        The model, in evaluation mode.
    """
    first = pretrained.about["initialisation"]
    chosen = first["start"] if start == "as_pretrained" else "standard"
    rank_zero_info(f"control: {pretrained.model.name} without pretraining, {chosen} start")
    kind, config = type(pretrained.model), pretrained.model.config
    return start_model(lambda geometry: kind(geometry, config), data, chosen, first["seed"], rows)[0].eval()


def export(checkpoint: Path, output: Path) -> Path:
    """Writes a Lightning checkpoint's model as safetensors, with its description in the header.

    Args:
        checkpoint: of a run.
        output: file to write; ``.safetensors``.

    Raises:
        FileExistsError: the output is there already.
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
