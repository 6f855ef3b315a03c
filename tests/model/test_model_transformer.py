"""Attention and blocks beside torch's own, with the same weights: outputs and gradients."""

import pytest
import torch
from torch import nn

from brainlm_lightning.model.transformer import Attention, Block, Transformer

WIDTH, HEADS, TOKENS = 40, 4, 9
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def key_BL():
    """Some tokens of the second and third window may not be looked at."""
    key_BL = torch.ones(3, TOKENS, dtype=torch.bool)
    key_BL[1, 5:] = False
    key_BL[2, [0, 4]] = False
    return key_BL


def tokens():
    return torch.randn(3, TOKENS, WIDTH, dtype=torch.float64)


def copy(mine: Attention, theirs: nn.MultiheadAttention):
    pairs = {theirs.in_proj_weight: mine.qkv.weight, theirs.in_proj_bias: mine.qkv.bias}
    pairs |= {theirs.out_proj.weight: mine.output.weight, theirs.out_proj.bias: mine.output.bias}
    with torch.no_grad():
        for target, source in pairs.items():
            nn.init.normal_(source, std=0.3)
            target.copy_(source)
    return pairs


def gradients(output, probe, *inputs):
    return torch.autograd.grad((output * probe).sum(), inputs)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_torchs(masked, key_BL):
    mine, theirs = Attention(WIDTH, HEADS).double(), nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    pairs, x, probe = copy(mine, theirs), tokens().requires_grad_(), tokens()
    key_BL = key_BL if masked else None
    output = mine(x, key_BL)
    expected, _ = theirs(x, x, x, key_padding_mask=None if key_BL is None else ~key_BL)
    torch.testing.assert_close(output, expected, **CLOSE)
    got, wanted = gradients(output, probe, x, *pairs.values()), gradients(expected, probe, x, *pairs)
    torch.testing.assert_close(got, wanted, **CLOSE)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("masked", [False, True])
def test_block_is_torchs_encoder_layer(norm, masked, key_BL):
    mine = Block(WIDTH, HEADS, mlp_ratio=1.5, norm=norm).double()
    options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": norm == "pre"}
    theirs = nn.TransformerEncoderLayer(WIDTH, HEADS, 60, **options).double()
    pairs = copy(mine.attention, theirs.self_attn)
    parts = {"norm1": "norm_1", "norm2": "norm_2", "linear1": "mlp_input", "linear2": "mlp_output"}
    for their_name, my_name in parts.items():
        nn.init.normal_(getattr(mine, my_name).weight, std=0.3)
        nn.init.normal_(getattr(mine, my_name).bias, std=0.3)
        getattr(theirs, their_name).load_state_dict(getattr(mine, my_name).state_dict())
        pairs |= dict(zip(getattr(theirs, their_name).parameters(), getattr(mine, my_name).parameters(), strict=True))
    assert len(pairs) == len(list(mine.parameters())) == len(list(theirs.parameters()))
    x, probe = tokens().requires_grad_(), tokens()
    key_BL = key_BL if masked else None
    output, expected = mine(x, key_BL), theirs(x, src_key_padding_mask=None if key_BL is None else ~key_BL)
    torch.testing.assert_close(output, expected, **CLOSE)
    torch.testing.assert_close(
        gradients(output, probe, x, *pairs.values()), gradients(expected, probe, x, *pairs), **CLOSE
    )


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_transformer_is_its_blocks_and_a_last_norm(norm):
    transformer = Transformer(WIDTH, 3, HEADS, norm=norm).double()
    x = tokens()
    expected = x
    for block in transformer.blocks:
        expected = block(expected)
    if norm == "pre":
        variance = expected.var(-1, keepdim=True, correction=0)
        expected = (expected - expected.mean(-1, keepdim=True)) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(transformer(x), expected, **CLOSE)
    assert len(transformer.blocks) == 3


def test_nothing_reaches_a_token_from_where_it_may_not_look(key_BL):
    transformer = Transformer(WIDTH, 2, HEADS)
    x = torch.randn(3, TOKENS, WIDTH, requires_grad=True)
    output = transformer(x, key_BL)[key_BL]
    (gradient,) = torch.autograd.grad((output * torch.randn_like(output)).sum(), x)
    assert gradient[~key_BL].abs().max() == 0
    assert gradient[key_BL].abs().min() > 0


def test_dropout_is_for_training_alone():
    block, x = Block(WIDTH, HEADS, dropout=0.5), torch.randn(2, TOKENS, WIDTH)
    assert not torch.equal(block(x), block(x))
    assert torch.equal(block.eval()(x), block(x))
    plain = Block(WIDTH, HEADS)
    plain.load_state_dict(block.state_dict())
    torch.testing.assert_close(block(x), plain(x))


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="a width of 40 does not divide into 3 heads"):
        Attention(40, 3)
