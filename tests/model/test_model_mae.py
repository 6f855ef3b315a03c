"""The masked autoencoder: what it may see, what it must not, and that windows never touch each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from brainlm_lightning.data.schedule import mix
from brainlm_lightning.model.embedding import Geometry, sinusoidal
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder, lengthened
from brainlm_lightning.model.masked import reconstruction_loss
from brainlm_lightning.model.masking import MASKINGS, Grid, draw_mask

WINDOWS, PARCELS, FRAMES, PATCH = 4, 8, 40, 10
PATCHES = FRAMES // PATCH
XYZ_MM = torch.from_numpy(np.random.default_rng(0).uniform(-80, 80, (PARCELS, 3))).float()
NETWORK_P = torch.arange(PARCELS) // 2
KEYS = torch.from_numpy(mix(np.arange(WINDOWS, dtype=np.uint64)).view(np.int64))
NARROW = {"embed_dim": 40, "depth": 2, "num_heads": 4, "decoder_embed_dim": 48, "decoder_depth": 1}


def build(parcels=PARCELS, frames=FRAMES, **changes):
    """A small model whose weights are large enough that everything that can matter does."""
    torch.manual_seed(0)
    xyz_mm = XYZ_MM if parcels == PARCELS else torch.zeros(parcels, 3)
    config = MAEConfig(**({"patch_frames": PATCH, "decoder_num_heads": 4} | NARROW | changes))
    model = MaskedAutoencoder(Geometry(xyz_mm, frames), config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture
def signal_BPT():
    return torch.randn(WINDOWS, PARCELS, FRAMES, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def observed_BP():
    """The first window is whole; others miss different numbers of parcels, so that windows differ in length."""
    observed_BP = torch.ones(WINDOWS, PARCELS, dtype=torch.bool)
    observed_BP[1, 2] = observed_BP[3, :3] = False
    return observed_BP


def mask(observed_BP, name="random", ratio=0.5):
    return draw_mask(name, KEYS[: len(observed_BP)], ratio, Grid(observed_BP, PATCHES, NETWORK_P))


def by_frame(mask_BPN):
    return mask_BPN.repeat_interleave(PATCH, dim=2)


@pytest.mark.parametrize("name", MASKINGS)
def test_hidden_and_unobserved_values_have_no_gradient(name, signal_BPT, observed_BP):
    hidden_BPN = mask(observed_BP, name)
    signal_BPT.requires_grad_()
    output = build()(signal_BPT, hidden_BPN, observed_BP)
    probe = torch.randn_like(output.prediction_BPT)
    ((output.prediction_BPT * probe).sum() + output.cls_BD.sum()).backward()
    unseen_BPT = by_frame(hidden_BPN | ~observed_BP[:, :, None])
    assert signal_BPT.grad[unseen_BPT].abs().max() == 0
    assert signal_BPT.grad[~unseen_BPT].abs().min() > 0


@pytest.mark.parametrize("name", MASKINGS)
@pytest.mark.parametrize("poison", [1e9, float("nan"), float("inf")])
def test_poisoned_hidden_values_change_nothing(name, poison, signal_BPT, observed_BP):
    model, hidden_BPN = build(), mask(observed_BP, name)
    clean = model(signal_BPT, hidden_BPN, observed_BP)
    poisoned = model(signal_BPT.masked_fill(by_frame(hidden_BPN), poison), hidden_BPN, observed_BP)
    assert torch.equal(poisoned.prediction_BPT, clean.prediction_BPT)
    assert torch.equal(poisoned.cls_BD, clean.cls_BD)


@pytest.mark.parametrize("poison", [1e9, float("nan")])
def test_poisoned_unobserved_parcels_change_nothing(poison, signal_BPT, observed_BP):
    model, hidden_BPN = build(), mask(observed_BP)
    clean = model(signal_BPT, hidden_BPN, observed_BP)
    poisoned = model(signal_BPT.masked_fill(~observed_BP[:, :, None], poison), hidden_BPN, observed_BP)
    assert torch.equal(poisoned.prediction_BPT, clean.prediction_BPT)
    assert torch.equal(poisoned.cls_BD, clean.cls_BD)


def test_an_unobserved_parcel_is_as_if_the_atlas_did_not_have_it(signal_BPT, observed_BP):
    """Not even where it would stand reaches the other parcels."""
    window, model, hidden_BPN = slice(3, 4), build(), mask(observed_BP)
    before = model(signal_BPT[window], hidden_BPN[window], observed_BP[window]).prediction_BPT
    with torch.no_grad():
        model.position.spatial_PD[:3] = 7
        model.decoder_position.spatial_PD[:3] = 7
    after = model(signal_BPT[window], hidden_BPN[window], observed_BP[window]).prediction_BPT
    torch.testing.assert_close(after[:, 3:], before[:, 3:])
    assert not torch.allclose(after[:, :3], before[:, :3])


@pytest.mark.parametrize("spatial", ["learnable", "xyz"])
def test_permuting_parcels_with_their_embeddings_permutes_the_prediction(spatial, signal_BPT, observed_BP):
    model, permuted = build(spatial_embedding=spatial), build(spatial_embedding=spatial)
    order, hidden_BPN = torch.randperm(PARCELS, generator=torch.Generator().manual_seed(2)), mask(observed_BP)
    with torch.no_grad():
        for position in (permuted.position, permuted.decoder_position):
            table = position.spatial_PD if spatial == "learnable" else position.xyz_dm
            table.copy_(table[order].clone())
    straight = model(signal_BPT, hidden_BPN, observed_BP)
    other = permuted(signal_BPT[:, order], hidden_BPN[:, order], observed_BP[:, order])
    torch.testing.assert_close(other.prediction_BPT, straight.prediction_BPT[:, order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other.cls_BD, straight.cls_BD, rtol=1e-5, atol=1e-5)


def test_with_nothing_hidden_the_summary_is_a_function_of_the_window_alone(signal_BPT, observed_BP):
    model = build(dropout=0.3)
    hidden_BPN = torch.zeros(WINDOWS, PARCELS, PATCHES, dtype=torch.bool)
    first = model(signal_BPT, hidden_BPN, observed_BP).cls_BD
    assert torch.equal(model(signal_BPT, hidden_BPN, observed_BP).cls_BD, first)
    others = torch.cat([signal_BPT[:1], 100 * torch.randn_like(signal_BPT[1:])])
    together = model(others, hidden_BPN, observed_BP).cls_BD
    torch.testing.assert_close(together[0], first[0], rtol=1e-5, atol=1e-5)
    assert (together[1] - first[1]).abs().max() > 0.1


def test_with_nothing_hidden_tokens_keep_their_natural_order(signal_BPT):
    everything = torch.ones(WINDOWS, PARCELS, dtype=torch.bool)
    nothing = torch.zeros(WINDOWS, PARCELS, PATCHES, dtype=torch.bool)
    encoding = build().encode(signal_BPT, nothing, everything)
    assert torch.equal(encoding.index_BV, torch.arange(PARCELS * PATCHES).expand(WINDOWS, -1))
    assert encoding.valid_BV.all()


def test_the_decoder_sees_the_encoders_summary(signal_BPT, observed_BP):
    model = build()
    encoding = model.encode(signal_BPT, mask(observed_BP), observed_BP)
    other = replace(encoding, cls_BD=encoding.cls_BD + torch.randn_like(encoding.cls_BD))
    assert (model.decode(other, observed_BP) - model.decode(encoding, observed_BP)).abs().max() > 0.01


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_windows_of_different_lengths_are_as_one_by_one(norm, signal_BPT, observed_BP):
    model, hidden_BPN = build(norm=norm), mask(observed_BP)
    hidden_BPN[0] = mask(observed_BP[:1], ratio=0.9)
    hidden_BPN[2] = True  # nothing visible beside windows that are
    together = model(signal_BPT, hidden_BPN, observed_BP)
    for window in range(WINDOWS):
        one = slice(window, window + 1)
        alone = model(signal_BPT[one], hidden_BPN[one], observed_BP[one])
        torch.testing.assert_close(together.prediction_BPT[one], alone.prediction_BPT, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together.cls_BD[one], alone.cls_BD, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ratio", [0, 1])
def test_nothing_and_everything_hidden_stay_finite(ratio, signal_BPT, observed_BP):
    model, hidden_BPN = build().train(), mask(observed_BP, ratio=ratio)
    output = model(signal_BPT, hidden_BPN, observed_BP)
    loss = reconstruction_loss(output.prediction_BPT, signal_BPT, hidden_BPN)
    loss.backward()
    assert output.prediction_BPT.isfinite().all()
    assert output.cls_BD.isfinite().all()
    assert (loss.item() == 0) == (ratio == 0)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("embeddings", [("learnable", "learnable"), ("xyz", "sinusoidal")])
@pytest.mark.parametrize("observed", [False, True])
def test_every_parameter_gets_a_gradient(norm, embeddings, observed, signal_BPT, observed_BP):
    """Distributed training waits forever for a parameter that gets none."""
    observed_BP = observed_BP | observed
    spatial, temporal = embeddings
    model = build(norm=norm, spatial_embedding=spatial, temporal_embedding=temporal).train()
    hidden_BPN = mask(observed_BP)
    output = model(signal_BPT, hidden_BPN, observed_BP)
    reconstruction_loss(output.prediction_BPT, signal_BPT, hidden_BPN).backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


def test_loss_is_a_mean_over_windows_of_means_over_scored_frames(signal_BPT, observed_BP):
    hidden_BPN = mask(observed_BP)
    hidden_BPN[0] = mask(observed_BP[:1], ratio=0.1)
    hidden_BPN[2] = False
    prediction_BPT = torch.randn(signal_BPT.shape, generator=torch.Generator().manual_seed(3))
    means = []
    for window in range(WINDOWS):
        errors = [
            (float(prediction_BPT[window, p, t]) - float(signal_BPT[window, p, t])) ** 2
            for p in range(PARCELS)
            for t in range(FRAMES)
            if hidden_BPN[window, p, t // PATCH]
        ]
        means.append(np.mean(errors) if errors else 0.0)
    loss = reconstruction_loss(prediction_BPT, signal_BPT, hidden_BPN)
    assert float(loss) == pytest.approx(np.mean(means), rel=1e-6)


def test_prediction_is_in_the_order_of_the_signal(signal_BPT, observed_BP):
    """The head of one token fills that token's frames: give each a constant and read it back."""
    model = build()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.arange(PATCH))
    prediction_BPT = model(signal_BPT, mask(observed_BP), observed_BP).prediction_BPT
    assert torch.equal(prediction_BPT, torch.arange(PATCH).float().repeat(PATCHES).expand_as(prediction_BPT))


