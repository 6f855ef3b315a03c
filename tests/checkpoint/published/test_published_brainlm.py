import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_weights import atlas_of, published_folder, reference_of

from brainlm_lightning.checkpoint.pretrained import load_model
from brainlm_lightning.checkpoint.published.brainlm import config_of, expected_shapes, translate
from brainlm_lightning.checkpoint.published.importing import DataOfModel, import_weights, save_imported
from brainlm_lightning.model.attention_maps import cls_attention
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.published.brainlm import BrainLM

PARCELS, KEPT = 24, 180  # of 240 tokens
SHAPES = Path(__file__).with_name("published_shapes.json")


def twins(options=None, seed=0):
    """The reference with random weights, our model with the same, and the coordinates."""
    reference = reference_of("checkpoint-1400", seed)
    weights = reference.state_dict()
    config = config_of(weights, {}, "test")
    config = replace(config, **(options or {}))
    xyz_mm = torch.tensor(atlas_of(PARCELS).xyz_mm)
    model = BrainLM(Geometry(xyz_mm, 200), config)
    model.load_state_dict(translate(weights, config, xyz_mm))
    return reference.double(), model.double().eval(), xyz_mm.double()


def windows(seed=1):
    generator = torch.Generator().manual_seed(seed)
    signal_BPT = torch.randn(2, PARCELS, 200, generator=generator, dtype=torch.float64)
    return signal_BPT, torch.ones(2, PARCELS, dtype=torch.bool)


def masked_twins(reference, model, xyz_mm):
    """Both models on the same windows with the same noise: the order of our model's tokens is the reference's noise."""
    signal_BPT, observed_BP = windows()
    rank_L = model.rank_KL[0]
    noise_BL = rank_L.double().expand(2, -1)
    hidden_BPN = (rank_L >= KEPT).reshape(PARCELS, 10).expand(2, -1, -1)
    theirs = reference(signal_BPT, xyz_mm, noise_BL, KEPT)
    ours = model(signal_BPT, hidden_BPN, observed_BP)
    return theirs, ours, signal_BPT, hidden_BPN


def apart(one, other):
    return float(((one - other).abs().max() / other.abs().max()).detach())


def test_outputs_are_those_of_the_reference():
    (theirs, latent), ours, *_ = masked_twins(*twins())
    assert apart(ours.prediction_BPT, theirs) < 1e-5
    assert apart(ours.cls_BD, latent[:, 0]) < 1e-5


def test_gradients_are_those_of_the_reference():
    reference, model, xyz_mm = twins()
    (theirs, _), ours, signal_BPT, hidden_BPN = masked_twins(reference, model, xyz_mm)
    hidden_BPT = hidden_BPN.repeat_interleave(20, dim=2)
    for prediction_BPT in (theirs, ours.prediction_BPT):
        (prediction_BPT - signal_BPT)[hidden_BPT].square().mean().backward()
    published = {name: value.grad for name, value in reference.named_parameters()}
    assert [name for name, grad in published.items() if grad is None] == [
        "decoder.decoder_pred.weight",
        "decoder.decoder_pred.bias",
    ]
    buffers = dict(reference.named_buffers())
    expected = translate({**published, **buffers}, model.config, xyz_mm)
    grads = {name: value.grad for name, value in model.named_parameters()}
    assert None not in grads.values()
    for name, grad in grads.items():
        # Our coordinates are in dm, so our weight is 100 times theirs, and its gradient a hundredth.
        scale = 100 * 100 if name.endswith("xyz_projection.weight") else 1
        largest = expected[name].abs().max()
        if largest > 1e-9:  # the gradient of the keys' bias is 0 but for rounding
            assert float((grad * scale - expected[name].double()).abs().max() / largest) < 1e-5, name


def test_the_encoder_depends_on_the_order_through_the_convolution_alone():
    _, natural, _ = twins({"encoding_order": "natural"})
    _, shuffled, _ = twins()
    inputs = windows()
    assert apart(shuffled.embed(*inputs).cls_BD, natural.embed(*inputs).cls_BD) > 1e-3
    for model in (natural, shuffled):
        for name, value in model.named_parameters():
            if name.endswith("attention.conv.weight"):
                value.data.zero_()
    assert apart(shuffled.embed(*inputs).cls_BD, natural.embed(*inputs).cls_BD) < 1e-10


def test_an_average_over_orders_is_the_mean_of_the_single_orders():
    _, averaged, _ = twins({"shuffles": 2, "order_seed": 5})
    _, single, _ = twins()
    inputs = windows()
    each = []
    for rank_L in averaged.rank_KL:
        single.rank_KL = rank_L[None]
        each.append(single.embed(*inputs))
    found = averaged.embed(*inputs)
    assert apart(found.cls_BD, torch.stack([one.cls_BD for one in each]).mean(0)) < 1e-10
    assert apart(found.parcel_BPD, torch.stack([one.parcel_BPD for one in each]).mean(0)) < 1e-10
    assert apart(each[0].cls_BD, each[1].cls_BD) > 1e-3


