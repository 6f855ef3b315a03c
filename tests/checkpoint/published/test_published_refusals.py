"""What is not exactly a published model is refused: nothing is ever imported in part."""

import pickle

import pytest
import torch
from random_weights import atlas_of, published_folder, reference_of

from brainlm_lightning.checkpoint.published.importing import DataOfModel, import_weights, save_imported

CONFIG = {
    "model_type": "brainlm_mae", "hidden_act": "gelu", "num_hidden_layers": 1, "decoder_num_hidden_layers": 1,
}  # fmt: skip
CONV = "vit.encoder.layer.0.attention.self.conv.weight"


@pytest.fixture(scope="module")
def weights():
    """Of one block on either side, as the config says."""
    return reference_of("checkpoint-1400", depth=1, decoder_depth=1).state_dict()


def changed(weights, drop=(), add=None):
    return {name: value for name, value in weights.items() if name not in drop} | (add or {})


def attempt(tmp_path, weights, config=CONFIG, name="model", **data):
    folder = published_folder(tmp_path / name, weights, config)
    return import_weights(folder, DataOfModel(**({"atlas": atlas_of()} | data)))


def test_the_unchanged_file_is_imported(weights, tmp_path):
    assert attempt(tmp_path, weights).report().startswith("loaded 54 of 54 tensors of 56 in the file; unused")


WRONG_TENSORS = {
    "missing": ({"drop": ["vit.layernorm.bias"]}, r"1 missing \(vit\.layernorm\.bias\), 0 not expected"),
    "a whole block missing": (
        {"drop": "decoder 0"},
        r"lacks a tensor 'decoder\.decoder_layers\.0\.attention\.self\.conv\.weight'",
    ),
    "extra": ({"add": {"decoder.extra": torch.zeros(2)}}, r"0 missing, 1 not expected \(decoder\.extra\)"),
    "misshapen": (
        {"add": {"decoder.decoder_pred2.bias": torch.zeros(21)}},
        r"1 of another shape \(decoder\.decoder_pred2\.bias \(21,\) instead of \(20,\)\)",
    ),
    "renamed": (
        {"drop": ["vit.layernorm.bias"], "add": {"vit.norm.bias": torch.zeros(256)}},
        r"1 missing \(vit\.layernorm\.bias\), 1 not expected \(vit\.norm\.bias\)",
    ),
    "not finite": ({"add": {"vit.layernorm.bias": torch.full((256,), torch.nan)}}, "values that are not finite"),
    "of whole numbers": ({"add": {"vit.layernorm.bias": torch.zeros(256, dtype=torch.int64)}}, "no tensor of real"),
    "fine-tuned": ({"add": {"mlp_pred_head.lin1.bias": torch.zeros(2)}}, "is a fine-tuned model"),
    "another model": ({"drop": ["vit.embeddings.signal_embedding_projection.weight"]}, "holds no published BrainLM"),
}


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_other_tensors_are_refused(case, weights, tmp_path):
    change, message = dict(WRONG_TENSORS[case][0]), WRONG_TENSORS[case][1]
    if change.get("drop") == "decoder 0":
        change["drop"] = [name for name in weights if name.startswith("decoder.decoder_layers.0.")]
    with pytest.raises(ValueError, match=message):
        attempt(tmp_path, changed(weights, **change))


def test_a_model_that_is_less_deep_than_the_published_one_is_refused_without_its_config(weights, tmp_path):
    with pytest.raises(ValueError, match=r"68 missing \(decoder\.decoder_layers\.1\..* and 62 more"):
        attempt(tmp_path, weights, config=None)


def test_a_folder_named_after_another_model_is_refused(weights, tmp_path):
    with pytest.raises(ValueError, match="vitmae_111M is of the family 'vitmae' and 768 wide, the file holds"):
        attempt(tmp_path, weights, name="vitmae_111M")


def test_a_config_with_another_meaning_is_refused(weights, tmp_path):
    with pytest.raises(ValueError, match="model_type is 'vit_mae', expected 'brainlm_mae'"):
        attempt(tmp_path, weights, config=CONFIG | {"model_type": "vit_mae"})


def test_the_folder_above_the_models_is_refused_with_their_names(weights, tmp_path):
    published_folder(tmp_path / "old_13M", weights)
    with pytest.raises(FileNotFoundError, match=r"name one of its folders \['old_13M'\]"):
        import_weights(tmp_path, DataOfModel(atlas_of()))


class Malicious:
    def __reduce__(self):
        return exec, ("open('ran', 'w')",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_is_refused_and_not_run(legacy, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {**weights, "extra": Malicious()}
    if legacy:
        (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="never loaded because unpickling them could run code"):
        import_weights(tmp_path, DataOfModel(atlas_of()))
    assert not (tmp_path / "ran").exists()


def test_damaged_files_are_refused_by_name(weights, tmp_path):
    folder = published_folder(tmp_path / "model", weights)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1000])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        import_weights(folder, DataOfModel(atlas_of()))


def test_another_atlas_is_refused(weights, tmp_path):
    with pytest.raises(ValueError, match=r"trained on 424 parcels \(A424\), the atlas 'A424' has 423"):
        attempt(tmp_path, weights, atlas=atlas_of(423))


def test_a_scaling_without_its_statistics_is_refused():
    with pytest.raises(ValueError, match="needs statistics of training subjects, which were never published"):
        DataOfModel(atlas_of(), scaling="robust")


def test_an_import_is_never_overwritten(weights, tmp_path):
    imported = attempt(tmp_path, weights)
    path = save_imported(imported.model, imported.about, tmp_path / "out.safetensors")
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="never overwritten"):
        save_imported(imported.model, imported.about, path)
    assert path.read_bytes() == before
