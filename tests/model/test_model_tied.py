from dataclasses import replace

import pytest
import torch

from brainlm_lightning.checkpoint.other_atlas import moved
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.kernel_start import split_width
from brainlm_lightning.model.tied import TiedAutoencoder, TiedConfig
from brainlm_lightning.model.tied_block import ParcelAttention

P, N, S, B = 12, 4, 5, 3
T = N * S
SMALL = TiedConfig(patch_frames=S, embed_dim=32, depth=2, num_heads=4)


class Group:
    """Training subjects in whom parcels 0 to 5 vary together, and 6 to 11."""

    covariance_PP = torch.block_diag(torch.full((6, 6), 0.8), torch.full((6, 6), 0.8)).double() + 0.2 * torch.eye(P)

    def autocovariance(self, lags):
        return 0.5 ** torch.arange(lags, dtype=torch.float64)


def model(start="kernel", config=SMALL):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = TiedAutoencoder(Geometry(torch.zeros(P, 3), T), config)
    net.start(start, Group(), 0)
    return net.eval()


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    signal_BPT = torch.randn(B, P, T, generator=generator)
    hidden_BPN = torch.rand(B, P, N, generator=generator) < 0.4
    observed_BP = torch.ones(B, P, dtype=torch.bool)
    observed_BP[1, 3] = False
    return signal_BPT, hidden_BPN, observed_BP


def naive(attention, x_PND, visible_PN, observed_P):
    """One window, one product at a time."""
    q, k, v = (part.unflatten(-1, (attention.num_heads, -1)) for part in attention.qkv(x_PND).chunk(3, dim=-1))
    mixed = torch.zeros_like(q)
    for head, little in enumerate(attention.hidden_weight_h.exp()):
        for asks in range(P):
            for n in range(N):
                logits = []
                for asked in range(P):
                    at = [other for other in range(N) if visible_PN[asked, other]] if attention.tied else [n]
                    products = [q[asks, other, head] @ k[asked, other, head] for other in at]
                    logits.append(sum(products) / max(len(at), 1) / q.shape[-1] ** 0.5)
                weights = [1.0 if visible_PN[p, n] else float(little) * bool(observed_P[p]) for p in range(P)]
                share = torch.stack([torch.as_tensor(each).exp() for each in logits]) * torch.tensor(weights)
                mixed[asks, n, head] = (share / share.sum()) @ v[:, n, head]
    return attention.output(mixed.flatten(2))


