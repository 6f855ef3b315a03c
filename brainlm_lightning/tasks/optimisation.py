"""Which parameters decay, and how the learning rate moves."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]


@dataclass(frozen=True)
class OptimisationPlan:
    """How weights are changed.

    Attributes:
        name: ``adamw``, with decay of the linear maps' weights, or ``adam`` (paper), where decay is ignored.
        learning_rate: at its peak.
        weight_decay: of AdamW.
        betas: of both.
        warmup_fraction: share of all steps in which the rate rises.
        final_rate: last rate over the peak; 1 keeps it constant after warm-up.
    """

    name: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_fraction: float = 0.05
    final_rate: float = 0.0

    def __post_init__(self) -> None:
        """Validates the values."""
        allowed = {
            "learning_rate": (self.learning_rate >= 0, "a rate of 0 or more"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "betas": (all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 to below 1"),
            "warmup_fraction": (0 <= self.warmup_fraction <= 1, "a share from 0 to 1"),
            "final_rate": (self.final_rate >= 0, "0 or more"),
        }
        for name, (right, expected) in allowed.items():
            if not right:
                raise ValueError(f"optimisation.{name} is {getattr(self, name)}; expected {expected}")


def planned(
    module: nn.Module,
    plan: OptimisationPlan,
    total_steps: int,
    layers: Sequence[Sequence[nn.Parameter]] | None = None,
    layer_decay: float = 1.0,
) -> dict[str, Any]:
    """The planned optimiser of a module with warm-up and cosine over all optimiser steps, as Lightning takes them.

    With ``layers``, from the output down, the learning rate shrinks by ``layer_decay`` from each to the next.
    """
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[plan.name]
    weight_decay = plan.weight_decay if plan.name == "adamw" else 0.0
    groups = parameter_groups(module, weight_decay)
    if layers is not None:
        groups = layerwise_groups(module, layers, plan.learning_rate, weight_decay, layer_decay)
    optimizer = kind(groups, lr=plan.learning_rate, betas=plan.betas)
    schedule = warmup_cosine(optimizer, total_steps, plan.warmup_fraction, plan.final_rate)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def gradient_norm(module: nn.Module) -> Tensor:
    """Norm of all gradients of a module, a scalar; where devices hold shards, of the whole, and all must call it."""
    norm = nn.utils.get_total_norm([value.grad for value in module.parameters() if value.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters in two groups: matrices of linear maps decay; embeddings, biases, norms and single vectors do not.

    Raises:
        AssertionError: a trainable parameter is in neither group, or in both.
    """
    decayed = {id(part.weight) for part in module.modules() if isinstance(part, nn.Linear)}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decay = [parameter for parameter in trained if id(parameter) in decayed]
    keep = [parameter for parameter in trained if id(parameter) not in decayed]
    assert len(decay) + len(keep) == len(trained) == len({id(parameter) for parameter in trained})
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def layerwise_groups(
    module: nn.Module, layers: Sequence[Sequence[nn.Parameter]], learning_rate: float, weight_decay: float, decay: float
) -> list[dict[str, Any]]:
    """`parameter_groups` with a learning rate that shrinks with the distance from the output (Clark et al. 2020).

    Args:
        module: whose parameters are trained.
        layers: all of its trained parameters, from the output down.
        learning_rate: of the first layer.
        weight_decay: of linear maps.
        decay: factor from a layer to the one below it; 1 trains all alike.

    Raises:
        AssertionError: a trained parameter is in no layer, or in two.
    """
    depth_of = {id(parameter): depth for depth, layer in enumerate(layers) for parameter in layer}
    assert len(depth_of) == sum(map(len, layers))
    found = []
    for group in parameter_groups(module, weight_decay):
        for depth in sorted({depth_of[id(parameter)] for parameter in group["params"]}):
            members = [parameter for parameter in group["params"] if depth_of[id(parameter)] == depth]
            rate = {"params": members, "lr": learning_rate * decay**depth}
            found.append({**group, **rate})
    return found


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup_fraction: float, final: float = 0.0) -> LambdaLR:
    """Learning rate rising linearly over the first share of the steps, then falling along half a cosine.

    Args:
        optimizer: whose rate is the peak.
        total_steps: optimiser steps of the whole training.
        warmup_fraction: share of them that rise, 0 to 1.
        final: last rate over the peak.
    """
    warmup = round(total_steps * warmup_fraction)
    return LambdaLR(optimizer, partial(_warmup_cosine, warmup=warmup, total=total_steps, final=final))


def _warmup_cosine(step: int, warmup: int, total: int, final: float) -> float:
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
