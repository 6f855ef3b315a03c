import json

import pytest

from brainlm_lightning.data.read.sidecar import entities, sidecar_tr_s


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub-01" / "func").mkdir(parents=True)
    return tmp_path / "sub-01" / "func"


def says(path, **content):
    path.write_text(json.dumps(content))


def test_a_recording_s_own_sidecar_counts_first(folder):
    says(folder / "sub-01_task-rest_bold.json", RepetitionTime=2.0)
    says(folder / "sub-01_task-rest_space-X_stat-mean_timeseries.json", RepetitionTime=0.8)
    assert sidecar_tr_s(folder / "sub-01_task-rest_space-X_stat-mean_timeseries.tsv") == 0.8


def test_only_a_sidecar_of_the_same_task_and_run_speaks_for_a_table(folder):
    says(folder / "sub-01_task-nback_run-1_desc-denoised_bold.json", RepetitionTime=0.72)
    says(folder / "sub-01_task-rest_run-2_desc-denoised_bold.json", RepetitionTime=1.5)
    table = folder / "sub-01_task-rest_run-1_seg-X_timeseries.tsv"
    assert sidecar_tr_s(table) is None
    says(folder / "sub-01_task-rest_run-1_desc-denoised_bold.json", RepetitionTime=2.5)
    assert sidecar_tr_s(table) == 2.5


def test_a_sidecar_of_the_whole_study_is_inherited(folder):
    says(folder.parents[1] / "task-rest_bold.json", RepetitionTime=3.0)
    assert sidecar_tr_s(folder / "sub-01_task-rest_bold.nii.gz") == 3.0


@pytest.mark.parametrize(
    ("content", "tr_s"),
    [({"SamplingFrequency": 0.5}, 2.0), ({"SamplingFrequency": "TR"}, None), ({}, None), ({"RepetitionTime": 0}, None)],
)
def test_what_is_no_time_is_not_taken(folder, content, tr_s):
    says(folder / "x.json", **content)
    assert sidecar_tr_s(folder / "x.tsv") == tr_s


def test_entities_are_read_from_a_name(folder):
    assert entities(folder / "sub-01_ses-2_task-rest_run-003_bold.nii.gz") == {
        "sub": "01",
        "ses": "2",
        "task": "rest",
        "run": "003",
    }
