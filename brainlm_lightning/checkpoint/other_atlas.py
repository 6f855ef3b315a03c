"""Moves a model to another atlas: what it knows of each parcel is mapped, everything else is kept as it is.

A model of several atlases (`data.joined_atlas`) becomes one of them in the same way: a parcel that it knows takes that
parcel's vector alone.

A model knows single parcels by its learnable spatial embeddings alone, one vector a parcel. A parcel of the new atlas
gets the weighted mean of the vectors of the old ones, with weights by position (a kernel on the distance of centroids)
or by overlap (`data.parcellation.overlap_weights`). Embeddings that are a function of `xyz_mm` need no weights: they
are computed from the new centroids.

Shapes: P parcels of the model's atlas, Q parcels of the new one, D width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from brainlm_lightning.checkpoint.description import Description, describe_parcels, parts_of
from brainlm_lightning.checkpoint.reference import REFERENCE
from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.joined_atlas import part_of_statistics
from brainlm_lightning.data.scaling import ScalingStatistics
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.masked import MaskedModel

WIDTH_MM = 6.0  # of the kernel; parcels of atlases of 400 are about 7 mm from the nearest of another one
OWN = "none: one of the model's atlases"  # how a parcel is mapped that the model knows
LEARNT, COMPUTED = "spatial_PD", "xyz_dm"  # endings of the names of tensors that belong to parcels


def position_weights(xyz_from_mm: Tensor, xyz_to_mm: Tensor, width_mm: float) -> Tensor:
    """Weights of a Gaussian kernel on the distance of centroids, (Q, P) float64; each row adds up to 1.

    Args:
        xyz_from_mm: (P, 3) centroids of the model's atlas.
        xyz_to_mm: (Q, 3) centroids of the new one, in the same space.
        width_mm: standard deviation of the kernel.

    Raises:
        ValueError: the width is not above 0.
    """
    if not width_mm > 0:
        raise ValueError(f"width_mm is {width_mm}; expected a width above 0, for instance half the distance of parcels")
    squared_QP = torch.cdist(xyz_to_mm.double(), xyz_from_mm.double()).square()
    weights_QP: Tensor = torch.softmax(-squared_QP / (2 * width_mm**2), dim=1)
    return weights_QP


def mapped(vectors_PD: Tensor, weights_QP: Tensor) -> Tensor:
    """The weighted mean of the direction of vectors, each as long as the weighted mean of their lengths, (Q, D).

    A mean of vectors that differ is shorter than they are. Attention by inner products would take a short vector for a
    parcel that is like no other, so the length is kept.
    """
    vectors_PD, weights_QP = vectors_PD.double(), weights_QP.double()
    mean_QD = weights_QP @ vectors_PD
    length_Q1 = weights_QP @ vectors_PD.norm(dim=1, keepdim=True)
    found_QD: Tensor = mean_QD * length_Q1 / mean_QD.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return found_QD


def described_on(
    about: Description, atlas: Atlas, statistics: ScalingStatistics, how: Mapping[str, Any]
) -> Description:
    """The description of a model that moved without training: its scaling recipe stays.

    Args:
        about: of the model as it was.
        atlas: the new one.
        statistics: that recordings in the new atlas are scaled with.
        how: it was mapped, as plain values.
    """
    scaling = {"recipe": about["scaling"]["recipe"], "statistics": statistics.to_json()}
    described = {**about, "parcels": describe_parcels(atlas), "scaling": scaling}
    described["started_from"] = {**origin_of(about), **how}
    if REFERENCE in about:  # parcels of the group's connectivity are others
        described[REFERENCE] = {**about[REFERENCE], "directions": None}
    return described


def own_part(
    model: MaskedModel, about: Description, atlas: Atlas, said: Mapping[str, Any]
) -> tuple[MaskedModel, Description] | None:
    """A model of several atlases as that of one of them, with its statistics; None if the atlas is none of them.

    A model of one atlas is itself.

    Args:
        model: it is not changed.
        about: its description.
        atlas: of the recordings.
        said: what else its description is to say of where it came from.
    """
    part = parts_of(about).get(atlas.sha256)
    if part is None:
        return None
    if atlas.sha256 == about["parcels"]["sha256"]:
        return model, about
    statistics = part_of_statistics(ScalingStatistics.from_json(about["scaling"]["statistics"]), part)
    described = described_on(about, atlas, statistics, {**said, "mapping": OWN})
    return moved(model, torch.tensor(atlas.xyz_mm), torch.eye(len(about["parcels"]["index"]))[part]), described


def origin_of(about: Description) -> dict[str, str]:
    """The atlas that a model came from."""
    return {"atlas": about["parcels"]["atlas"], "parcels_sha256": about["parcels"]["sha256"]}


def move_into(other: MaskedModel, model: MaskedModel, weights_QP: Tensor) -> MaskedModel:
    """Gives a model of another atlas all tensors of a model, those of parcels mapped; returns it.

    Args:
        other: of the new atlas, changed in place.
        model: any whose tensors belong to no parcel, but for spatial embeddings named ``…spatial_PD``.
        weights_QP: what each new parcel takes of the old ones; rows add up to 1.

    Raises:
        ValueError: another tensor belongs to parcels.
    """
    tensors, fixed = dict(other.state_dict()), []
    for name, value in model.state_dict().items():
        if name.endswith(LEARNT):
            tensors[name] = mapped(value, weights_QP).to(value.dtype)
        elif name.endswith(COMPUTED):
            continue
        elif name in tensors and tensors[name].shape == value.shape:
            tensors[name] = value
        else:
            fixed.append(f"{name} {tuple(value.shape)}")
    if fixed:
        raise ValueError(
            f"a {model.name} cannot move to another atlas: {', '.join(fixed)} belong to its own parcels; expected a "
            f"model that knows parcels by tensors named …{LEARNT} alone, such as a masked autoencoder"
        )
    other.load_state_dict(tensors)
    return other


def moved(model: MaskedModel, xyz_mm: Tensor, weights_QP: Tensor) -> MaskedModel:
    """The same model for another atlas; see `move_into`.

    Args:
        model: it is not changed.
        xyz_mm: (Q, 3) centroids of the new atlas.
        weights_QP: what each new parcel takes of the old ones.
    """
    with torch.random.fork_rng(devices=[]):
        other = type(model)(Geometry(xyz_mm, model.geometry.window_frames), model.config)
    return move_into(other, model, weights_QP).train(model.training)
