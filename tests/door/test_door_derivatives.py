"""Trees as fMRIPrep, XCP-D and HCP's tools write them: from a first look to a tested model, by commands alone."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from derivative_trees import cifti_tree, fmriprep_tree, xcpd_tree
from tiny import door, run_main

from brainlm_lightning.data.store import Store
from brainlm_lightning.run_folder import read_metrics

SUBJECTS = 12
TREES = {
    "fmriprep": lambda root: fmriprep_tree(root, SUBJECTS),
    "xcpd": lambda root: xcpd_tree(root, SUBJECTS),
    "ptseries": lambda root: cifti_tree(root, "ptseries", SUBJECTS),
    "dtseries": lambda root: cifti_tree(root, "dtseries", SUBJECTS),
}


def from_tree_to_score(tree, tmp_path, monkeypatch, window_frames, answers=()):
    """Describes, prepares, fits and tests; returns the store and the test's numbers.

    `answers` are what the owner of the files writes in place of FILL_IN, in order; there is no other mark.
    """
    monkeypatch.setenv("BRAINLM_DATA", str(tmp_path / "stores"))
    manifest = tmp_path / "described.yaml"
    run_main(["describe", str(tree), "--output", str(manifest)])
    first, *lines = manifest.read_text().splitlines()
    for answer in answers:
        place = next(number for number, line in enumerate(lines) if "FILL_IN" in line)
        lines[place] = f"{lines[place].partition('FILL_IN')[0]}{answer}"
    assert [line for line in lines if "FILL_IN" in line] == []
    manifest.write_text("\n".join([first, *lines]))
    with pytest.raises(SystemExit) as looked:
        run_main(["prepare", "--config", str(manifest), "--dry-run"])
    assert looked.value.code == 0
    run_main(["prepare", "--config", str(manifest), "--jobs", "1"])
    name = yaml.safe_load(manifest.read_text())["cohort"]
    run_main(["verify", str(tmp_path / "stores" / name)])
    sizes = {"data.cohorts": name, "data.window_frames": window_frames, "model.init_args.test_strategies": "{}"}
    small = "experiments/pretrain_small.yaml"
    door("fit", tmp_path / "runs", sizes, small)
    metrics = read_metrics(door("test", tmp_path / "runs", sizes, small))
    return Store(tmp_path / "stores" / name), metrics[f"test/{name}/hidden0.75/mae/r2_pooled"]


def lowest_correlation(store, truth):
    """Of any recording and parcel with what its file was made from, over the frames that are not marked."""
    assert store.recordings["recording_id"].tolist() == list(truth)
    found = []
    for row, series in enumerate(truth.values()):
        known = ~store.missing_frames(row)
        moving = store.observed(row) & (series[known].std(axis=0) > 0)
        pairs = np.stack([store.raw(row)[known], series[known]])[:, :, moving]
        found += [np.corrcoef(pairs[0, :, parcel], pairs[1, :, parcel])[0, 1] for parcel in range(moving.sum())]
    return min(found)


@pytest.mark.parametrize("kind", TREES)
def test_a_tree_leads_to_a_tested_model(kind, tmp_path, monkeypatch):
    truth = TREES[kind](tmp_path / "tree")
    store, r2 = from_tree_to_score(tmp_path / "tree", tmp_path, monkeypatch, window_frames=20)
    assert store.tr_s == 2.0
    assert lowest_correlation(store, truth) > 0.99
    assert np.isfinite(r2)


def real_tree(root, real_data, subjects=10):
    """Real series painted on the real atlas that they came from, with noise, beside real tables of confounds."""
    parcels = pd.read_csv(real_data / "abide_cc400" / "parcels.tsv", sep="\t")
    confounds = real_data / "fmriprep_examples" / "nilearn_test-v21_desc-confounds_timeseries.tsv"
    frames = len(pd.read_csv(confounds, sep="\t"))
    image = nib.load(real_data / "atlases" / "cc400_roi_atlas.nii.gz")
    labels = np.asarray(image.dataobj).astype(int)
    column = np.full(labels.max() + 1, -1)
    column[parcels["atlas_id"]] = np.arange(len(parcels))
    inside = column[labels] >= 0
    root.mkdir()
    shutil.copy(real_data / "atlases" / "cc400_roi_atlas.nii.gz", root / "atlas.nii.gz")
    parcels.rename(columns={"atlas_id": "index", "harvard_oxford": "label", "column": "place"}).to_csv(
        root / "parcels.tsv", sep="\t", index=False
    )
    truth, rng = {}, np.random.default_rng(0)
    table = pd.read_csv(real_data / "abide_cc400" / "recordings.tsv", sep="\t", dtype={"subject": str})
    table = table[table["quality"] == "ok"].groupby("site").head(1).head(subjects)
    with np.load(real_data / "abide_cc400" / "timeseries.npz") as archive:
        for recording, subject in zip(table["recording"], table["subject"], strict=True):
            series = archive[recording][:frames].astype(np.float32)
            values = np.zeros((*labels.shape, frames), np.float32)
            painted = series.T[column[labels[inside]]]
            loud = painted.std(axis=1, keepdims=True) / 2  # a voxel's own noise
            values[inside] = 5000 + painted + loud * rng.normal(0, 1, painted.shape)
            func = root / f"sub-{subject}" / "func"
            func.mkdir(parents=True)
            name = f"sub-{subject}_task-rest"
            bold = nib.Nifti1Image(values, image.affine)
            bold.header.set_zooms((*image.header.get_zooms()[:3], 2.0))
            bold.header.set_xyzt_units("mm", "sec")
            stem = func / f"{name}_space-MNI152NLin6Asym_desc-preproc_bold"
            nib.save(bold, f"{stem}.nii.gz")
            stem.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 2.0}))
            shutil.copy(confounds, func / f"{name}_desc-confounds_timeseries.tsv")
            shutil.copy(confounds.with_suffix(".json"), func / f"{name}_desc-confounds_timeseries.json")
            truth[name] = series
    return truth


@pytest.mark.slow
def test_real_recordings_painted_on_their_atlas_come_back_and_train(real_data, tmp_path, monkeypatch):
    truth = real_tree(tmp_path / "tree", real_data)
    assert len(truth) == 10
    store, r2 = from_tree_to_score(tmp_path / "tree", tmp_path, monkeypatch, window_frames=20)
    assert store.atlas.num_parcels == 392
    assert store.recordings["mean_fd_mm"].notna().all()
    assert lowest_correlation(store, dict(sorted(truth.items()))) > 0.99
    assert np.isfinite(r2)
