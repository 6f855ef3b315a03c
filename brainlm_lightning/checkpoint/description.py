"""Checkpoints that say what they are: enough to use one without the run that made it.

A Lightning checkpoint carries a ``brainlm`` entry beside its weights; an exported ``model.safetensors`` carries the
same as JSON in its header. Nothing is ever unpickled but tensors and plain values (``weights_only=True``).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from brainlm_lightning import __version__
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.gcn import GCNConfig, GraphConvolutionalNetwork
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.model.vae import VAEConfig, VariationalAutoencoder
from brainlm_lightning.provenance import git_commit

# What can be rebuilt from a checkpoint, and from which configuration.
MODELS: dict[type[MaskedModel], type] = {
    MaskedAutoencoder: MAEConfig,
    VariationalAutoencoder: VAEConfig,
    GraphConvolutionalNetwork: GCNConfig,
}

KEY = "brainlm"
FORMAT_VERSION = 1
PREFIX = "net."
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


def class_path(kind: type) -> str:
    """Where a class is found."""
    return f"{kind.__module__}.{kind.__qualname__}"


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


def check_matches(found: Description, expected: Description, names: Sequence[str] | None = None) -> None:
    """Compares a checkpoint with what it is loaded for.

    Args:
        found: the checkpoint's description.
        expected: that of this experiment.
        names: which entries of `COMPARED`; None = all.

    Raises:
        ValueError: they differ; says in what.
    """
    differences = []
    for name in names or COMPARED:
        here, there = (COMPARED[name](of) for of in (expected, found))
        if here != there:
            differences.append(f"{name}: the checkpoint has {_short(there)}, this experiment {_short(here)}")
    if differences:
        raise ValueError("the checkpoint does not fit this experiment:\n  " + "\n  ".join(differences))


COMPARED: dict[str, Callable[[Description], Any]] = {
    "model class": lambda of: of["model"]["class_path"],
    "model config": lambda of: of["model"]["config"],
    "number of parcels": lambda of: len(of["parcels"]["index"]),
    "parcel table and order (sha256)": lambda of: of["parcels"]["sha256"],
    "seconds between frames (tr_s)": lambda of: of["tr_s"],
    "frames of a window": lambda of: of["window_frames"],
    "scaling recipe": lambda of: of["scaling"]["recipe"],
    "scaling statistics": lambda of: of["scaling"]["statistics"],
    "frames to forecast": lambda of: of.get("forecast", {}).get("horizon_frames"),
    "standardisation by context or training": lambda of: of.get("forecast", {}).get("standardise"),
}
# A pretrained model brings its own statistics; the rest of the data must be of the kind that it knows.
COMPARED_DATA = tuple(name for name in COMPARED if not name.startswith("model ") and name != "scaling statistics")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]} …"


def read_checkpoint(path: Path | str) -> tuple[Description, dict[str, Tensor]]:
    """Reads description and weights of a Lightning checkpoint or an exported ``.safetensors`` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds objects other than tensors and plain values, is damaged, or says nothing of itself.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; name a .ckpt of a run folder or an exported .safetensors")
    description, weights = (_read_safetensors if path.suffix == ".safetensors" else _read_lightning)(path)
    return check_format(description, str(path)), weights


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


def load_plain(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Loads a file of tensors and plain values, and nothing else: other objects could run code.

    Raises:
        ValueError: the file is damaged or holds other objects.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise ValueError(
            f"checkpoint {path} cannot be read: it is damaged, or holds objects other than tensors and plain values, "
            "which are never loaded because unpickling them could run code; go back to an earlier checkpoint. "
            f"{type(error).__name__}: {str(error)[:200]}"
        ) from error


def _read_lightning(path: Path) -> tuple[Description | None, dict[str, Tensor]]:
    content = load_plain(path)
    weights = {name.removeprefix(PREFIX): value for name, value in content.get("state_dict", {}).items()}
    return content.get(KEY), weights


def _read_safetensors(path: Path) -> tuple[Description | None, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); export it again") from error
    return json.loads(header) if header else None, weights


def load_model(path: Path | str) -> tuple[MaskedModel, Description]:
    """Rebuilds a pretrained model from its checkpoint alone, in evaluation mode.

    Args:
        path: a Lightning checkpoint, or an exported ``model.safetensors``.

    Returns:
        The model and its description: parcels, ``tr_s``, window, scaling recipe and statistics.

    Raises:
        ValueError: a tensor is missing, unexpected or of another shape; or the checkpoint is of an unknown model.
    """
    description, weights = read_checkpoint(path)
    model = build(description, str(path))
    load_strictly(model, weights, str(path))
    return model.eval(), description


def build(description: Description, source: str) -> MaskedModel:
    """The model of a description, at a random start.

    Raises:
        ValueError: it is of no class that this package can build.
    """
    known = {class_path(kind): kind for kind in MODELS}
    name = description["model"]["class_path"]
    if name not in known:
        raise ValueError(f"{source} holds a {name}, expected one of {', '.join(known)}")
    kind = known[name]
    geometry = Geometry(torch.tensor(description["parcels"]["xyz_mm"]), description["window_frames"])
    return kind(geometry, MODELS[kind](**description["model"]["config"]))


def load_strictly(model: torch.nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Loads every tensor or raises; says how many there were.

    Raises:
        ValueError: names or shapes differ; the message lists them.
    """
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    reshaped = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if missing or unexpected or reshaped:
        raise ValueError(
            f"{source} does not fit the model: missing {missing or 'none'}, unexpected {unexpected or 'none'}, "
            f"of another shape {sorted(reshaped) or 'none'}"
        )
    model.load_state_dict(weights)
    rank_zero_info(f"loaded {len(own)} of {len(own)} tensors from {source}")


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
    model, description = load_model(checkpoint)
    output.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    part = output.with_name(output.name + ".part")
    save_file(weights, part, metadata={KEY: json.dumps(description)})
    part.replace(output)
    return output