@pytest.mark.parametrize("tied", [True, False])
def test_attention_among_parcels_is_that_of_a_naive_loop(tied):
    torch.manual_seed(0)
    attention = ParcelAttention(16, 4, tied).double()
    _, hidden_BPN, observed_BP = drawn()
    visible_BPN = observed_BP[:, :, None] & ~hidden_BPN
    x_BPND = torch.randn(B, P, N, 16, dtype=torch.float64)
    with torch.no_grad():
        found = attention(x_BPND, visible_BPN, observed_BP)
        naively = [naive(attention, x_BPND[each], visible_BPN[each], observed_BP[each]) for each in range(B)]
    for window, expected in enumerate(naively):
        torch.testing.assert_close(found[window], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("start", ["kernel", "standard"])
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_hidden_or_unobserved_leaves_no_trace(start, tied):
    net = model(start, replace(SMALL, tied=tied))
    signal_BPT, hidden_BPN, observed_BP = drawn()
    lost_BPT = (hidden_BPN | ~observed_BP[:, :, None]).repeat_interleave(S, dim=2)
    with torch.no_grad():
        expected = net(signal_BPT, hidden_BPN, observed_BP)
        found = net(signal_BPT.masked_fill(lost_BPT, torch.nan), hidden_BPN, observed_BP)
    assert torch.equal(found.prediction_BPT[observed_BP], expected.prediction_BPT[observed_BP])
    assert torch.equal(found.cls_BD, expected.cls_BD)


def test_gradients_reach_every_weight_and_no_hidden_value():
    net = model("standard").train()
    signal_BPT, hidden_BPN, observed_BP = drawn()
    signal_BPT.requires_grad_()
    output = net(signal_BPT, hidden_BPN, observed_BP)
    output.prediction_BPT.square().sum().backward()
    hidden_BPT = hidden_BPN.repeat_interleave(S, dim=2)
    assert (signal_BPT.grad[hidden_BPT] == 0).all()
    assert (signal_BPT.grad[(~hidden_BPT) & observed_BP[:, :, None]] != 0).all()
    assert all(weight.grad is not None and (weight.grad != 0).any() for weight in net.parameters())


def test_a_window_is_the_same_beside_other_windows():
    net = model()
    signal_BPT, hidden_BPN, observed_BP = drawn()
    with torch.no_grad():
        together = net(signal_BPT, hidden_BPN, observed_BP).prediction_BPT[1:2]
        alone = net(signal_BPT[1:2], hidden_BPN[1:2], observed_BP[1:2]).prediction_BPT
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


def windows(seed, pair=()):
    """Windows of the group's covariance; in them the second parcel of the pair is the first."""
    generator = torch.Generator().manual_seed(seed)
    root_PP = torch.linalg.cholesky(Group.covariance_PP).float()
    signal_BPT = torch.einsum("pq,bqt->bpt", root_PP, torch.randn(40, P, T, generator=generator))
    if pair:
        signal_BPT[:, pair[1]] = signal_BPT[:, pair[0]]
    return signal_BPT


def predicted(net, signal_BPT, parcel):
    """Correlation of truth and prediction of a parcel's third patch, while it is hidden."""
    hidden_BPN = torch.zeros(len(signal_BPT), P, N, dtype=torch.bool)
    hidden_BPN[:, parcel, 2] = True
    with torch.no_grad():
        output = net(signal_BPT, hidden_BPN, torch.ones(len(signal_BPT), P, dtype=torch.bool))
    frames = slice(2 * S, 3 * S)
    pair = torch.stack([output.prediction_BPT[:, parcel, frames].flatten(), signal_BPT[:, parcel, frames].flatten()])
    return float(torch.corrcoef(pair)[0, 1])


def test_before_training_it_knows_the_group_and_the_window():
    net = model()
    assert predicted(net, windows(0), 2) > 0.8  # from parcels that vary with it in the group
    # Parcel 11 is parcel 0 in these windows, and has nothing to do with it in the group: so only the window tells.
    blind = model()
    subspaces = split_width(32, S, N, torch.Generator().manual_seed(0))
    projection_DD = torch.eye(32) - subspaces.signal @ subspaces.signal.T
    for block in blind.blocks:
        block.parcels.qkv.weight.data[:64] @= projection_DD  # queries and keys without the signal
    strange = windows(1, (0, 11))
    assert predicted(net, strange, 11) > predicted(blind, strange, 11) + 0.1


def test_on_another_atlas_with_the_same_parcels_in_another_order_it_says_the_same():
    net = model()
    order = torch.randperm(P, generator=torch.Generator().manual_seed(5))
    other = moved(net, net.geometry.xyz_mm[order], torch.eye(P, dtype=torch.float64)[order]).eval()
    signal_BPT, hidden_BPN, observed_BP = drawn()
    with torch.no_grad():
        expected = net(signal_BPT, hidden_BPN, observed_BP).prediction_BPT[:, order]
        found = other(signal_BPT[:, order], hidden_BPN[:, order], observed_BP[:, order]).prediction_BPT
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_width_that_is_too_narrow_is_refused():
    with pytest.raises(ValueError, match="a width of 8 is too narrow for the kernel start"):
        model(config=TiedConfig(patch_frames=S, embed_dim=8, depth=1, num_heads=2))
    with pytest.raises(ValueError, match="heads are 2 wide; the kernel start needs at least 3"):
        model(config=TiedConfig(patch_frames=S, embed_dim=32, depth=1, num_heads=16))
    with pytest.raises(ValueError, match="a width of 30 does not divide into 4 heads"):
        model(config=TiedConfig(patch_frames=S, embed_dim=30, depth=1, num_heads=4))
