import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from derivative_trees import LABELS, SPACE, fmriprep_tree, random_series, write_atlas, xcpd_tree

from brainlm_lightning.cli import main
from brainlm_lightning.data.describe import describe
from brainlm_lightning.data.dry_run import dry_run
from brainlm_lightning.data.listing import list_recordings
from brainlm_lightning.data.manifest import load_manifest
from brainlm_lightning.data.prepare import prepare
from brainlm_lightning.data.store import Store


def loaded(text, tmp_path, **fill_in):
    """Loads what `describe` wrote, with what only its owner knows."""
    lines = []
    for line in text.splitlines():
        key = line.partition(":")[0].strip()
        indent = len(line) - len(line.lstrip())
        lines.append(f"{' ' * indent}{key}: {fill_in[key]}" if "FILL_IN" in line and key in fill_in else line)
    (tmp_path / "described.yaml").write_text("\n".join(lines))
    return load_manifest(tmp_path / "described.yaml")


def lab(folder, subjects=12, frames=150):
    """Series of twelve parcels as text, a table of people and one of parcels."""
    folder.mkdir()
    for number in range(subjects):
        series = np.hstack([random_series(frames, number), random_series(frames, number + 100)])
        np.savetxt(folder / f"sub-{number:02d}.csv", series, delimiter=",", fmt="%.5f")
    people = {"participant_id": [f"sub-{number:02d}" for number in range(subjects)], "age": range(subjects), "sex": "F"}
    pd.DataFrame(people).to_csv(folder / "participants.tsv", sep="\t", index=False)
    parcels = {"index": range(1, 13), "label": [f"{label}_{half}" for half in "12" for label in LABELS]}
    pd.DataFrame(parcels | {"x": 1.0, "y": 2.0, "z": 3.0}).to_csv(folder / "parcels.tsv", sep="\t", index=False)


def test_text_files_and_a_table_become_a_store(tmp_path):
    lab(tmp_path / "lab")
    text = describe(tmp_path / "lab")
    marked = [line.partition(":")[0].strip() for line in text.splitlines()[1:] if "FILL_IN" in line]
    assert marked == ["tr_s", "tr_s"]
    manifest = loaded(text, tmp_path, tr_s=2.0)
    assert manifest.recordings.file == "{participant_id}.csv"
    assert manifest.recordings.phenotypes == ["age", "sex"]
    assert (manifest.min_frames, manifest.split.method) == (150, "exact")
    store = Store(prepare(manifest, output=tmp_path / "store"))
    assert store.recordings["age"].tolist() == list(range(12))
    assert store.recordings["split"].value_counts().to_dict() == {"train": 9, "test": 2, "val": 1}


def test_an_fmriprep_tree_with_its_atlas_needs_nothing_more(tmp_path):
    fmriprep_tree(tmp_path / "tree", subjects=5)
    text = describe(tmp_path / "tree")
    assert f"space: {SPACE}" in text
    assert "FILL_IN" not in "\n".join(text.splitlines()[1:])
    manifest = loaded(text, tmp_path)
    assert (manifest.tr_s, manifest.min_frames) == (2.0, 60)
    assert manifest.recordings.derivatives == {
        "suffix": "bold",
        "extension": ".nii.gz",
        "space": SPACE,
        "desc": "preproc",
    }
    listed = list_recordings(manifest).table
    assert listed["recording_id"].tolist() == [f"sub-{number:02d}_task-rest" for number in range(5)]
    assert listed["age"].tolist() == list(range(30, 35))


def test_an_xcpd_tree_is_recognised(tmp_path):
    xcpd_tree(tmp_path / "tree")
    manifest = loaded(describe(tmp_path / "tree"), tmp_path, tr_s=2.0)
    assert manifest.recordings.derivatives["suffix"] == "timeseries"
    assert len(list_recordings(manifest).table) == 4


def test_sessions_are_found_in_the_names_of_files(tmp_path):
    lab(tmp_path / "lab", subjects=0)
    rows = [(f"sub-{n:02d}", f"ses-{k}") for n in range(3) for k in (1, 2)]
    for subject, session in rows:
        np.savetxt(tmp_path / "lab" / f"{subject}_{session}.txt", np.random.default_rng(0).normal(0, 1, (50, 12)))
    table = pd.DataFrame(rows, columns=["participant_id", "session_id"])
    table.to_csv(tmp_path / "lab" / "participants.tsv", sep="\t", index=False)
    text = describe(tmp_path / "lab")
    assert 'file: "{participant_id}_{session_id}.txt"' in text
    assert "session: session_id" in text


