"""Which tensors a published checkpoint must have, by name and shape; every deviation is an error."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
MOST_NAMED = 6


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    """Weight and bias of a linear layer."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> Shapes:
    """Weight and bias of a layer norm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def check_shapes(weights: Mapping[str, Tensor], expected: Shapes, source: str) -> None:
    """Checks that the tensors are exactly the expected ones.

    Raises:
        ValueError: lists those that are missing, not expected, or of another shape.
    """
    missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    reshaped = [
        f"{name} {tuple(weights[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if missing or extra or reshaped:
        raise ValueError(
            f"{source} is not the published model: of {len(expected)} tensors, {_some('missing', missing)}, "
            f"{_some('not expected', extra)}, {_some('of another shape', reshaped)}; nothing was imported. Download "
            "the file again, with the config.json beside it"
        )


def _some(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{len(names)} {what}" + (f" ({', '.join(names[:MOST_NAMED])}{more})" if names else "")


def check_config(config: Mapping[str, Any], required: Mapping[str, Any], source: str) -> None:
    """Checks the entries of a config.json on which the meaning of the tensors depends; absent entries pass.

    Raises:
        ValueError: an entry has another value than the published models have.
    """
    wrong = [
        f"{name} is {config[name]!r}, expected {value!r}" for name, value in required.items()
        if name in config and config[name] != value
    ]  # fmt: skip
    if wrong:
        raise ValueError(f"{source}: config.json is not that of the published model: {'; '.join(wrong)}")


def width_of(weights: Mapping[str, Tensor], name: str, axis: int, source: str) -> int:
    """Length of a tensor's axis, for sizes that are read off the tensors.

    Raises:
        ValueError: there is no such tensor, or it has no such axis.
    """
    if name not in weights or weights[name].ndim <= axis:
        shape = tuple(weights[name].shape) if name in weights else "none"
        raise ValueError(f"{source} is not the published model: it lacks a tensor {name!r} (got {shape})")
    return weights[name].shape[axis]