@pytest.mark.parametrize(("parcels", "frames", "patch"), [(1, 40, 40), (3, 60, 20), (17, 21, 7), (2, 10, 1)])
def test_any_number_of_parcels_and_any_window_that_the_patch_divides(parcels, frames, patch):
    model = build(parcels, frames, patch_frames=patch)
    hidden_BPN = torch.zeros(2, parcels, frames // patch, dtype=torch.bool)
    hidden_BPN[:, 0, 0] = True
    observed_BP = torch.ones(2, parcels, dtype=torch.bool)
    prediction_BPT = model(torch.randn(2, parcels, frames), hidden_BPN, observed_BP).prediction_BPT
    assert prediction_BPT.shape == (2, parcels, frames)
    assert prediction_BPT.isfinite().all()


def test_a_patch_that_does_not_divide_the_window_is_an_error():
    with pytest.raises(ValueError, match=r"window of 40 frames does not divide into patches of 12"):
        build(patch_frames=12)


@pytest.mark.parametrize(("parcels", "frames"), [(7, 40), (8, 50), (40, 8)])
def test_a_signal_of_another_shape_is_an_error(parcels, frames):
    hidden_BPN = torch.zeros(2, parcels, PATCHES, dtype=torch.bool)
    message = rf"= \(2, {parcels}, {frames}\), the model was built for 8 parcels and 40 frames"
    with pytest.raises(ValueError, match=message):
        build()(torch.zeros(2, parcels, frames), hidden_BPN, torch.ones(2, parcels, dtype=torch.bool))


def test_sinusoidal_table_is_that_of_vaswani_et_al():
    table = sinusoidal(7, 11)
    for place in range(7):
        for k in range(11):
            angle = place / 10000 ** (2 * (k // 2) / 11)
            assert float(table[place, k]) == pytest.approx(np.sin(angle) if k % 2 == 0 else np.cos(angle), abs=1e-6)


@pytest.mark.parametrize(
    ("millions", "sizes"),
    [
        (13.3, {}),
        (111.3, {"embed_dim": 768, "depth": 12, "num_heads": 12, "decoder_depth": 8, "decoder_num_heads": 16}),
        (656.4, {"embed_dim": 1280, "depth": 32, "num_heads": 16, "decoder_depth": 8, "decoder_num_heads": 16}),
    ],
)
def test_models_have_the_papers_sizes(millions, sizes):
    config = MAEConfig(**sizes, mlp_ratio=4.0) if sizes else MAEConfig()
    with torch.device("meta"):
        model = MaskedAutoencoder(Geometry(torch.empty(424, 3), 200), config)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("temporal", ["learnable", "sinusoidal"])
def test_a_longer_window_changes_nothing_of_what_is_made_of_the_context(temporal, signal_BPT, observed_BP):
    model = build(temporal_embedding=temporal)
    longer = lengthened(model, FRAMES + 2 * PATCH)
    further_BPT = torch.cat([signal_BPT, torch.full((WINDOWS, PARCELS, 2 * PATCH), torch.nan)], dim=2)
    hidden_BPN = torch.zeros(WINDOWS, PARCELS, PATCHES + 2, dtype=torch.bool)
    hidden_BPN[:, :, PATCHES:] = True
    with torch.no_grad():
        cls_BD, states_BPND = longer.tokens(further_BPT, hidden_BPN, observed_BP)
        expected_BD, expected_BPND = model.tokens(signal_BPT, hidden_BPN[:, :, :PATCHES], observed_BP)
    torch.testing.assert_close(states_BPND[:, :, :PATCHES], expected_BPND, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cls_BD, expected_BD, rtol=1e-4, atol=1e-5)
    assert float(states_BPND[:, :, PATCHES:].abs().max()) == 0


def test_a_further_patch_is_decoded_as_the_last_one_until_it_is_learnt(signal_BPT, observed_BP):
    longer = lengthened(build(), FRAMES + PATCH)
    further_BPT = torch.cat([signal_BPT, torch.zeros(WINDOWS, PARCELS, PATCH)], dim=2)
    hidden_BPN = torch.zeros(WINDOWS, PARCELS, PATCHES + 1, dtype=torch.bool)
    hidden_BPN[:, :, PATCHES - 1 :] = True
    *_, last_BPS, further_BPS = longer(further_BPT, hidden_BPN, observed_BP).prediction_BPT.split(PATCH, dim=2)
    torch.testing.assert_close(further_BPS, last_BPS, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(further_BPS.sum(), longer.decoder_position.temporal_ND)
    assert float(gradient[PATCHES].abs().max()) > 0


def test_sines_go_on_in_a_longer_window():
    longer = lengthened(build(temporal_embedding="sinusoidal"), FRAMES + PATCH)
    torch.testing.assert_close(longer.position.temporal_ND[PATCHES], sinusoidal(PATCHES + 1, 40)[PATCHES])
    torch.testing.assert_close(longer.decoder_position.temporal_ND[PATCHES], sinusoidal(PATCHES + 1, 48)[PATCHES])


def test_a_lengthened_model_leaves_torchs_generator_as_it_was():
    model, before = build(), torch.random.get_rng_state()
    lengthened(model, FRAMES + PATCH)
    assert torch.equal(torch.random.get_rng_state(), before)
