"""Fully sharded training (FSDP): every device keeps a part of the weights, gradients and optimiser states.

In an experiment file, beside ``ddp``:

    trainer:
      strategy: sharded

Lightning's own ``fsdp`` wraps modules in the older way, which knows no CPU and changes names of parameters; here each
block of a transformer is a unit of torch's ``fully_shard``, and the rest is one more. Checkpoints are whole files as
with one device, so that any number of devices, with or without shards, goes on from them.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from brainlm_lightning.checkpoint.files import load_plain
from brainlm_lightning.model.transformer import Block

NAME = "sharded"


class FullySharded(ModelParallelStrategy):
    """Data parallelism over all devices, with a shard of the model on each."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Counts the devices of all nodes before their mesh is laid out."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: pl.Trainer) -> None:
        """Shards the model, which `configure_model` has built, before the optimiser sees its parameters."""
        assert self.model is not None
        shard(self.model, self.device_mesh["data_parallel"])
        super().setup(trainer)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state on the first device, {} on others; see `whole_state`."""
        assert self.model is not None
        return whole_state(self.model, optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads a checkpoint of whole tensors and plain values, and takes this device's shards of it.

        Raises:
            ValueError: the file is damaged, or holds other objects.
        """
        assert self.model is not None
        checkpoint = load_plain(Path(checkpoint_path))
        set_model_state_dict(self.model, checkpoint["state_dict"], options=StateDictOptions(full_state_dict=True))
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            take_state(self.model, optimizer, state)
        return checkpoint


def shard(task: nn.Module, mesh: DeviceMesh) -> None:
    """Shards the blocks of a task's model, and what is outside of them as one unit."""
    for module in task.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(task, mesh=mesh)
    for step in ("training_step", "validation_step"):  # in them, weights outside of blocks are gathered
        register_fsdp_forward_method(task, step)


def whole_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser's state as its own `state_dict` has it without shards: whole tensors, numbered by its groups.

    Lightning numbers parameters by their place in the model, which is another one where groups sort them.
    """
    named: dict[str, Any] = dict(
        get_optimizer_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    )
    if not named:
        return {}
    number = {name: place for place, name in enumerate(_names(model, optimizer))}
    groups = [{**group, "params": [number[name] for name in group["params"]]} for group in named["param_groups"]]
    state = sorted((number[name], value) for name, value in named["state"].items())
    return {"state": dict(state), "param_groups": groups}


def take_state(model: nn.Module, optimizer: Optimizer, whole: dict[str, Any]) -> None:
    """Takes a device's shards of a state from `whole_state`, or from an optimiser without shards."""
    names = _names(model, optimizer)
    groups = [{**group, "params": [names[place] for place in group["params"]]} for group in whole["param_groups"]]
    state = {names[place]: value for place, value in whole["state"].items()}
    named: dict[str, Any] = {"state": state, "param_groups": groups}
    set_optimizer_state_dict(model, optimizer, named, options=StateDictOptions(full_state_dict=True))


def _names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of the optimiser's parameters, in the order of its groups."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [name_of[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def register() -> None:
    """Makes the strategy known to the Trainer by its name."""
    if NAME not in StrategyRegistry.available_strategies():
        StrategyRegistry.register(NAME, FullySharded, description="fully sharded data parallelism")
