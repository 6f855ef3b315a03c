"""Reads checkpoint files safely: tensors and plain values only, never objects that could run code.

A Lightning checkpoint holds its description beside its weights; an exported ``model.safetensors`` holds it as JSON in
its header. Only tensors and plain values are ever unpickled (``weights_only=True``).
"""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError, safe_open
from torch import Tensor

from brainlm_lightning.checkpoint.description import KEY, Description, check_format
from brainlm_lightning.checkpoint.schema import check_plausible
from brainlm_lightning.model.low_rank import merged

HASH = "sha256"  # of the tensors, in the header of an export; those of 0.1 have none
PREFIX = "net."  # of the model's parameters in a task's state_dict
TUNED = f"predictor.{PREFIX}"  # of an encoder's parameters where a task trains a head with it


def read_checkpoint(path: Path | str) -> tuple[Description, dict[str, Tensor]]:
    """Reads description and weights of a Lightning checkpoint or an exported ``.safetensors`` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds objects other than tensors and plain values, or has no description.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; name a .ckpt of a run folder or an exported .safetensors")
    description, weights = (_read_safetensors if path.suffix == ".safetensors" else _read_lightning)(path)
    about = check_format(description, str(path))
    check_plausible(about, weights, str(path))
    return about, weights


def load_plain(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Loads a file of tensors and plain values; other objects are refused, since they could run code.

    Raises:
        ValueError: the file is damaged or holds other objects.
    """
    try:
        _check_sums(path)
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise ValueError(
            f"checkpoint {path} cannot be read: it is damaged, or holds objects other than tensors and plain values, "
            "which are never loaded because unpickling them could run code; go back to an earlier checkpoint. "
            f"{type(error).__name__}: {str(error)[:200]}"
        ) from error
    return content


def _check_sums(path: Path) -> None:
    """Compares the checksums in a checkpoint, which torch does not.

    Raises:
        ValueError: a part of the file was changed.
    """
    if zipfile.is_zipfile(path):  # not so before torch 1.6
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is not what was written")


def _read_lightning(path: Path) -> tuple[Description | None, dict[str, Tensor]]:
    content = load_plain(path)
    state = content.get("state_dict", {}) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: expected a checkpoint of a run, with tensors by name in `state_dict`")
    tuned = {name.removeprefix(TUNED): value for name, value in state.items() if str(name).startswith(TUNED)}
    if tuned:
        rank_zero_info(
            f"{path}: of {len(state)} tensors, {len(tuned)} are the fine-tuned model's; its head is left out"
        )
        return content.get(KEY), merged(tuned)
    return content.get(KEY), {str(name).removeprefix(PREFIX): value for name, value in state.items()}


def _read_safetensors(path: Path) -> tuple[Description | None, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); export it again") from error
    if HASH in header and header[HASH] != sha256_of_tensors(weights):
        raise ValueError(f"{path}: its tensors are not those that were exported (sha256); export the model again")
    try:
        return json.loads(header.get(KEY, "null")), weights
    except ValueError as error:
        raise ValueError(f"{path}: its description is no JSON ({error}); export the model again") from error


def sha256_of_tensors(weights: dict[str, Tensor]) -> str:
    """Hash of names, types, shapes and values, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_strictly(model: torch.nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Loads all tensors and logs their number, or raises.

    Raises:
        ValueError: names or shapes differ, and the message lists them; or a value is not finite.
    """
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    reshaped = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if missing or unexpected or reshaped:
        raise ValueError(
            f"{source} does not fit the model: missing {missing or 'none'}, unexpected {unexpected or 'none'}, "
            f"of another shape {sorted(reshaped) or 'none'}"
        )
    spoilt = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if spoilt:
        raise ValueError(
            f"{source} has values that are not finite, in {spoilt[0]} first of {len(spoilt)} tensors: its training "
            "diverged; take an earlier checkpoint, or train again with a lower learning rate"
        )
    model.load_state_dict(weights)
    rank_zero_info(f"loaded {len(own)} of {len(own)} tensors from {source}")
