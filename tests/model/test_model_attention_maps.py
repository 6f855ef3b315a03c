"""Attention maps: the explicit softmax over all tokens, in memory that never holds it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from brainlm_lightning.model.attention_maps import Reading, cls_attention, encoder_layers, parcel_attention
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder

PARCELS, PATCHES, PATCH, HEADS, DEPTH = 6, 3, 5, 4, 3
NORMS = pytest.mark.parametrize("norm", ["pre", "post"])
READINGS = [Reading(), Reading((1,)), Reading((0, -1), (0, 2)), Reading(rollout=True), Reading(None, (3,), True)]


def build(norm="pre", parcels=PARCELS, patches=PATCHES, **changes):
    """A small model that looks at some tokens much more than at others."""
    torch.manual_seed(0)
    config = MAEConfig(PATCH, 16, DEPTH, HEADS, 16, 1, 2, norm=norm, **changes)
    model = MaskedAutoencoder(Geometry(torch.zeros(parcels, 3), patches * PATCH), config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return model.eval()


@pytest.fixture
def window():
    """Two windows, the second without data of parcels 1 and 4 (NaN there, which must not spread)."""
    signal_BPT = torch.randn(2, PARCELS, PATCHES * PATCH, generator=torch.Generator().manual_seed(1))
    observed_BP = torch.ones(2, PARCELS, dtype=torch.bool)
    observed_BP[1, [1, 4]] = False
    return signal_BPT.masked_fill(~observed_BP[:, :, None], torch.nan), observed_BP


def explicit(model, signal_PT, observed_P):
    """Every layer's softmax(q kᵀ / √d) over all tokens of the observed parcels by itself, (E, H, V, V), in float64."""
    model, found = model.double(), []
    tokens_PND = model.patch_projection(signal_PT.double().unflatten(1, (PATCHES, -1))) + model.position()
    x_LD = torch.cat([model.cls_D[None], tokens_PND[observed_P].flatten(0, 1)])
    for block in model.encoder.blocks:
        inside = block.norm_1(x_LD) if block.norm_place == "pre" else x_LD
        q, k, _ = (part.unflatten(1, (HEADS, -1)).transpose(0, 1) for part in block.attention.qkv(inside).chunk(3, 1))
        found.append(torch.exp(q @ k.mT / q.shape[-1] ** 0.5))
        found[-1] /= found[-1].sum(-1, keepdim=True)
        x_LD = block(x_LD[None])[0]
    model.float()
    return torch.stack(found).detach()


def between_units(weights_LL, observed_P):
    """The definition, unit by unit: mean over a unit's queries of the sum over the other's keys."""
    expected = torch.zeros(1 + PARCELS, 1 + PARCELS, dtype=torch.float64)
    place = {0: [0]}
    for rank, parcel in enumerate(observed_P.nonzero()[:, 0].tolist()):
        place[1 + parcel] = [1 + rank * PATCHES + n for n in range(PATCHES)]
    for a in range(1 + PARCELS):
        for b in range(1 + PARCELS):
            if a not in place:
                expected[a, b] = torch.nan
            elif b in place:
                expected[a, b] = weights_LL[place[a]][:, place[b]].sum(1).mean()
    return expected


@NORMS
def test_attention_of_cls_is_the_explicit_softmax(norm, window):
    model = build(norm)
    found = cls_attention(model, *window)
    for b in range(2):
        row_EHL = explicit(model, window[0][b], window[1][b])[:, :, 0]
        kept = found.patches_BlhPN[b][:, :, window[1][b]].flatten(2).double()
        torch.testing.assert_close(kept, row_EHL[..., 1:], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.itself_Blh[b].double(), row_EHL[..., 0], rtol=0, atol=1e-5)
    assert found.patches_BlhPN[1][:, :, [1, 4]].eq(0).all()
    total_BEH = found.itself_Blh + found.patches_BlhPN.sum(dim=(-1, -2))
    torch.testing.assert_close(total_BEH, torch.ones(2, DEPTH, HEADS))
    assert torch.equal(found.parcels_BlhP, found.patches_BlhPN.mean(-1))


