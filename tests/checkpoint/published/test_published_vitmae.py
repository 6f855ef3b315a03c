import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from random_weights import atlas_of, published_folder
from transformers.models.vit_mae.configuration_vit_mae import ViTMAEConfig
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEForPreTraining

from brainlm_lightning.checkpoint.published.importing import DataOfModel, import_weights
from brainlm_lightning.checkpoint.published.vitmae import config_of, expected_shapes, translate
from brainlm_lightning.embedding.calibration import CalibrationPlan, calibrated
from brainlm_lightning.embedding.one_line import EmbeddingModel

SHAPES = Path(__file__).with_name("published_shapes.json")
SIZES = {  # with one block on either side
    "vitmae_111M": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "patch_size": 16},
    "vitmae_650M": {"hidden_size": 1280, "num_attention_heads": 16, "intermediate_size": 5120, "patch_size": 14},
}
SIDES = {"vitmae_111M": 432, "vitmae_650M": 434}
FEW = {"model_type": "vit_mae", "num_hidden_layers": 1, "decoder_num_hidden_layers": 1}


def reference_of(name):
    config = ViTMAEConfig(
        **SIZES[name], image_size=SIDES[name], num_hidden_layers=1, decoder_num_hidden_layers=1,
        decoder_hidden_size=512, decoder_intermediate_size=2048, decoder_num_attention_heads=16, layer_norm_eps=1e-12,
        mask_ratio=0.75, attn_implementation="eager",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = ViTMAEForPreTraining(config).eval()
        for value in reference.parameters():
            value.data.add_(0.05 * torch.randn_like(value))
    return reference


def image_of(signal_BPT, atlas, side, gain):
    """The published preparation, in numpy: sort by y, pad with −1, three channels."""
    y = [float(value) for value in atlas.parcels["y_mm"]]
    order = sorted(range(len(y)), key=lambda parcel: y[parcel])
    top, left = (side - 424) // 2, (side - 200) // 2
    image = np.full((len(signal_BPT), 3, side, side), -1.0)
    image[:, :, top : top + 424, left : left + 200] = (signal_BPT.numpy() * gain)[:, None, order]
    return torch.tensor(image), order, top, left


@pytest.fixture(scope="module", params=["vitmae_111M", "vitmae_650M"])
def twins(request, tmp_path_factory):
    """The reference with random weights, and its import."""
    reference = reference_of(request.param)
    folder = published_folder(tmp_path_factory.mktemp("vitmae") / request.param, reference.state_dict(), FEW)
    atlas = atlas_of()
    atlas.parcels["y_mm"] = (atlas.parcels["y_mm"] / 4).round()  # many ties, as in A424: the sort must be stable
    imported = import_weights(folder, DataOfModel(atlas), {"input_gain": 0.5})
    return request.param, reference, imported, atlas


def windows():
    signal_BPT = torch.randn(1, 424, 200, generator=torch.Generator().manual_seed(1))
    return signal_BPT, torch.ones(1, 424, dtype=torch.bool)


def apart(one, other):
    return float(((one - other).abs().max() / other.abs().max()).detach())


def test_outputs_and_gradients_are_those_of_the_reference(twins):
    name, reference, imported, atlas = twins
    reference, model = deepcopy(reference).double(), deepcopy(imported.model).double()
    signal_BPT = windows()[0].double()
    pixels, order, top, left = image_of(signal_BPT, atlas, SIDES[name], 0.5)
    noise = torch.rand(1, model.grid.across**2, generator=torch.Generator().manual_seed(2))
    out = reference(pixels, noise=noise)
    latent = reference.vit(pixels, noise=noise).last_hidden_state
    image = reference.unpatchify(out.logits).mean(1)
    theirs = torch.empty_like(signal_BPT)
    theirs[:, order] = image[:, top : top + 424, left : left + 200] / 0.5
    visible_L = (out.mask[0] == 0).nonzero()[:, 0]
    encoded_BVD = model.encode_image(signal_BPT, visible_L)
    ours = model.decode_image(encoded_BVD, visible_L)
    assert apart(ours, theirs) < 1e-5
    assert apart(encoded_BVD[:, 0], latent[:, 0]) < 1e-5
    for prediction_BPT in (theirs, ours):
        (prediction_BPT - signal_BPT).square().mean().backward()
    grads = {key: value.grad for key, value in reference.named_parameters() if value.grad is not None}
    frozen = {key: value for key, value in reference.state_dict().items() if key not in grads}
    assert sorted(frozen) == ["decoder.decoder_pos_embed", "vit.embeddings.position_embeddings"]
    expected = translate({**grads, **frozen}, model.config, torch.zeros(0))
    for key, value in model.named_parameters():
        largest = expected[key].abs().max()
        assert float((value.grad - expected[key]).abs().max() / largest) < 1e-5, key


def test_what_is_hidden_leaves_no_trace(twins):
    model = imported_model(twins)
    signal_BPT, observed_BP = windows()
    hidden_BPN = torch.zeros(1, 424, 10, dtype=torch.bool)
    hidden_BPN[:, 100:130, -2:] = True
    spoilt_BPT = signal_BPT.clone()
    spoilt_BPT[:, 100:130, 160:] = torch.nan
    with torch.no_grad():
        before = model(signal_BPT, hidden_BPN, observed_BP).prediction_BPT
        assert torch.equal(model(spoilt_BPT, hidden_BPN, observed_BP).prediction_BPT, before)
        visible_BPT = model(signal_BPT, hidden_BPN & False, observed_BP).prediction_BPT
    assert not torch.equal(visible_BPT, before)


def test_a_square_with_a_hidden_value_is_hidden_as_a_whole(twins):
    model = imported_model(twins)
    signal_BPT, observed_BP = windows()
    parcel, neighbour = model.grid.order_P[[20, 18]].tolist()  # of one square, in both models
    hidden_BPN = torch.zeros(1, 424, 10, dtype=torch.bool)
    hidden_BPN[:, parcel, -2:] = True
    changed_BPT = signal_BPT.clone()
    changed_BPT[:, neighbour, 165] += 5
    with torch.no_grad():
        before = model(signal_BPT, hidden_BPN, observed_BP).prediction_BPT
        assert torch.equal(model(changed_BPT, hidden_BPN, observed_BP).prediction_BPT, before)


def imported_model(twins):
    return twins[2].model


def test_images_are_taken_apart_and_put_together(twins):
    grid = imported_model(twins).grid
    signal_BPT, _ = windows()
    assert torch.equal(grid.signal(grid.patches(signal_BPT)), signal_BPT)
    assert int(grid.carries_signal().sum()) == {432: 351, 434: 465}[grid.side]


def test_windows_are_embedded_but_parcels_are_not(twins):
    imported = twins[2]
    model = EmbeddingModel(imported.model, imported.about)
    recording = np.random.default_rng(0).normal(size=(200, 424))
    found = model.embed(recording, tr_s=0.735, atlas="A424")
    assert set(found) == {"cls", "mean", "mean_std", "connectivity"}
    assert all(np.isfinite(value).all() for value in found.values())
    with pytest.raises(ValueError, match="tokens hold several parcels each"):
        model.embed(recording, tr_s=0.735, atlas="A424", embeddings=["gram"])
    with pytest.raises(ValueError, match="cannot be calibrated: each of its tokens holds several parcels"):
        calibrated(model, None, CalibrationPlan())
    with pytest.raises(ValueError, match="no embedding of a parcel, and no attention between parcels"):
        imported.model.embed(*windows())


@pytest.mark.parametrize("name", SIZES)
def test_expected_tensors_are_the_published_ones(name):
    published = {key: tuple(shape) for key, shape in json.loads(SHAPES.read_text())[name].items()}
    weights = {key: torch.empty(shape, device="meta") for key, shape in published.items()}
    assert expected_shapes(config_of(weights, {}, name)) == published


def test_settings_of_the_other_family_are_refused(twins, tmp_path):
    folder = published_folder(tmp_path / "model", twins[1].state_dict(), FEW)
    with pytest.raises(ValueError, match="a VitMAEConfig has no encoding_order"):
        import_weights(folder, DataOfModel(atlas_of()), {"encoding_order": "natural"})