def test_untouched_source_files_are_told_apart(real_data):
    text = describe(real_data / "originals")
    assert "2 series of 176 to 206 frames × 392 columns" in text
    assert "2 series of 123 columns (GlobSig, CER6_p, CER7ab, …)" in text
    assert "2 files of 1 columns (FramewiseDisplacement): no parcels" in text
    assert "1 tables of events" in text


@pytest.mark.parametrize(("cohort", "frames"), [("abide_cc400", 200), ("sleep_aicha391", 200)])
def test_a_real_cohort_is_described_as_its_manifest_says(real_data, tmp_path, cohort, frames):
    manifest = loaded(describe(real_data / cohort), tmp_path, tr_s=1.0)
    shipped = Path(__file__).resolve().parents[2] / "data_manifests" / f"{cohort}.yaml"
    os.environ.setdefault("BRAINLM_REAL_DATA", str(real_data))
    assert manifest.recordings.file == load_manifest(shipped).recordings.file
    assert manifest.read_atlas().sha256 == load_manifest(shipped).read_atlas().sha256


def test_a_folder_without_recordings_says_what_is_there(tmp_path):
    (tmp_path / "notes.docx").touch()
    with pytest.raises(ValueError, match=r"no series found; there is 1 .docx files"):
        describe(tmp_path)
    with pytest.raises(NotADirectoryError, match="no such folder"):
        describe(tmp_path / "absent")


def test_the_verb_writes_a_manifest_and_never_over_one(tmp_path, capsys):
    lab(tmp_path / "lab")
    main(["describe", str(tmp_path / "lab"), "--output", str(tmp_path / "lab.yaml")])
    assert "2 marks of FILL_IN left" in capsys.readouterr().out
    with pytest.raises((SystemExit, FileExistsError)):
        main(["describe", str(tmp_path / "lab"), "--output", str(tmp_path / "lab.yaml")])


def test_a_dry_run_lists_what_is_missing_and_writes_nothing(tmp_path, capsys):
    lab(tmp_path / "lab")
    (tmp_path / "lab" / "sub-03.csv").unlink()
    (tmp_path / "lab" / "sub-05.csv").write_text("1,2\n")
    manifest = loaded(describe(tmp_path / "lab"), tmp_path, tr_s=2.0)
    before = sorted(tmp_path.rglob("*"))
    assert dry_run(manifest, jobs=2) == 2
    shown = capsys.readouterr().out
    assert "12 recordings of 12 subjects, 12 parcels" in shown
    assert "sub-03: " in shown
    assert "no such file" in shown
    assert "sub-05: unreadable" in shown
    assert "10 of 11 recordings read whole: 150 frames at tr_s 2.0" in shown
    assert sorted(tmp_path.rglob("*")) == before


def test_an_atlas_may_lie_elsewhere(tmp_path):
    lab(tmp_path / "lab")
    (tmp_path / "atlases").mkdir()
    shutil.move(tmp_path / "lab" / "parcels.tsv", tmp_path / "atlases" / "parcels.tsv")
    text = describe(tmp_path / "lab", tmp_path / "atlases" / "parcels.tsv")
    manifest = loaded(text, tmp_path, tr_s=2.0)
    assert manifest.atlas.root == str(tmp_path / "atlases")
    assert manifest.read_atlas().num_parcels == 12


def test_a_folder_with_an_atlas_of_other_length_still_names_it(tmp_path):
    lab(tmp_path / "lab")
    (tmp_path / "lab" / "parcels.tsv").unlink()
    write_atlas(tmp_path / "lab")
    assert "table: parcels.tsv" in describe(tmp_path / "lab")


def test_an_atlas_without_a_header_line_is_described_by_the_numbers_of_its_columns(tmp_path):
    lab(tmp_path / "lab")
    (tmp_path / "lab" / "parcels.tsv").unlink()
    order = [f"{number}\t7Networks_LH_Vis_{number}\t120\t18\t131\t0" for number in range(1, 13)]
    (tmp_path / "lab" / "order.txt").write_text("\n".join(order) + "\n")
    text = describe(tmp_path / "lab")
    assert '  table: order.txt\n  index: "1"  #' in text
    assert '  label: "2"  #' in text
    assert "orientation: frames_parcels" in text
