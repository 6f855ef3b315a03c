"""Which parameters decay, and how the learning rate moves."""

import math

import pytest
import torch
from torch import nn

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.tasks.optimisation import parameter_groups, warmup_cosine


def rates(total, warmup_fraction, final, peak=0.5):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = warmup_cosine(optimizer, total, warmup_fraction, final)
    seen = []
    for _ in range(total):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen, optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.05, 0.25])
def test_rate_rises_linearly_and_falls_along_half_a_cosine(warmup_fraction, final):
    total, warmup = 40, round(40 * warmup_fraction)
    rise = [0.5 * (step + 1) / (warmup + 1) for step in range(warmup)]
    fall = [
        0.5 * (final + (1 - final) * (1 + math.cos(math.pi * step / (total - warmup))) / 2)
        for step in range(total - warmup)
    ]
    seen, last = rates(total, warmup_fraction, final)
    assert seen == pytest.approx(rise + fall)
    assert seen[warmup] == 0.5  # the peak, where it was said
    assert last == pytest.approx(0.5 * final)


def test_rate_stays_at_its_last_value_after_the_end():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_cosine(optimizer, 10, 0.1, 0.2)
    for _ in range(25):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


def test_no_step_has_a_rate_of_zero_and_a_training_of_warm_up_alone_works():
    assert min(rates(20, 0.5, 0.0)[0]) > 0
    assert rates(4, 1.0, 0.0)[0] == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.fixture(params=["learnable", "xyz"])
def model(request):
    config = MAEConfig(10, 40, 1, 4, 40, 1, 4, spatial_embedding=request.param)
    return MaskedAutoencoder(Geometry(torch.zeros(8, 3), 40), config)


def test_every_parameter_is_in_one_group(model):
    groups = parameter_groups(model, 0.05)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]


def test_matrices_decay_and_embeddings_biases_norms_and_tokens_do_not(model):
    decay, keep = ({id(parameter) for parameter in group["params"]} for group in parameter_groups(model, 0.05))
    for name, parameter in model.named_parameters():
        lasting = name.endswith(("bias", "_PD", "_ND", "_D")) or "norm" in name
        assert (id(parameter) in keep) == lasting, name
        assert (id(parameter) in decay) == (not lasting), name


def test_frozen_parameters_are_left_out_and_empty_groups_too():
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    module[0].weight.requires_grad_(False)
    (group,) = parameter_groups(module, 0.1)
    assert group["weight_decay"] == 0.0
    assert len(group["params"]) == 3


def test_a_shared_matrix_is_counted_once():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    assert [len(group["params"]) for group in parameter_groups(module, 0.1)] == [1, 2]
