"""Training that starts from a pretrained model, of the same atlas or of another.

Shapes: P parcels of the pretrained model, Q parcels of the data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from brainlm_lightning.checkpoint.description import (
    COMPARED_DATA,
    Description,
    Entry,
    check_matches,
    describe_data,
    describe_model,
    parts_of,
)
from brainlm_lightning.checkpoint.other_atlas import (
    OWN,
    WIDTH_MM,
    described_on,
    move_into,
    moved,
    origin_of,
    own_part,
    position_weights,
)
from brainlm_lightning.checkpoint.pretrained import Pretrained, load_model, refuse_seen
from brainlm_lightning.checkpoint.start import TrainingMoments
from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.joined_atlas import JoinedAtlas, part_of_statistics
from brainlm_lightning.data.parcellation import overlap_weights
from brainlm_lightning.data.store import Store
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.provenance import sha256_of
from brainlm_lightning.run_folder import find_checkpoint

PARCELS = ("number of parcels", "parcel table and order (sha256)")
MATCHING: dict[str, Entry] = {name: entry for name, entry in COMPARED_DATA.items() if name not in PARCELS}
FREE = ("dropout",)  # settings of a model that no tensor depends on


@dataclass(frozen=True)
class StartFrom:
    """A pretrained model that training starts from.

    Attributes:
        checkpoint: a checkpoint, an exported folder, a run folder or ``runs/<experiment>``.
        atlas: how its spatial embeddings are mapped where its atlas is another one: by ``position``, a Gaussian kernel
            on the distance of centroids, or by ``overlap`` of voxels. Embeddings of kind ``xyz`` are computed from the
            new centroids in either case.
        width_mm: standard deviation of that kernel.
        images: for ``overlap``, the label images of the checkpoint's atlas and of the data's, in one space. Parcels
            that overlap none are mapped by position, and counted in the checkpoint.
    """

    checkpoint: str
    atlas: Literal["position", "overlap"] = "position"
    width_mm: float = WIDTH_MM
    images: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        """Refuses overlap without images, and images without overlap."""
        if (self.atlas == "overlap") != (self.images is not None):
            raise ValueError(
                f"start_from.atlas is {self.atlas!r} and images {self.images}; expected two label images (the "
                "checkpoint's atlas, the data's) with 'overlap', none with 'position'"
            )


@dataclass(frozen=True)
class Started:
    """A model that starts from a pretrained one.

    Attributes:
        model: for the data's atlas.
        pretrained: what it starts from.
        initialisation: of the untrained model, as in a `Description`.
        said: how, as plain values for its description.
    """

    model: MaskedModel
    pretrained: Pretrained
    initialisation: Mapping[str, Any]
    said: Mapping[str, Any]


def started(net: MaskedModel, data: CohortDataModule, start: StartFrom) -> Started:
    """Gives a model that was built for the data the tensors of a pretrained one: of its class, or that it grows from.

    On the pretrained model's own atlas, or one of several, the data are scaled with its statistics from now on; on
    another one with those of the data's training subjects, since statistics belong to parcels.

    Args:
        net: built for the data, with any values; changed in place.
        data: after its setup, before its first loader is made.
        start: what to start from.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: model, window, ``tr_s`` or scaling differ; or a test subject was in the pretraining.
    """
    path = find_checkpoint(start.checkpoint)
    source, about = load_model(path, MaskedModel)
    check_matches(about, describe_data(data), MATCHING)
    _check_same_model(net, source, path)
    for test_set in data.test_sets:
        refuse_seen(about, path, data.recordings.table.iloc[test_set.rows], f"to test on, of {test_set.name}")
    pretrained = Pretrained(source, about, path)
    atlas = data.atlas
    own_atlas = about["parcels"]["sha256"] == atlas.sha256
    part = parts_of(about).get(atlas.sha256)
    if own_atlas:
        data.adopt_statistics(pretrained.statistics)
    elif part is not None:
        data.adopt_statistics(part_of_statistics(pretrained.statistics, part))
    initialisation, how = about["initialisation"], {"mapping": "none: the same atlas"}
    if type(source) is net.grows_from:
        initialisation = {"start": net.starts[0], "seed": data.seed}
        net.start(net.starts[0], TrainingMoments(data, data.train_rows), data.seed)
    if own_atlas:
        net.load_state_dict({**net.state_dict(), **source.state_dict()})
    else:
        weights_QP, how = _weights(about, data.atlases, start)
        move_into(net, source, weights_QP)
        rank_zero_info(f"moved from {about['parcels']['atlas']} to {atlas.name} ({how['mapping']}): {path}")
    return Started(net, pretrained, initialisation, {"checkpoint_sha256": sha256_of(path), **origin_of(about), **how})


def moved_checkpoint(start: StartFrom, store: Store) -> tuple[MaskedModel, Description]:
    """A pretrained model for a cohort in another atlas, without any training there, for all tasks that take one.

    Its scaling recipe stays; statistics are those of the cohort's training subjects. A model of several atlases, of
    which the cohort's is one, becomes a model of that one alone: the same on its recordings, statistics included.

    Args:
        start: the model, and how it is mapped.
        store: the cohort.

    Returns:
        The model, and its description, which names the cohort.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the atlas is the model's own; or the model cannot move.
    """
    path = find_checkpoint(start.checkpoint)
    source, about = load_model(path, MaskedModel)
    if about["parcels"]["sha256"] == store.atlas.sha256:
        raise ValueError(f"{path} is in the atlas of {store.folder} already: take it as it is")
    came_from = {"checkpoint_sha256": sha256_of(path)}
    own = own_part(source, about, store.atlas, came_from)
    if own is not None:
        return own
    weights_QP, how = _mapped(about, store.atlas, start)
    described = described_on(about, store.atlas, store.statistics, {**came_from, **how, "scaled_by": store.name})
    return moved(source, torch.tensor(store.atlas.xyz_mm), weights_QP), described


def describe_started(description: Description, found: Started) -> Description:
    """The description of a model that started from another one: what it was before, and whom that one has seen.

    Its untrained twin is what the pretrained model was before its own training.
    """
    before = found.pretrained.about
    subjects = {
        split: sorted({*seen, *before["subjects"].get(split, [])}) for split, seen in description["subjects"].items()
    }
    own = {"initialisation": dict(found.initialisation), "subjects": subjects, "started_from": dict(found.said)}
    return {**description, **own}


def _check_same_model(ours: MaskedModel, theirs: MaskedModel, path: Path) -> None:
    here, there = describe_model(ours), describe_model(theirs)
    differing = {
        name: (value, there["config"].get(name))
        for name, value in here["config"].items()
        if name not in FREE and value != there["config"].get(name)
    }
    if type(theirs) not in (type(ours), ours.grows_from) or differing:
        listed = "".join(f"\n  {name}: {this}, the checkpoint has {that}" for name, (this, that) in differing.items())
        raise ValueError(
            f"the model is a {here['class_path']}, {path} holds a {there['class_path']}; give the model the "
            f"checkpoint's class and settings{listed}"
        )


def _weights(about: Description, atlases: JoinedAtlas, start: StartFrom) -> tuple[Tensor, dict[str, Any]]:
    """What each parcel of the data takes of those of the checkpoint, (Q, P), and how that was found.

    A parcel of an atlas that the checkpoint has among its own takes that one alone.
    """
    known = parts_of(about)
    weights_QP = torch.zeros(atlases.whole.num_parcels, len(about["parcels"]["index"]), dtype=torch.float64)
    shared = [(at, known[sha256]) for sha256, at in atlases.parts.items() if sha256 in known]
    mapped_Q = torch.ones(len(weights_QP), dtype=torch.bool)
    for here, there in shared:
        weights_QP[here, there] = torch.eye(here.stop - here.start, dtype=torch.float64)
        mapped_Q[here] = False
    if not mapped_Q.any():
        return weights_QP, {"mapping": OWN}
    found_QP, how = _mapped(about, atlases.whole, start)
    return found_QP.where(mapped_Q[:, None], weights_QP), how


def _mapped(about: Description, atlas: Atlas, start: StartFrom) -> tuple[Tensor, dict[str, Any]]:
    """What each parcel of an atlas that the checkpoint does not know takes of its parcels, (Q, P), and how."""
    xyz_from_mm = torch.tensor(about["parcels"]["xyz_mm"])
    near_QP = position_weights(xyz_from_mm, torch.tensor(atlas.xyz_mm), start.width_mm)
    if start.images is None:
        return near_QP, {"mapping": "position", "width_mm": start.width_mm}
    theirs, ours = (Path(image) for image in start.images)
    index = [int(number) for number in atlas.parcels["index"]]
    shared_QP = torch.from_numpy(overlap_weights(ours, index, theirs, about["parcels"]["index"]))
    without_Q = shared_QP.sum(dim=1) == 0
    how = {"mapping": "overlap", "images_sha256": [sha256_of(theirs), sha256_of(ours)]}
    uncovered = [str(atlas.parcels["label"].iloc[number]) for number in without_Q.nonzero().flatten().tolist()]
    if uncovered:
        rank_zero_info(f"{len(uncovered)} of {len(index)} parcels overlap none and are mapped by position: {uncovered}")
    return near_QP.where(without_Q[:, None], shared_QP), how | {
        "parcels_by_position": len(uncovered),
        "width_mm": start.width_mm,
    }
