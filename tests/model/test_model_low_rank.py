import copy

import pytest
import torch

from brainlm_lightning.model.low_rank import LowRank, adapt_attention, merged
from brainlm_lightning.model.transformer import Transformer

WIDTH, DEPTH = 12, 2


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return Transformer(WIDTH, DEPTH, num_heads=3).double().eval()


def learnt(plain, plan=LowRank(rank=2, alpha=6.0)):
    """A copy with adapters that have learnt something."""
    encoder = copy.deepcopy(plain)
    adapt_attention(encoder, plan)
    for name, value in encoder.named_parameters():
        if name.endswith("up.weight"):
            torch.nn.init.normal_(value)
    return encoder.double()


def tokens(number=5):
    return torch.randn(2, number, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_new_adapters_change_nothing(plain):
    encoder = copy.deepcopy(plain)
    adapt_attention(encoder, LowRank())
    assert torch.equal(encoder(tokens()), plain(tokens()))


@pytest.mark.parametrize("layer", ["qkv", "output"])
def test_a_correction_is_alpha_over_rank_times_the_factors_product(plain, layer):
    """A naive loop over inputs, outputs and ranks."""
    linear = getattr(learnt(plain).blocks[1].attention, layer)
    factors = linear.parametrizations.weight[0]
    up_OR, down_RI = factors.up.weight, factors.down.weight
    expected_OI = getattr(plain.blocks[1].attention, layer).weight.clone()
    for o in range(len(expected_OI)):
        for i in range(WIDTH):
            expected_OI[o, i] += 6 / 2 * sum(up_OR[o, r] * down_RI[r, i] for r in range(2))
    assert torch.allclose(linear.weight, expected_OI, atol=1e-12)
    assert torch.linalg.matrix_rank(linear.weight - linear.parametrizations.weight.original) == 2


def test_merged_weights_are_those_of_a_plain_model_with_the_same_output(plain):
    encoder = learnt(plain)
    other = copy.deepcopy(plain)
    other.load_state_dict(merged(encoder.state_dict()), strict=True)
    assert torch.allclose(other(tokens()), encoder(tokens()), atol=1e-6)
    assert not torch.allclose(other(tokens()), plain(tokens()), atol=1e-2)


def test_what_reads_weights_sees_them_adapted(plain):
    """Asking other tokens slices `qkv.weight`; see `Attention._heads_across`."""
    encoder, other = learnt(plain), copy.deepcopy(plain)
    other.load_state_dict(merged(encoder.state_dict()))
    wanted = torch.tensor([[0, 3], [4, 1]])
    assert torch.allclose(encoder.some(tokens(), wanted), other.some(tokens(), wanted), atol=1e-6)


def test_a_state_without_adapters_stays_as_it_is(plain):
    state = plain.state_dict()
    assert all(value is state[name] for name, value in merged(state).items())
    assert merged(state).keys() == state.keys()


def test_a_rank_that_no_adapter_can_have_is_one_error(plain):
    with pytest.raises(ValueError, match=r"low_rank.rank is 13; expected at most 12"):
        adapt_attention(plain, LowRank(rank=13))
    with pytest.raises(ValueError, match=r"rank 0 and alpha 16.0"):
        LowRank(rank=0)