@NORMS
@pytest.mark.parametrize("reading", READINGS)
def test_attention_between_parcels_is_that_of_the_explicit_softmax(norm, reading, window):
    model = build(norm)
    found = parcel_attention(model, *window, reading)
    for b in range(2):
        weights_EHLL = explicit(model, window[0][b], window[1][b])
        weights_ELL = weights_EHLL[:, list(reading.heads or range(HEADS))].mean(1)
        if reading.rollout:
            identity = torch.eye(weights_ELL.shape[-1], dtype=torch.float64)
            first, second, third = (weights_ELL + identity) / 2
            whole = third @ second @ first
        else:
            whole = weights_ELL[list(reading.layers or range(DEPTH))].mean(0)
        expected = between_units(whole, window[1][b])
        torch.testing.assert_close(found.units_Buu[b].double(), expected, rtol=0, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(found.units_Buu[0].sum(-1), torch.ones(1 + PARCELS))
    assert torch.equal(found.parcels_BPP[0], found.units_Buu[0, 1:, 1:])
    assert torch.equal(found.cls_BP, found.units_Buu[:, 0, 1:])


@NORMS
def test_the_layers_walked_are_those_of_the_encoder(norm, window):
    """The queries of the last layer follow from all before: they are those that the encoder itself makes."""
    model, seen = build(norm), []
    model.encoder.blocks[-1].attention.qkv.register_forward_hook(lambda module, given, made: seen.append(made))
    signal_BPT, observed_BP = window[0][:1], window[1][:1]
    *_, last = encoder_layers(model, signal_BPT, observed_BP)
    model.encode(signal_BPT, torch.zeros(1, PARCELS, PATCHES, dtype=torch.bool), observed_BP)
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-4)
    q_BLD = seen[1].chunk(3, dim=-1)[0] / (16 / HEADS) ** 0.5
    torch.testing.assert_close(last.q_BhLd.transpose(1, 2).flatten(2), q_BLD)


@pytest.mark.parametrize("reading", READINGS)
def test_permuting_parcels_with_their_embeddings_permutes_attention(reading, window):
    model, permuted, order = build(), build(), torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        permuted.position.spatial_PD.copy_(model.position.spatial_PD[order])
    moved = (window[0][:, order], window[1][:, order])
    straight, other = (
        parcel_attention(*given, reading).parcels_BPP for given in ((model, *window), (permuted, *moved))
    )
    torch.testing.assert_close(other, straight[:, order][:, :, order], equal_nan=True)
    straight, other = (cls_attention(*given).patches_BlhPN for given in ((model, *window), (permuted, *moved)))
    torch.testing.assert_close(other, straight[:, :, :, order])


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("reading", [Reading(), Reading(rollout=True)])
def test_memory_is_linear_in_the_tokens(reading):
    largest = {}
    for patches in (8, 32):
        model, signal_BPT = build(parcels=40, patches=patches), torch.randn(1, 40, patches * PATCH)
        with Largest() as seen:
            parcel_attention(model, signal_BPT, torch.ones(1, 40, dtype=torch.bool), reading)
        largest[patches] = seen.elements
    assert largest[32] <= 4.2 * largest[8]
    assert largest[32] < (1 + 40 * 32) ** 2 / 4  # one head's matrix, and there are four heads


def test_a_layer_or_head_that_is_not_there_is_an_error(window):
    with pytest.raises(ValueError, match="no layer 3: it has 3, numbered from 0"):
        parcel_attention(build(), *window, Reading(layers=(0, 3)))
    with pytest.raises(ValueError, match="no head -5: it has 4"):
        parcel_attention(build(), *window, Reading(heads=(-5,)))
    with pytest.raises(ValueError, match="rollout goes through all layers"):
        Reading(layers=(0,), rollout=True)
    with pytest.raises(ValueError, match="at least one each"):
        Reading(heads=())
