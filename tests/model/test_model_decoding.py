"""The decoders: what may be asked, and that leaving out what nobody reads changes nothing."""

import pytest
import torch
from test_model_mae import FRAMES, KEYS, PARCELS, PATCHES, WINDOWS, build, by_frame, mask
from torch import nn

from brainlm_lightning.model.mae import MAEConfig
from brainlm_lightning.model.masked import reconstruction_loss
from brainlm_lightning.model.masking import Grid, counter_noise, draw_mask, draw_share
from brainlm_lightning.model.transformer import Attention

DEEP = {"decoder_depth": 2}


@pytest.fixture
def signal_BPT():
    return torch.randn(WINDOWS, PARCELS, FRAMES, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def observed_BP():
    """The second window misses one parcel, the last three: windows differ in length."""
    observed_BP = torch.ones(WINDOWS, PARCELS, dtype=torch.bool)
    observed_BP[1, 2] = observed_BP[3, :3] = False
    return observed_BP


BOTH = pytest.mark.parametrize("decoder", ["joint", "cross"])


@pytest.mark.parametrize("norm", ["pre", "post"])
@BOTH
def test_wanted_patches_are_predicted_as_among_all(decoder, norm, signal_BPT, observed_BP):
    model = build(decoder=decoder, norm=norm, **DEEP)
    hidden_BPN = mask(observed_BP)
    wanted_BPN = draw_share(KEYS, hidden_BPN, 0.3)
    whole_BPT = model(signal_BPT, hidden_BPN, observed_BP).prediction_BPT
    part_BPT = model.reconstruct(signal_BPT, hidden_BPN, observed_BP, wanted_BPN).prediction_BPT
    wanted_BPT = by_frame(wanted_BPN)
    torch.testing.assert_close(part_BPT[wanted_BPT], whole_BPT[wanted_BPT], rtol=1e-5, atol=1e-6)
    assert not part_BPT[~wanted_BPT].any()


@BOTH
def test_the_loss_of_hidden_patches_and_its_gradients_are_the_same_without_the_others(
    decoder,
    signal_BPT,
    observed_BP,
):
    hidden_BPN, found = mask(observed_BP), []
    for some in (False, True):
        model = build(decoder=decoder, **DEEP).double()
        given = (signal_BPT.double(), hidden_BPN, observed_BP)
        output = model.reconstruct(*given, hidden_BPN) if some else model(*given)
        loss = reconstruction_loss(output.prediction_BPT.double(), given[0], hidden_BPN)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        found.append([loss, *gradients])
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-8)


def test_a_hidden_token_never_learns_which_others_are_hidden(signal_BPT, observed_BP):
    """A prediction is a function of the token's place and of the visible tokens: other wishes change nothing."""
    model, hidden_BPN = build(decoder="cross", **DEEP), mask(observed_BP)
    alone_BPN = torch.zeros_like(hidden_BPN)
    alone_BPN[:, :, 0] = hidden_BPN[:, :, 0]
    few, many = (
        model.reconstruct(signal_BPT, hidden_BPN, observed_BP, wanted_BPN).prediction_BPT
        for wanted_BPN in (alone_BPN, hidden_BPN)
    )
    torch.testing.assert_close(few[by_frame(alone_BPN)], many[by_frame(alone_BPN)], rtol=1e-5, atol=1e-6)


def test_in_the_cross_decoder_nothing_flows_from_hidden_places(signal_BPT, observed_BP):
    """The decoder's position of a parcel that is hidden and not wanted has no gradient; in the joint one it has."""
    hidden_BPN = torch.zeros(len(signal_BPT), PARCELS, PATCHES, dtype=torch.bool)
    hidden_BPN[:, :2] = True
    wanted_BPN = hidden_BPN.clone()
    wanted_BPN[:, 1] = False
    found = {}
    for decoder in ("joint", "cross"):
        model = build(decoder=decoder, **DEEP)
        output = model.reconstruct(signal_BPT, hidden_BPN, torch.ones_like(observed_BP), wanted_BPN)
        (gradient_PD,) = torch.autograd.grad(output.prediction_BPT.square().sum(), model.decoder_position.spatial_PD)
        found[decoder] = gradient_PD.abs().amax(1) > 0
    assert found["joint"].all()
    assert found["cross"].tolist() == [True, False, *[True] * (PARCELS - 2)]


