"""States of optimisers with and without shards, in a group of one process."""

import copy

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh

from brainlm_lightning.callbacks.sharding import shard, take_state, whole_state
from brainlm_lightning.model.transformer import Transformer
from brainlm_lightning.tasks.optimisation import gradient_norm, parameter_groups


@pytest.fixture
def mesh(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


class Task(nn.Module):
    """With parameters outside of blocks, and groups that sort parameters otherwise than the model does."""

    def __init__(self):
        super().__init__()
        self.first, self.body, self.scale = nn.Linear(8, 8), Transformer(8, 2, 2), nn.Parameter(torch.ones(8))

    def training_step(self, x_BLD):
        return (self.body(self.first(x_BLD)) * self.scale).square().mean()

    def validation_step(self, x_BLD):
        return self.training_step(x_BLD)


def stepped(task, optimizer=None, steps=2):
    optimizer = optimizer or torch.optim.AdamW(parameter_groups(task, 0.1), lr=1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        task.training_step(torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(step))).backward()
        optimizer.step()
    return optimizer


def numbers(state):
    return {
        (place, name): value for place, values in state["state"].items() for name, value in values.items()
    }  # fmt: skip


@pytest.fixture
def both(mesh):
    torch.manual_seed(0)
    whole = Task()
    sharded = copy.deepcopy(whole)
    shard(sharded, mesh)
    return whole, sharded


def test_shards_leave_the_state_that_a_whole_optimiser_leaves(both):
    whole, sharded = both
    expected, found = stepped(whole).state_dict(), whole_state(sharded, stepped(sharded))
    assert found["param_groups"] == expected["param_groups"]
    assert list(found["state"]) == list(expected["state"])
    torch.testing.assert_close(numbers(found), numbers(expected))


def test_shards_go_on_with_the_state_of_a_whole_optimiser(both):
    whole, sharded = both
    state = stepped(copy.deepcopy(whole)).state_dict()
    optimizers = [torch.optim.AdamW(parameter_groups(task, 0.1), lr=1e-2) for task in both]
    optimizers[0].load_state_dict(copy.deepcopy(state))  # it would keep the tensors
    take_state(sharded, optimizers[1], state)
    for task, optimizer in zip(both, optimizers, strict=True):
        stepped(task, optimizer, 1)
    found = {name: value.full_tensor() for name, value in sharded.named_parameters()}
    torch.testing.assert_close(found, dict(whole.named_parameters()))


def test_the_gradients_norm_is_that_of_whole_gradients(both):
    for task in both:
        stepped(task, steps=1)
    norms = [gradient_norm(task) for task in both]
    assert type(norms[1]) is torch.Tensor
    torch.testing.assert_close(norms[1], norms[0])
