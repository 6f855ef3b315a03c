import shutil

import numpy as np
import pandas as pd
import pytest
from derivative_trees import (
    SPACE,
    cifti_tree,
    confounds,
    fmriprep_tree,
    write_manifest,
    xcpd_tree,
)

from brainlm_lightning.data.derivatives import find_recordings
from brainlm_lightning.data.listing import list_recordings
from brainlm_lightning.data.manifest import load_manifest
from brainlm_lightning.data.prepare import prepare
from brainlm_lightning.data.store import Store
from brainlm_lightning.data.verify import verify

VOLUMES = {"suffix": "bold", "extension": ".nii.gz", "desc": "preproc"}


@pytest.fixture
def tree(tmp_path):
    return tmp_path / "derivatives"


def run(tree, tmp_path, *overrides, **changes):
    manifest = load_manifest(write_manifest(tree, tmp_path / "toy.yaml", **changes), overrides)
    store = Store(prepare(manifest, output=tmp_path / "store"))
    assert verify(store.folder) == []
    return store


def correlations(store, truth):
    """Of each recording and parcel with what was painted."""
    return np.array([
        [np.corrcoef(store.raw(row)[:, parcel], truth[name][:, parcel])[0, 1] for parcel in range(6)]
        for row, name in enumerate(store.recordings["recording_id"])
    ])  # fmt: skip


def test_an_fmriprep_tree_becomes_a_store(tree, tmp_path):
    truth = fmriprep_tree(tree)
    phenotypes = {"table": "participants.tsv", "subject_id": "participant_id", "columns": ["age"]}
    store = run(tree, tmp_path, phenotypes=phenotypes)
    assert store.recordings["recording_id"].tolist() == list(truth)
    assert store.recordings["subject_id"].tolist() == [f"sub-{number:02d}" for number in range(6)]
    assert store.recordings["task"].tolist() == ["rest"] * 6
    assert store.recordings["age"].tolist() == list(range(30, 36))
    assert store.recordings["mean_fd_mm"].round(3).tolist() == [0.164, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert correlations(store, truth).min() > 0.99


def test_confounds_are_regressed_and_scrubbed_frames_are_missing(tree, tmp_path):
    truth = fmriprep_tree(tree, nuisance=15.0, noise=0)
    plain = correlations(run(tree, tmp_path, cohort="plain"), truth)
    assert plain.max() < 0.9
    shutil.rmtree(tmp_path / "store")
    cleaning = {"confounds": ["wm_csf", "scrub"], "options": {"scrub": 0, "fd_threshold": 0.5}}
    store = run(tree, tmp_path, cleaning=cleaning, publisher="none")
    known = ~store.missing_frames(0)
    assert np.flatnonzero(~known).tolist() == [20, 21]
    assert store.observed(0).all()
    regressors = confounds(60, 1)[["csf", "white_matter"]].to_numpy()
    design = np.column_stack([np.ones(60), regressors])
    painted = truth["sub-01_task-rest"] + 15.0 * regressors[:, :1]
    residual = painted - design @ np.linalg.lstsq(design, painted, rcond=None)[0]
    np.testing.assert_allclose(store.centred(1), residual, atol=1e-2)
    processing = store.metadata["made_by"]["processing"]
    assert processing["publisher"] == "none"
    assert processing["here"][0].startswith("regressed wm_csf, scrub")


def test_recordings_that_moved_too_much_are_left_out_with_the_reason(tree, tmp_path):
    truth = xcpd_tree(tree)
    recordings = {"derivatives": {"suffix": "timeseries", "extension": ".tsv", "seg": "toy"}}
    store = run(tree, tmp_path, recordings=recordings, max_mean_fd_mm=0.5)
    assert store.recordings["mean_fd_mm"].tolist() == [0.1, 0.4]
    dropped = pd.read_csv(store.folder / "dropped.csv")
    assert dropped["problems"].tolist() == [
        "motion: mean framewise displacement 0.7 mm",
        "motion: mean framewise displacement 1 mm",
    ]
    assert [np.flatnonzero(store.missing_frames(row)).tolist() for row in range(2)] == [[30], [30]]
    for row, name in enumerate(store.recordings["recording_id"]):
        known = ~store.missing_frames(row)
        np.testing.assert_allclose(store.raw(row)[known], truth[name][known], rtol=1e-4, atol=1e-4)


def test_first_frames_are_left_out_of_series_and_confounds(tree, tmp_path):
    truth = fmriprep_tree(tree, nuisance=15.0, noise=0)
    recordings = {"derivatives": VOLUMES, "skip_frames": 4}
    store = run(tree, tmp_path, recordings=recordings, cleaning={"confounds": ["wm_csf"]})
    regressors = confounds(60, 1)[["csf", "white_matter"]].to_numpy()
    design = np.column_stack([np.ones(56), regressors[4:]])
    painted = (truth["sub-01_task-rest"] + 15.0 * regressors[:, :1])[4:]
    residual = painted - design @ np.linalg.lstsq(design, painted, rcond=None)[0]
    np.testing.assert_allclose(store.centred(1), residual, atol=1e-2)


def test_sessions_and_runs_are_recordings_of_one_subject(tree, tmp_path):
    fmriprep_tree(tree, subjects=2, sessions=("ses-1", "ses-2"))
    listed = list_recordings(load_manifest(write_manifest(tree, tmp_path / "toy.yaml"))).table
    assert listed["recording_id"].tolist() == [f"sub-0{n}_ses-{k}_task-rest" for n in (0, 1) for k in (1, 2)]
    assert listed["session"].tolist() == ["ses-1", "ses-2"] * 2
    assert listed.groupby("subject_id")["split"].nunique().tolist() == [1, 1]


def test_what_is_not_found_lists_what_is_there(tree):
    fmriprep_tree(tree, subjects=1)
    with pytest.raises(ValueError, match=rf"no recordings with .*1 × space-{SPACE}_desc-preproc_bold.nii.gz"):
        find_recordings(tree, VOLUMES | {"space": "T1w"})


def test_several_files_of_one_recording_are_an_error(tree):
    fmriprep_tree(tree, subjects=1)
    folder = tree / "sub-00" / "func"
    (folder / "sub-00_task-rest_space-T1w_desc-preproc_bold.nii.gz").touch()
    with pytest.raises(ValueError, match=r"several files .*choose one of .*'space': \['MNI152NLin2009cAsym', 'T1w'\]"):
        find_recordings(tree, VOLUMES)


def break_one(kind, folder):
    """Spoils one recording of a tree."""
    volume = next(folder.glob("*bold.nii.gz"))
    if kind == "truncated gzip":
        volume.write_bytes(volume.read_bytes()[:-3000])
    elif kind == "empty confounds":
        next(folder.glob("*timeseries.tsv")).write_text("")
    elif kind == "no confounds":
        next(folder.glob("*timeseries.tsv")).unlink()
    elif kind == "other run's confounds":
        table = next(folder.glob("*timeseries.tsv"))
        table.write_text("\n".join(table.read_text().splitlines()[:-5]) + "\n")
    elif kind == "sidecar disagrees":
        next(folder.glob("*bold.json")).write_text('{"RepetitionTime": 0.72}')
    elif kind == "broken sidecar":
        next(folder.glob("*bold.json")).write_text("{")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated gzip", r"sub-02.*bold.nii.gz"),
        ("empty confounds", "timeseries.tsv: an empty confounds file"),
        ("no confounds", "no confounds file beside it"),
        ("other run's confounds", "55 rows for 60 frames"),
        ("sidecar disagrees", "the header says 2 s, the sidecar says 0.72 s"),
        ("broken sidecar", "no JSON"),
    ],
)
def test_one_spoilt_recording_is_left_out_and_the_rest_goes_on(tree, tmp_path, kind, reason):
    fmriprep_tree(tree)
    break_one(kind, tree / "sub-02" / "func")
    store = run(tree, tmp_path, cleaning={"confounds": ["motion"], "options": {"motion": "basic"}})
    dropped = pd.read_csv(store.folder / "dropped.csv")
    assert dropped["recording_id"].tolist() == ["sub-02_task-rest"]
    assert dropped["problems"].str.contains(reason).all()
    assert len(store) == 5


