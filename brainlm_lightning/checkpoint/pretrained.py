"""A pretrained model for data at hand, and the same model without its pretraining, as a control."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from brainlm_lightning.checkpoint.description import (
    COMPARED_DATA,
    Description,
    check_matches,
    describe_data,
    load_model,
    subject_digest,
)
from brainlm_lightning.checkpoint.start import Start, start_model
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.scaling import ScalingStatistics
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.run_folder import find_checkpoint


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

    def seen(self, subject_ids: Iterable[str]) -> NDArray[np.bool_]:
        """True for subjects whose recordings trained or validated the model."""
        seen = {digest for split in self.about["subjects"].values() for digest in split}
        return np.array([subject_digest(subject) in seen for subject in subject_ids], dtype=bool)


def load_pretrained(place: Path | str, datamodule: CohortDataModule) -> Pretrained:
    """Loads a pretrained model for a DataModule, which from then on scales as the model's own data were scaled.

    Args:
        place: see `find_checkpoint`.
        datamodule: after its setup.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the data are not of the kind that the model knows: parcels, their order, ``tr_s``, window, scaling.
    """
    path = find_checkpoint(place)
    model, about = load_model(path)
    check_matches(about, describe_data(datamodule), COMPARED_DATA)
    datamodule.adopt_statistics(ScalingStatistics.from_json(about["scaling"]["statistics"]))
    return Pretrained(model, about, path)


def refuse_seen(pretrained: Pretrained, subject_ids: Iterable[str], purpose: str) -> None:
    """Checks that a pretrained model has seen no subject that is to be tested on.

    Raises:
        ValueError: it has; says how many.
    """
    subjects = sorted(set(subject_ids))
    seen = np.array(subjects)[pretrained.seen(subjects)]
    if len(seen):
        raise ValueError(
            f"{len(seen)} of {len(subjects)} subjects {purpose} were seen in the pretraining of {pretrained.path}, "
            f"{str(seen[0])!r} first; use the split key and shares of the pretraining, or a model pretrained without "
            "them"
        )


def untrained(
    pretrained: Pretrained, datamodule: CohortDataModule, start: Literal["as_pretrained", "standard"] = "as_pretrained"
) -> MaskedModel:
    """The same architecture without pretraining.

    Args:
        pretrained: whose sizes and seed are taken.
        datamodule: after `load_pretrained`; a kernel start takes its training subjects' covariances.
        start: ``as_pretrained``, as before the first step of the pretraining (to the bit where the training subjects
            are the same), or the ``standard`` random start.

    Returns:
        The model, in evaluation mode.
    """
    kind, first = type(pretrained.model), pretrained.about["initialisation"]
    config = pretrained.model.config
    chosen: Start = first["start"] if start == "as_pretrained" else "standard"
    rank_zero_info(f"control: {pretrained.model.name} without pretraining, {chosen} start")
    return start_model(lambda geometry: kind(geometry, config), datamodule, chosen, first["seed"]).eval()