def test_attention_maps_are_those_of_the_shuffled_model_in_natural_order():
    reference, model, xyz_mm = twins()
    signal_BPT, observed_BP = windows()
    shuffle = model.rank_KL[0].argsort()
    kept, weights = [], []
    for layer in reference.vit.encoder.layer:
        layer.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    reference(signal_BPT, xyz_mm, model.rank_KL[0].double().expand(2, -1), 240)
    for layer, x in zip(reference.vit.encoder.layer, kept, strict=True):
        weights.append(layer.attention.self(x, output_attentions=True)[1][:, :, 0])
    expected_BlhL = torch.stack(weights, dim=1)
    found = cls_attention(model, signal_BPT, observed_BP)
    assert apart(found.itself_Blh, expected_BlhL[..., 0]) < 1e-5
    assert apart(found.patches_BlhPN.flatten(-2)[..., shuffle], expected_BlhL[..., 1:]) < 1e-5


def test_gain_and_offset_scale_the_input_and_are_undone_in_the_prediction():
    _, plain, _ = twins()
    _, scaled, _ = twins({"input_gain": 7.0, "input_offset": 0.5})
    signal_BPT, observed_BP = windows()
    hidden_BPN = torch.rand(2, PARCELS, 10, generator=torch.Generator().manual_seed(0)) < 0.5
    expected = (plain(signal_BPT * 7 + 0.5, hidden_BPN, observed_BP).prediction_BPT - 0.5) / 7
    assert apart(scaled(signal_BPT, hidden_BPN, observed_BP).prediction_BPT, expected) < 1e-6


def test_unobserved_parcels_and_hidden_values_leave_no_trace():
    _, model, _ = twins()
    signal_BPT, observed_BP = windows()
    observed_BP = observed_BP.clone()
    observed_BP[0, 3] = False
    hidden_BPN = torch.zeros(2, PARCELS, 10, dtype=torch.bool)
    hidden_BPN[:, 5, 2] = True
    before = model(signal_BPT, hidden_BPN, observed_BP).prediction_BPT
    spoilt_BPT = signal_BPT.clone()
    spoilt_BPT[0, 3], spoilt_BPT[:, 5, 40:60] = torch.nan, torch.nan
    after = model(spoilt_BPT, hidden_BPN, observed_BP).prediction_BPT
    assert torch.equal(before, after)


def test_a_window_is_the_same_beside_windows_with_more_tokens():
    _, model, _ = twins()
    signal_BPT, observed_BP = windows()
    observed_BP = observed_BP.clone()
    observed_BP[0, 3] = False  # its sequence is padded to the other's length
    hidden_BPN = torch.zeros(2, PARCELS, 10, dtype=torch.bool)
    together = model(signal_BPT, hidden_BPN, observed_BP)
    alone = model(signal_BPT[:1], hidden_BPN[:1], observed_BP[:1])
    assert apart(together.prediction_BPT[:1], alone.prediction_BPT) < 1e-10
    assert apart(together.cls_BD[:1], alone.cls_BD) < 1e-10


@pytest.mark.parametrize("name", ["checkpoint-1400", "old_13M"])
def test_expected_tensors_are_the_published_ones(name):
    published = {key: tuple(shape) for key, shape in json.loads(SHAPES.read_text())[name].items()}
    weights = {key: torch.empty(shape, device="meta") for key, shape in published.items()}
    assert expected_shapes(config_of(weights, {}, name)) == published
    assert {key: tuple(value.shape) for key, value in reference_of(name).state_dict().items()} == published


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", ["checkpoint-1400", "old_13M"])
def test_an_import_describes_itself(name, binary, tmp_path):
    weights = reference_of(name).state_dict()
    imported = import_weights(published_folder(tmp_path / name, weights, binary=binary), DataOfModel(atlas_of()))
    assert imported.report() == (
        "loaded 122 of 122 tensors of 124 in the file; unused, as in the published code: "
        "decoder.decoder_pred.weight, decoder.decoder_pred.bias"
    )
    path = save_imported(imported.model, imported.about, tmp_path / "model.safetensors")
    model, about = load_model(path)
    assert isinstance(model, BrainLM)
    assert about == json.loads(json.dumps(imported.about))
    assert (about["parcels"]["atlas"], about["tr_s"], about["window_frames"]) == ("A424", 0.735, 200)
    here, there = imported.model.state_dict(), model.state_dict()
    assert all(torch.equal(here[key], there[key]) for key in here)