@pytest.mark.parametrize("name", ["random", "parcels", "future"])
def test_the_cross_decoder_reads_no_hidden_value(name, signal_BPT, observed_BP):
    hidden_BPN = mask(observed_BP, name)
    signal_BPT.requires_grad_()
    output = build(decoder="cross", **DEEP)(signal_BPT, hidden_BPN, observed_BP)
    (gradient_BPT,) = torch.autograd.grad(output.prediction_BPT.square().sum(), signal_BPT)
    visible_BPT = by_frame(~hidden_BPN & observed_BP[:, :, None])
    assert torch.equal(gradient_BPT != 0, visible_BPT)


def test_windows_with_fewer_tokens_are_decoded_as_alone(signal_BPT, observed_BP):
    model, hidden_BPN = build(decoder="cross", **DEEP), mask(observed_BP)
    together_BPT = model(signal_BPT, hidden_BPN, observed_BP).prediction_BPT
    for window in range(len(signal_BPT)):
        one = slice(window, window + 1)
        alone_BPT = model(signal_BPT[one], hidden_BPN[one], observed_BP[one]).prediction_BPT
        torch.testing.assert_close(together_BPT[one], alone_BPT, rtol=1e-4, atol=1e-5)


def test_attention_to_others_is_that_of_torch():
    torch.manual_seed(0)
    mine, theirs = Attention(40, 4), nn.MultiheadAttention(40, 4, batch_first=True)
    with torch.no_grad():
        for target, source in (
            (theirs.in_proj_weight, mine.qkv.weight),
            (theirs.in_proj_bias, mine.qkv.bias),
            (theirs.out_proj.weight, mine.output.weight),
            (theirs.out_proj.bias, mine.output.bias),
        ):
            nn.init.normal_(source, std=0.3)
            target.copy_(source)
    x_BLD, memory_BMD = torch.randn(3, 5, 40), torch.randn(3, 9, 40)
    key_BM = torch.rand(3, 9) < 0.6
    key_BM[:, 0] = True
    expected = theirs(x_BLD, memory_BMD, memory_BMD, key_padding_mask=~key_BM, need_weights=False)[0]
    torch.testing.assert_close(mine(x_BLD, key_BM, memory_BMD), expected, rtol=1e-5, atol=1e-6)


def test_both_decoders_have_the_same_tensors():
    joint, cross = ({name: value.shape for name, value in build(decoder=name).state_dict().items()} for name in
                    ("joint", "cross"))  # fmt: skip
    assert joint == cross


def test_another_decoder_is_refused():
    with pytest.raises(ValueError, match="decoder is 'crossed'; expected joint or cross"):
        MAEConfig(decoder="crossed")


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_share_of_hidden_tokens_is_drawn_anew_for_each_window_and_depends_on_its_key_alone(share, observed_BP):
    hidden_BPN = mask(observed_BP)
    drawn_BPN = draw_share(KEYS, hidden_BPN, share)
    assert not (drawn_BPN & ~hidden_BPN).any()
    counts = hidden_BPN.flatten(1).sum(1).double()
    assert drawn_BPN.flatten(1).sum(1).tolist() == (counts * share).round().tolist()
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(draw_share(KEYS[order], hidden_BPN[order], share), drawn_BPN[order])
    assert share == 1 or not torch.equal(drawn_BPN[0], draw_share(KEYS[1:2], hidden_BPN[:1], share)[0])


def test_which_are_drawn_does_not_follow_from_how_they_were_hidden():
    """Of 4,000 tokens half are hidden, a quarter of them drawn: the noise that hid them is alike in both."""
    hidden_BPN = draw_mask("random", KEYS[:1], 0.5, Grid(torch.ones(1, 1000, dtype=torch.bool), 4))
    drawn_BPN = draw_share(KEYS[:1], hidden_BPN, 0.25)
    noise_BPN = counter_noise(KEYS[:1], 4000).double().view(1, 1000, 4) / 2**63
    assert float(noise_BPN[drawn_BPN].mean()) == pytest.approx(float(noise_BPN[hidden_BPN].mean()), abs=0.02)
