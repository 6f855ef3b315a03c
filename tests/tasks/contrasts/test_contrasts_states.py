import numpy as np
import pytest
import torch

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.masking import Grid, draw_mask
from brainlm_lightning.tasks.contrasts.exchange import HIDDEN_SHARE, exchange, exchange_numbers
from brainlm_lightning.tasks.contrasts.states import Match

B, P, T, S = 3, 6, 20, 5
SEEN = torch.ones(B, P, dtype=torch.bool)


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "depth": 1, "num_heads": 2, "decoder_embed_dim": 16, "decoder_depth": 2}
    config = MAEConfig(patch_frames=S, decoder_num_heads=2, **sizes)
    net = MaskedAutoencoder(Geometry(torch.randn(P, 3) * 30, T), config).eval()
    with torch.no_grad():
        for linear in (module for module in net.modules() if isinstance(module, torch.nn.Linear)):
            linear.weight.mul_(15)  # so that states differ, and tokens listen to one another, without training
    return net


@pytest.fixture
def windows():
    return torch.randn(2, B, P, T, generator=torch.Generator().manual_seed(1)) * 2 + 1


def hidden_by_hand(model, signal_PT, mask_PN):
    """The reconstruction of one window from its visible patches alone, hidden ones replaced by noise."""
    noise = torch.randn(P, T, generator=torch.Generator().manual_seed(5))
    mask_PT = mask_PN.repeat_interleave(S, dim=1)
    with torch.no_grad():
        return model(torch.where(mask_PT, noise, signal_PT)[None], mask_PN[None], SEEN[:1]).prediction_BPT[0]


def test_every_patch_of_a_decoded_hidden_window_follows_from_the_other_half_alone(model, windows):
    match = Match(model, "decoded_hidden", windows[1], SEEN)
    halves = match._half_BPN[0]
    assert sorted(halves.flatten().tolist()) == [0] * (P * T // S // 2) + [1] * (P * T // S // 2)
    for window in range(B):
        assert torch.equal(match._half_BPN[window], halves)
        for half in (0, 1):
            mask_PN = halves == half
            expected = hidden_by_hand(model, windows[1, window], mask_PN)
            mask_PT = mask_PN.repeat_interleave(S, dim=1)
            torch.testing.assert_close(match.goal[window][mask_PT], expected[mask_PT], rtol=1e-4, atol=1e-4)


def test_the_distance_of_tokens_is_that_of_the_encoders_output(model, windows):
    nothing = torch.zeros(B, P, T // S, dtype=torch.bool)
    with torch.no_grad():
        one, other = (model.encode(windows[side], nothing, SEEN).tokens_BVD for side in (0, 1))
        found = Match(model, "tokens", windows[1], SEEN).distance(windows[0])
    torch.testing.assert_close(found, (one - other).square().mean((1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["tokens", "decoded_hidden"])
def test_an_unobserved_parcel_counts_in_no_distance(target, model, windows):
    seen = SEEN.clone()
    seen[:, 2] = False
    poisoned = windows.clone()
    poisoned[:, :, 2] = 1e4
    with torch.no_grad():
        found, other = (Match(model, target, both[1], seen).distance(both[0]) for both in (windows, poisoned))
    assert torch.equal(found, other)
    assert (found > 0).all()


def exchanged_by_hand(model, first, second, part):
    """One pair, with hooks in place of the model's own encoding: what the decoder reads is exchanged there."""
    hidden = draw_mask("random", torch.zeros(1, dtype=torch.int64), HIDDEN_SHARE, Grid(SEEN[:1], T // S))
    kept = []
    watch = model.decoder.register_forward_pre_hook(lambda module, given: kept.append(given[0].clone()))
    with torch.no_grad():
        own, _ = (model(x[None], hidden, SEEN[:1]).prediction_BPT for x in (first, second))
    watch.remove()
    place = slice(0, 1) if part == "cls" else slice(1, None)

    def swap(module, given):
        tokens = given[0].clone()
        tokens[:, place] = kept[1][:, place]
        return (tokens, *given[1:])

    swapping = model.decoder.register_forward_pre_hook(swap)
    with torch.no_grad():
        changed = model(first[None], hidden, SEEN[:1]).prediction_BPT
    swapping.remove()
    mask = hidden.repeat_interleave(S, dim=2)
    return float((changed - own)[mask].square().mean() / first[None][mask].var(correction=0))


@pytest.mark.parametrize("part", ["cls", "token"])
def test_an_exchange_is_what_it_does_to_the_decoders_input(part, model, windows):
    found = getattr(exchange(model, *windows, SEEN), f"{part}_swap_B")
    for pair in range(B):
        expected = exchanged_by_hand(model, windows[0, pair], windows[1, pair], part)
        assert float(found[pair]) == pytest.approx(expected, rel=1e-3)
        assert expected > 1e-4


def test_exchanging_what_nobody_reads_changes_nothing(model, windows):
    """A decoder that is deaf to CLS: its keys get no weight."""
    with torch.no_grad():
        deaf = exchange(silenced(model), *windows, SEEN)
    assert float(deaf.cls_swap_B.max()) == 0
    assert float(deaf.token_swap_B.min()) > 0.01


def silenced(model):
    """The decoder without CLS among its tokens, which the head never reads itself."""
    decoder = model.decoder.forward

    def without_cls(tokens_BLD, key_BL=None):
        return torch.cat([tokens_BLD[:, :1], decoder(tokens_BLD[:, 1:], key_BL)], dim=1)

    model.decoder.forward = without_cls
    return model


def test_an_exchange_with_oneself_changes_nothing(model, windows):
    found = exchange(model, windows[0], windows[0], SEEN)
    assert float(found.cls_swap_B.max()) == float(found.token_swap_B.max()) == 0


def test_numbers_are_means_over_the_chosen_pairs_with_an_interval_over_subjects():
    values, subjects = np.array([0.1, 0.2, 0.6, 9.0]), np.array(["a", "b", "a", "c"])
    found = {"mae/cls_swap_B": values, "mae/token_swap_B": 2 * values}
    numbers = exchange_numbers(found, "mae", np.array([True, True, True, False]), subjects)
    assert numbers["cls_swap_mse"] == pytest.approx(0.3)
    assert numbers["token_swap_mse"] == pytest.approx(0.6)
    assert 0.2 <= numbers["cls_swap_mse_low"] < 0.3 < numbers["cls_swap_mse_high"] <= 0.35
    assert exchange_numbers({}, "vae", np.array([True]), np.array(["a"])) == {}