def test_a_missing_sidecar_leaves_the_header_to_say_tr_s(tree, tmp_path):
    fmriprep_tree(tree)
    for path in tree.glob("sub-*/func/*bold.json"):
        path.unlink()
    assert run(tree, tmp_path).recordings["problems"].tolist() == [""] * 6


def test_an_atlas_in_another_space_is_an_error(tree, tmp_path):
    fmriprep_tree(tree, subjects=1)
    recordings = {"derivatives": VOLUMES | {"space": "MNI152NLin6Asym"}}
    manifest = load_manifest(write_manifest(tree, tmp_path / "toy.yaml", recordings=recordings))
    with pytest.raises(ValueError, match="'MNI152NLin6Asym' and the atlas in 'MNI152NLin2009cAsym'"):
        list_recordings(manifest)


@pytest.mark.parametrize("kind", ["ptseries", "dtseries"])
def test_trees_of_surfaces_become_a_store(tree, tmp_path, kind):
    truth = cifti_tree(tree, kind, subjects=4, frames=40)
    suffix = "timeseries" if kind == "ptseries" else "bold"
    recordings = {"derivatives": {"suffix": suffix, "extension": f".{kind}.nii", "space": "fsLR"}}
    atlas = {"name": "six", "table": "parcels.tsv", "index": "index", "label": "label", "xyz_mm": ["x", "y", "z"]}
    store = run(tree, tmp_path, recordings=recordings, atlas=atlas | {"image": "atlas.dlabel.nii"})
    assert store.recordings["recording_id"].tolist() == list(truth)
    for row, name in enumerate(truth):
        np.testing.assert_allclose(store.raw(row), truth[name], atol=1e-3)
