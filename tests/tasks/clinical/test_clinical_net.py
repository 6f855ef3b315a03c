import copy

import pytest
import torch

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.low_rank import LowRank
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.masking import Grid, deal_tokens
from brainlm_lightning.tasks.clinical.net import HeadPlan, PhenotypeHead, PhenotypeModel, mean_token
from brainlm_lightning.tasks.optimisation import layerwise_groups

P, N, T = 6, 4, 40
KEYS = torch.tensor([3, 5])
OBSERVED = torch.ones(2, P, dtype=torch.bool)


@pytest.fixture
def net():
    torch.manual_seed(0)
    config = MAEConfig(patch_frames=10, embed_dim=16, depth=2, num_heads=2, decoder_embed_dim=16, decoder_depth=1)
    return MaskedAutoencoder(Geometry(torch.zeros(P, 3), T), config).eval()


def windows():
    return torch.randn(2, P, T, generator=torch.Generator().manual_seed(1))


def visible(*shape):
    return torch.zeros(*shape, dtype=torch.bool)


@pytest.mark.parametrize("parts", [1, 3, 4])
def test_every_token_is_dealt_once_and_parts_are_even(parts):
    part_BPN = deal_tokens(KEYS, Grid(OBSERVED, N), parts)
    sizes = torch.stack([(part_BPN == part).sum((1, 2)) for part in range(parts)])
    assert sizes.sum(0).tolist() == [P * N] * 2
    assert int(sizes.max() - sizes.min()) <= 1
    assert parts == 1 or not torch.equal(part_BPN[0], part_BPN[1])


def test_observed_tokens_are_dealt_evenly_where_parcels_are_missing():
    observed = torch.tensor([[True, True, False, False, False, True]])
    dealt = deal_tokens(KEYS[:1], Grid(observed, N), 4)[observed]
    assert torch.bincount(dealt.flatten()).tolist() == [3, 3, 3, 3]


def test_the_mean_token_leaves_padding_out(net):
    hidden = visible(2, P, N)
    hidden[0, :3] = True
    encoding = net.encode(windows(), hidden, OBSERVED)
    alone = net.encode(windows()[:1], hidden[:1], OBSERVED[:1])
    assert torch.allclose(mean_token(encoding)[0], alone.tokens_BVD[0].mean(0), atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean", "attention"])
def test_a_frozen_encoder_gets_no_gradient_and_a_tuned_one_all_but_its_decoder(net, pooling):
    for tuned in ("none", "qkv", "all"):
        model = PhenotypeModel(net, 1, HeadPlan(pooling, 0.0, 8), tuned)
        net.zero_grad(set_to_none=True)
        model(windows(), visible(2, P, N), OBSERVED).sum().backward()
        touched = {name.split(".")[0] for name, value in net.named_parameters() if value.grad is not None}
        everything = {"patch_projection", "position", "cls_D", "encoder"}
        assert touched == {"none": set(), "qkv": {"encoder"}, "all": everything}[tuned]
        learning = [name for name, value in net.named_parameters() if value.grad is not None]
        assert tuned != "qkv" or all(".attention.qkv." in name for name in learning)
        trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        assert trained == {id(parameter) for layer in model.layers() for parameter in layer}


def test_with_adapters_the_encoder_is_the_frozen_one_at_the_start(net):
    frozen = PhenotypeModel(copy.deepcopy(net), 1, HeadPlan("mean", 0.4, 8), "none").eval()
    adapted = PhenotypeModel(net, 1, HeadPlan("mean", 0.4, 8), "low_rank").eval()
    given = windows(), visible(2, P, N), OBSERVED
    assert torch.equal(adapted.feature(*given), frozen.feature(*given))


def test_with_adapters_so_many_numbers_learn(net):
    """Of two blocks of width 16, rank 3: from 16 to 48 values and from 16 to 16; beside the head's."""
    model = PhenotypeModel(net, 1, HeadPlan("attention", 0.4, 8), "low_rank", LowRank(rank=3))
    by_layer = [sum(parameter.numel() for parameter in layer) for layer in model.layers()]
    head = sum(parameter.numel() for part in (model.head, model.probe) for parameter in part.parameters())
    assert by_layer == [head, 3 * (16 + 48 + 16 + 16), 3 * (16 + 48 + 16 + 16), 0]
    assert sum(by_layer) == sum(value.numel() for value in model.parameters() if value.requires_grad)


def test_an_adapters_factors_decay_as_other_weights_do(net):
    model = PhenotypeModel(net, 1, HeadPlan("cls", 0.4, 8), "low_rank")
    groups = layerwise_groups(model, model.layers(), 1.0, 0.1, 0.5)
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    assert {id(value) for name, value in net.named_parameters() if value.requires_grad} <= decayed


def test_dropout_of_the_plan_is_in_encoder_and_head_and_a_frozen_encoder_has_none(net):
    tuned = PhenotypeModel(net, 1, HeadPlan("cls", 0.4, 8), "all")
    assert [block.dropout.p for block in net.encoder.blocks] == [0.4, 0.4]
    assert all(block.dropout.training for block in net.encoder.blocks)
    assert sum(isinstance(layer, torch.nn.Dropout) and layer.p == 0.4 for layer in tuned.head.layers) == 3
    assert sum(isinstance(layer, torch.nn.Linear) for layer in tuned.head.layers) == 3
    PhenotypeModel(net, 1, HeadPlan("cls", 0.4, 8), "none").train()
    assert not any(block.dropout.training for block in net.encoder.blocks)
    with pytest.raises(ValueError, match=r"head.dropout is 1.0"):
        HeadPlan(dropout=1.0)


def test_a_head_sees_standardised_features():
    head = PhenotypeHead(16, 1, HeadPlan(hidden=8)).eval()
    features = torch.randn(50, 16) * 3 + 100
    head.standardise(features.mean(0), features.std(0))
    standard = (features - features.mean(0)) / features.std(0)
    assert torch.allclose(head(features), head.layers(standard), atol=1e-4)


def test_the_learning_rate_shrinks_from_layer_to_layer(net):
    model = PhenotypeModel(net, 1, HeadPlan("cls", 0.4, 8), "all")
    groups = layerwise_groups(model, model.layers(), 1.0, 0.1, 0.5)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    assert rate[id(model.head.layers[1].weight)] == 1
    assert rate[id(net.encoder.norm.weight)] == rate[id(net.encoder.blocks[1].mlp_input.weight)] == 0.5
    assert rate[id(net.encoder.blocks[0].mlp_input.weight)] == 0.25
    assert rate[id(net.cls_D)] == rate[id(net.patch_projection.weight)] == 0.125
    assert id(net.patch_projection.weight) in decayed
    assert id(net.cls_D) not in decayed
