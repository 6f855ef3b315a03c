"""Finds and reads the files of a published checkpoint: a weight file, and the config.json beside it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from brainlm_lightning.checkpoint.files import load_plain

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CONFIG = "config.json"


@dataclass(frozen=True)
class PublishedFiles:
    """What a published checkpoint's files hold.

    Attributes:
        path: of the weights.
        weights: published name -> tensor.
        config: of its config.json; empty where there is none.
    """

    path: Path
    weights: dict[str, Tensor]
    config: dict[str, Any]


def read_published(source: Path) -> PublishedFiles:
    """Reads a published checkpoint; nothing that could run code is ever unpickled.

    Args:
        source: folder with `model.safetensors` or `pytorch_model.bin`, or such a file.

    Raises:
        FileNotFoundError: there is no weight file.
        ValueError: a file is damaged, or holds anything but tensors.
    """
    path = _weights_in(source)
    weights: Any = _read_safetensors(path) if path.suffix == ".safetensors" else load_plain(path)
    wrong = [name for name, value in weights.items() if not isinstance(value, Tensor) or not value.is_floating_point()]
    if wrong:
        raise ValueError(f"{path}: {wrong[0]!r} is no tensor of real numbers; expected a published state dict")
    config = path.with_name(CONFIG)
    return PublishedFiles(path, weights, json.loads(config.read_text()) if config.is_file() else {})


def _weights_in(source: Path) -> Path:
    if source.is_file():
        if source.suffix not in (".safetensors", ".bin"):
            raise ValueError(f"{source} is neither .safetensors nor .bin; name a weight file or its folder")
        return source
    found = [source / name for name in WEIGHTS if (source / name).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{source} has {' and '.join(path.name for path in found)}; name one of the files")
    below = sorted(str(path.parent.relative_to(source)) for name in WEIGHTS for path in source.glob(f"*/**/{name}"))
    advice = f"name one of its folders {below}" if below else "name a folder that was downloaded whole"
    raise FileNotFoundError(f"{source}: no {' or '.join(WEIGHTS)}; {advice}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); download it again") from error
