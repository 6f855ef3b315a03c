"""Turns published weights into a self-describing checkpoint that every task, `load` and `export` take."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from brainlm_lightning import __version__
from brainlm_lightning.checkpoint.description import FORMAT_VERSION, KEY, Description, describe_model, describe_parcels
from brainlm_lightning.checkpoint.files import load_strictly
from brainlm_lightning.checkpoint.published import brainlm, vitmae
from brainlm_lightning.checkpoint.published.files import PublishedFiles, read_published
from brainlm_lightning.checkpoint.published.models import Family, check_named, family_of
from brainlm_lightning.checkpoint.published.shapes import check_shapes
from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.scaling import RECIPES, WITHOUT_STATISTICS, ScalingStatistics
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.model.published.brainlm import BrainLM
from brainlm_lightning.model.published.vitmae import VitMAE
from brainlm_lightning.provenance import git_commit, sha256_of

PUBLISHED_TR_S = 0.735  # UK Biobank's: the published code trains on its frames as they were recorded
SPECS: dict[Family, ModuleType] = {"brainlm": brainlm, "vitmae": vitmae}
MODELS: dict[Family, type[MaskedModel]] = {"brainlm": BrainLM, "vitmae": VitMAE}


@dataclass(frozen=True)
class DataOfModel:
    """What published weights do not say about their data, and a checkpoint must.

    Attributes:
        atlas: the parcels, in the order of the published series (A424).
        tr_s: seconds from one frame to the next.
        scaling: recipe; see `data.scaling`.
        statistics: of the cohort's training subjects; None where the recipe needs none.
    """

    atlas: Atlas
    tr_s: float = PUBLISHED_TR_S
    scaling: str = "recording_zscore"
    statistics: ScalingStatistics | None = None

    def __post_init__(self) -> None:
        """Refuses a recipe that the statistics do not serve."""
        if self.scaling not in RECIPES:
            raise ValueError(f"scaling recipe is {self.scaling!r}; expected one of {', '.join(RECIPES)}")
        if self.statistics is None and self.scaling not in WITHOUT_STATISTICS:
            raise ValueError(
                f"the recipe {self.scaling!r} needs statistics of training subjects, which were never published; name "
                f"a prepared cohort to take them from (--cohort), or take {' or '.join(WITHOUT_STATISTICS)}"
            )


@dataclass(frozen=True)
class Imported:
    """An imported model.

    Attributes:
        model: in evaluation mode.
        about: its description.
        loaded: published tensors that are in the model.
        unused: published tensors that are not, because the published model does not use them either.
    """

    model: MaskedModel
    about: Description
    loaded: tuple[str, ...]
    unused: tuple[str, ...]

    def report(self) -> str:
        """One line: how many tensors were loaded, and which are unused."""
        total = len(self.loaded) + len(self.unused)
        named = f"; unused, as in the published code: {', '.join(self.unused)}" if self.unused else ""
        return f"loaded {len(self.loaded)} of {len(self.loaded)} tensors of {total} in the file{named}"


def import_weights(source: Path, data: DataOfModel, options: Mapping[str, Any] | None = None) -> Imported:
    """Imports a published checkpoint.

    Args:
        source: its folder, or its weight file (`.safetensors` or `.bin`).
        data: what the file does not say.
        options: settings of the model's configuration that its tensors do not fix, such as ``encoding_order`` or
            ``input_gain``.

    Raises:
        FileNotFoundError: there is no weight file.
        ValueError: the file is not exactly a published model; or the atlas has another number of parcels.
    """
    files = read_published(source)
    where = str(files.path)
    family = family_of(files.weights, where)
    spec: Any = SPECS[family]
    if data.atlas.num_parcels != spec.NUM_PARCELS:
        raise ValueError(
            f"{where} was trained on {spec.NUM_PARCELS} parcels (A424), the atlas {data.atlas.name!r} has "
            f"{data.atlas.num_parcels}; name the table of A424"
        )
    config = spec.config_of(files.weights, files.config, where)
    check_named(files.path.absolute().parent.name, family, config.embed_dim, where)
    check_shapes(files.weights, spec.expected_shapes(config), where)
    config = with_options(config, options or {}, where)
    xyz_mm = torch.tensor(data.atlas.xyz_mm)
    model = MODELS[family](Geometry(xyz_mm, spec.WINDOW_FRAMES), config)
    load_strictly(model, spec.translate(files.weights, config, xyz_mm), where)
    about = describe_imported(model, data, files)
    return Imported(model.eval(), about, *_shares(files.weights, spec.UNUSED))


def with_options(config: Any, options: Mapping[str, Any], source: str) -> Any:
    """A configuration with some settings replaced.

    Raises:
        ValueError: this family has no such setting.
    """
    unknown = [name for name in options if not hasattr(config, name)]
    if unknown:
        raise ValueError(f"{source}: a {type(config).__name__} has no {unknown[0]}; leave the option out")
    return replace(config, **options)


def _shares(weights: Mapping[str, Tensor], unused: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(name for name in weights if name not in unused), unused


def describe_imported(model: MaskedModel, data: DataOfModel, files: PublishedFiles) -> Description:
    """The description of an imported model, with the same entries as that of a model trained here."""
    atlas = data.atlas
    statistics = data.statistics or ScalingStatistics.unknown(atlas.num_parcels)
    return {
        "format_version": FORMAT_VERSION,
        "model": describe_model(model),
        "initialisation": {"start": "standard", "seed": 0},
        "package_version": __version__,
        "git_commit": git_commit(),
        "parcels": describe_parcels(atlas),
        "tr_s": float(data.tr_s),
        "window_frames": model.geometry.window_frames,
        "scaling": {"recipe": data.scaling, "statistics": statistics.to_json()},
        "subjects": {"train": [], "val": []},
        "imported": {"file": files.path.name, "sha256": sha256_of(files.path), "num_tensors": len(files.weights)},
    }


def save_imported(model: MaskedModel, about: Description, output: Path) -> Path:
    """Writes a model with its description as `.safetensors`, as `export` does.

    Raises:
        FileExistsError: the output exists.
        ValueError: the output has another ending.
    """
    if output.suffix != ".safetensors":
        raise ValueError(f"{output}: an imported checkpoint is a .safetensors file; name it model.safetensors")
    if output.exists():
        raise FileExistsError(f"{output} exists; imports are never overwritten, name another file")
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(output.name + ".part")
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, part, metadata={KEY: json.dumps(about)})
    part.replace(output)
    return output
