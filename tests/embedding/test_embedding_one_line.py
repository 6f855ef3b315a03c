import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import brainlm_lightning
from brainlm_lightning.checkpoint.description import KEY, describe
from brainlm_lightning.checkpoint.reference import REFERENCE, training_reference
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.embedding.archive import EmbeddingPlan, embed_files
from brainlm_lightning.embedding.definitions import default_embeddings
from brainlm_lightning.embedding.inputs import prepared
from brainlm_lightning.embedding.one_line import UnlikeTraining
from brainlm_lightning.embedding.recordings import embed_recordings
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder

SMALL = MAEConfig(patch_frames=10, embed_dim=40, depth=1, num_heads=2, decoder_embed_dim=40, decoder_depth=1)


def ready(scaling="robust"):
    data = CohortDataModule("tiny", window_frames=20, global_batch_size=4, num_workers=0, scaling=scaling)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, strategy=strategy, accumulate_grad_batches=1)
    data.setup("fit")
    return data


def saved(data, path):
    """A model with random weights that knows the data of a cohort."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MaskedAutoencoder(Geometry(torch.tensor(data.stores[0].atlas.xyz_mm), 20), SMALL).eval()
    save_file(net.state_dict(), path, metadata={KEY: json.dumps(describe(net, data))})
    return net


@pytest.fixture
def one(tiny_store, tmp_path):
    """A model, its file, its data and a raw recording of it."""
    data = ready()
    path = tmp_path / "model.safetensors"
    return SimpleNamespace(net=saved(data, path), path=path, data=data, raw=data.stores[0].raw(3))


@pytest.mark.parametrize("scaling", ["robust", "robust_centred", "recording_zscore", "none"])
def test_a_recording_is_embedded_as_in_its_cohort(scaling, tiny_store, tmp_path):
    data = ready(scaling)
    net = saved(data, tmp_path / "model.safetensors")
    atlas = data.stores[0].atlas
    named = default_embeddings(atlas.networks.tolist(), "none")
    named = {name: embedding for name, embedding in named.items() if not embedding.needs}
    expected = embed_recordings(net, data, np.array([3]), named)
    model = brainlm_lightning.load(tmp_path / "model.safetensors")
    found = model.embed(data.stores[0].raw(3), tr_s=1.0, atlas=atlas)
    assert found.keys() == expected.keys() >= {"cls", "mean", "mean_std", "gram", "network_gram", "connectivity"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value[0], rel=1e-4, abs=1e-4), name


def test_a_recording_of_another_tr_is_resampled(one):
    model = brainlm_lightning.load(one.path)
    frames = np.arange(161)  # at 0.5 s: the frames of 1 s and those between them
    slow = np.stack([np.sin(2 * np.pi * 0.03 * (1 + 0.05 * p) * frames * 0.5 + p) for p in range(16)], axis=1)
    slow = 100 + 5 * slow
    dense = model.embed(slow, tr_s=0.5, atlas=model.about["parcels"]["atlas"], embeddings=["connectivity"])
    sparse = model.embed(slow[::2], tr_s=1.0, atlas=model.about["parcels"]["atlas"], embeddings=["connectivity"])
    wrong = model.embed(slow, tr_s=1.0, atlas=model.about["parcels"]["atlas"], embeddings=["connectivity"])
    assert dense["connectivity"] == pytest.approx(sparse["connectivity"], abs=0.1)
    assert abs(wrong["connectivity"] - sparse["connectivity"]).max() > 0.5


def test_columns_of_a_file_are_put_in_order_by_their_names(one, tmp_path):
    atlas = one.data.stores[0].atlas
    labels = atlas.parcels["label"].tolist()
    table = pd.DataFrame(one.raw, columns=labels)
    table[labels[::-1]].to_csv(tmp_path / "turned.csv", index=False)
    model = brainlm_lightning.load(one.path)
    found = model.embed(tmp_path / "turned.csv", tr_s=1.0, embeddings=["cls"])
    assert found["cls"] == pytest.approx(model.embed(one.raw, tr_s=1.0, atlas=atlas)["cls"], abs=1e-4)


def test_a_volume_is_embedded_by_the_label_image_of_the_atlas(one, tmp_path):
    ids = one.data.stores[0].atlas.parcels["index"].to_numpy()
    labels = np.zeros((5, 4, 4), np.int16)
    labels[:4, :, :2] = ids.reshape(4, 4, 1)  # two voxels a parcel, some of none
    image = np.zeros((*labels.shape, len(one.raw)), np.float32)
    image[:4, :, :2] = one.raw.T.reshape(4, 4, 1, -1) + np.array([-2.0, 2.0])[:, None]
    volume = nib.Nifti1Image(image, np.diag([3, 3, 3, 1]))
    volume.header.set_xyzt_units("mm", "sec")
    volume.header.set_zooms((3, 3, 3, 1))
    nib.save(volume, tmp_path / "sub-01_bold.nii.gz")
    nib.save(nib.Nifti1Image(labels, np.diag([3, 3, 3, 1])), tmp_path / "atlas.nii.gz")
    model = brainlm_lightning.load(one.path)
    found = model.embed(
        tmp_path / "sub-01_bold.nii.gz", atlas=one.data.stores[0].atlas, label_image=tmp_path / "atlas.nii.gz"
    )
    expected = model.embed(one.raw, tr_s=1.0, atlas=one.data.stores[0].atlas)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-3), name
    with pytest.raises(ValueError, match="a volume needs the atlas's label image"):
        model.embed(tmp_path / "sub-01_bold.nii.gz", atlas=one.data.stores[0].atlas)


def test_parcel_series_of_cifti_are_put_in_order_by_their_names(one, tmp_path):
    atlas = one.data.stores[0].atlas
    order = np.random.default_rng(0).permutation(16)
    vertices = [nib.cifti2.BrainModelAxis.from_surface([p], 16, "CIFTI_STRUCTURE_CORTEX_LEFT") for p in order]
    parcels = nib.cifti2.ParcelsAxis.from_brain_models(list(zip(atlas.parcels["label"][order], vertices, strict=True)))
    time = nib.cifti2.SeriesAxis(0, 1.0, len(one.raw))
    nib.save(nib.Cifti2Image(one.raw[:, order], (time, parcels)), tmp_path / "sub-01.ptseries.nii")
    model = brainlm_lightning.load(one.path)
    found = model.embed(tmp_path / "sub-01.ptseries.nii", embeddings=["cls", "gram"])
    expected = model.embed(one.raw, tr_s=1.0, atlas=atlas, embeddings=["cls", "gram"])
    assert found["cls"] == pytest.approx(expected["cls"], abs=1e-4)
    assert found["gram"] == pytest.approx(expected["gram"], abs=1e-4)


def test_gaps_and_dead_parcels_are_taken_as_in_prepare():
    raw = np.random.default_rng(0).normal(100, 3, (50, 4)).astype(np.float32)
    raw[:, 2] = 7
    raw[10] = np.nan
    stored = prepared(raw, 1.0, 1.0)
    assert stored.observed.tolist() == [True, True, False, True]
    middle = (raw[9] + raw[11]) / 2
    assert (stored.series[10] + stored.mean)[[0, 1, 3]] == pytest.approx(middle[[0, 1, 3]], rel=1e-5)
    with pytest.raises(ValueError, match="none of 4 parcels has data"):
        prepared(np.ones((50, 4), np.float32), 1.0, 1.0)


REFUSED = {
    "no atlas": ({"tr_s": 1.0}, "does not say what its columns are; give atlas"),
    "no tr_s": ({"atlas": "own"}, "give tr_s"),
    "another atlas": ({"tr_s": 1.0, "atlas": "A424"}, "in atlas 'A424', the checkpoint in '.*' \\(16 parcels\\)"),
    "turned": ({"tr_s": 1.0, "atlas": "own", "orientation": "parcels_frames"}, r"the array is \(60, 16\), expected"),
    "too short": ({"tr_s": 0.1, "atlas": "own"}, "has 6 frames at the checkpoint's tr_s of 1.0 s; a window has 20"),
    "no place alone": ({"tr_s": 1.0, "atlas": "own", "embeddings": ["covariance"]}, "place among training recordings"),
    "unknown embedding": ({"tr_s": 1.0, "atlas": "own", "embeddings": ["clss"]}, "no embedding 'clss'; there are cls"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case, one):
    options, message = dict(REFUSED[case][0]), REFUSED[case][1]
    model = brainlm_lightning.load(one.path)
    if options.get("atlas") == "own":
        options["atlas"] = model.about["parcels"]["atlas"]
    with pytest.raises(ValueError, match=message):
        model.embed(one.raw, **options)


def test_an_atlas_with_other_centroids_is_refused(one):
    atlas = one.data.stores[0].atlas
    moved = type(atlas)(atlas.name, atlas.parcels.assign(x_mm=atlas.parcels["x_mm"] + 1))
    with pytest.raises(ValueError, match="parcels, their order or their centroids differ"):
        brainlm_lightning.load(one.path).embed(one.raw, tr_s=1.0, atlas=moved)


def test_a_model_moves_to_the_atlas_of_a_recording(tiny_store, tmp_path):
    data = ready("recording_zscore")
    saved(data, tmp_path / "model.safetensors")
    model, raw, own = (
        brainlm_lightning.load(tmp_path / "model.safetensors"),
        data.stores[0].raw(3),
        data.stores[0].atlas,
    )
    order = np.random.default_rng(0).permutation(16)
    turned = type(own)("turned", own.parcels.iloc[order].reset_index(drop=True))
    moved = model.on(turned, width_mm=0.5)
    found = moved.embed(raw[:, order], tr_s=1.0, atlas="turned", embeddings=["cls", "parcels"])
    expected = model.embed(raw, tr_s=1.0, atlas=own, embeddings=["cls", "parcels"])
    assert found["cls"] == pytest.approx(expected["cls"], abs=1e-4)
    assert moved.about["started_from"] == {
        "atlas": own.name,
        "parcels_sha256": own.sha256,
        "mapping": "position",
        "width_mm": 0.5,
    }
    turned.parcels.rename(columns={f"{axis}_mm": axis for axis in "xyz"}).to_csv(tmp_path / "turned.csv", index=False)
    np.save(tmp_path / "raw.npy", raw[:, order])
    settings = {"tr_s": 1.0, "atlas": "turned", "parcels": tmp_path / "turned.csv", "embeddings": ["cls"]}
    plan = EmbeddingPlan(
        (str(tmp_path / "raw.npy"),), str(tmp_path / "model.safetensors"), tmp_path / "e.npz", **settings
    )
    with np.load(embed_files(plan)) as archive:
        wide = model.on(turned).embed(raw[:, order], tr_s=1.0, atlas="turned", embeddings=["cls"])
        assert np.array_equal(archive["cls"][0], wide["cls"])


def test_a_model_with_statistics_of_parcels_does_not_move_by_itself(one):
    model, own = brainlm_lightning.load(one.path), one.data.stores[0].atlas
    turned = type(own)("turned", own.parcels.iloc[::-1].reset_index(drop=True))
    with pytest.raises(ValueError, match="scales by 'robust', with statistics of its own parcels"):
        model.on(turned)
    assert model.on(own) == model


def test_a_recording_that_looks_unlike_the_training_is_named_with_its_numbers(tiny_store, tmp_path):
    data, path = ready(), tmp_path / "model.safetensors"
    net = saved(data, path)
    raw, atlas = data.stores[0].raw(int(data.train_rows[0])), data.stores[0].atlas
    bare = brainlm_lightning.load(path)
    assert bare.unlike(bare.windows(raw, 1.0)) is None  # it does not know what its training recordings look like
    about = describe(net, data) | {REFERENCE: training_reference(data)}
    save_file(net.state_dict(), path, metadata={KEY: json.dumps(about)})
    model = brainlm_lightning.load(path)
    model.embed(raw, tr_s=1.0, atlas=atlas)  # warns of nothing
    loud = raw.mean(0) + 9 * (raw - raw.mean(0))
    with pytest.warns(UnlikeTraining, match=r"(?s)the recording looks unlike .* standard deviation, .*: .*, training "):
        model.embed(loud, tr_s=1.0, atlas=atlas)
    common = raw + 9 * raw.std() * np.random.default_rng(0).normal(0, 1, (len(raw), 1))
    assert any("mean correlation of two" in line for line in model.unlike(model.windows(common, 1.0)))
    for name, series in (("fine", raw), ("loud", loud)):
        np.save(tmp_path / f"{name}.npy", series)
    files = tuple(str(tmp_path / f"{name}.npy") for name in ("fine", "loud"))
    plan = EmbeddingPlan(files, str(path), tmp_path / "e.npz", tr_s=1.0, atlas=atlas.name, embeddings=("cls",))
    with np.load(embed_files(plan)) as archive:
        assert archive["unlike_training"][0] == ""
        assert "standard deviation" in archive["unlike_training"][1]


def test_an_archive_is_of_windows_encoded_in_the_parts_that_its_plan_says(one, tmp_path):
    np.save(tmp_path / "bare.npy", one.raw)
    atlas, chosen = one.data.stores[0].atlas.name, ("gram", "completed_connectivity")
    plan = EmbeddingPlan(
        (str(tmp_path / "bare.npy"),), str(one.path), tmp_path / "e.npz", 1.0, atlas, embeddings=chosen, parts=2
    )
    model = brainlm_lightning.load(one.path)
    whole = model.embed(one.raw, tr_s=1.0, atlas=atlas, embeddings=["gram"])
    halves = model.embed(one.raw, tr_s=1.0, atlas=atlas, embeddings=chosen, parts=2)
    with np.load(embed_files(plan)) as archive:
        assert not np.allclose(archive["gram"][0], whole["gram"])
        for name in chosen:
            assert np.array_equal(archive[name][0], halves[name])


def test_a_file_that_names_no_columns_needs_an_atlas(one, tmp_path):
    np.save(tmp_path / "bare.npy", one.raw)
    model = brainlm_lightning.load(one.path)
    with pytest.raises(ValueError, match=r"bare\.npy: nothing in the file says that its columns are"):
        model.embed(tmp_path / "bare.npy", tr_s=1.0)
    named = model.embed(tmp_path / "bare.npy", tr_s=1.0, atlas=model.about["parcels"]["atlas"])
    assert np.isfinite(named["cls"]).all()


def test_loading_from_nowhere_says_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="name a folder, a file, or hf://OWNER/NAME"):
        brainlm_lightning.load(tmp_path / "absent")
    with pytest.raises(ValueError, match="expected hf://OWNER/NAME"):
        brainlm_lightning.load("hf://brainlm")


def test_the_hub_without_its_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'brainlm-lightning\[hub\]'"):
        brainlm_lightning.load("hf://vandijklab/brainlm/old_13M")


def test_a_model_of_the_hub_is_downloaded_by_its_folder(one, monkeypatch):
    import huggingface_hub

    asked = {}
    folder = one.path.parent

    def download(repository, allow_patterns):
        asked.update(repository=repository, patterns=allow_patterns)
        (folder / "sub").mkdir()
        one.path.rename(folder / "sub" / "model.safetensors")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert brainlm_lightning.load("hf://someone/model/sub").model.name == "mae"
    patterns = ["sub/*.safetensors", "sub/*.bin", "sub/*.json"]
    assert asked == {"repository": "someone/model", "patterns": patterns}
