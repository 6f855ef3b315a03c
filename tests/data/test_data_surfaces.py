import nibabel as nib
import numpy as np
import pytest
from derivative_trees import IDS, LABELS, random_series

from brainlm_lightning.data.read import Expected, read_series

SERIES = random_series(30, 2)
VERTICES = 60
TIME = nib.cifti2.SeriesAxis(0, 0.72, len(SERIES))


def surface(structure, vertices):
    return nib.cifti2.BrainModelAxis.from_surface(vertices, VERTICES, f"CIFTI_STRUCTURE_CORTEX_{structure}")


LABELLED = surface("LEFT", np.arange(0, 50)) + surface("RIGHT", np.arange(5, 60))
OF_LABELS = np.concatenate([np.repeat([*IDS[:3], 0], [20, 20, 5, 5]), np.repeat(IDS[3:], [25, 20, 10])])


@pytest.fixture
def expected(tmp_path):
    table = {0: ("???", (1, 1, 1, 0))} | {label: (name, (0, 0, 0, 1)) for label, name in zip(IDS, LABELS, strict=True)}
    axis = nib.cifti2.LabelAxis(["six"], [table])
    nib.save(nib.Cifti2Image(OF_LABELS[None].astype(np.float32), (axis, LABELLED)), tmp_path / "atlas.dlabel.nii")
    return Expected("frames_parcels", len(IDS), IDS, LABELS, image=str(tmp_path / "atlas.dlabel.nii"))


def test_grayordinates_are_averaged_by_structure_and_vertex(expected, tmp_path):
    voxels = nib.cifti2.BrainModelAxis.from_mask(np.ones((2, 2, 2)), "CIFTI_STRUCTURE_THALAMUS_LEFT", np.eye(4))
    brain = surface("RIGHT", np.arange(5, 60)) + surface("LEFT", np.arange(0, 50)) + voxels  # in another order
    labels = np.concatenate([OF_LABELS[50:], OF_LABELS[:50], np.zeros(8, int)])
    values = np.random.default_rng(0).normal(100, 30, (len(SERIES), len(labels))).astype(np.float32)
    nib.save(nib.Cifti2Image(values, (TIME, brain)), tmp_path / "x.dtseries.nii")
    reading = read_series(tmp_path / "x.dtseries.nii", expected)
    naive = np.stack(
        [np.mean([values[:, place] for place in np.flatnonzero(labels == label)], axis=0) for label in IDS]
    )
    np.testing.assert_allclose(reading.series, naive.T, rtol=1e-5)
    assert reading.tr_s == pytest.approx(0.72)


def test_a_label_file_of_another_space_is_refused(expected, tmp_path):
    brain = nib.cifti2.BrainModelAxis.from_mask(np.ones((2, 2, 2)), "CIFTI_STRUCTURE_THALAMUS_LEFT", np.eye(4))
    nib.save(nib.Cifti2Image(np.ones((len(SERIES), 8), np.float32), (TIME, brain)), tmp_path / "x.dtseries.nii")
    with pytest.raises(ValueError, match="no grayordinate has a label"):
        read_series(tmp_path / "x.dtseries.nii", expected)


def test_ptseries_are_put_in_order_by_the_names_of_their_parcels(tmp_path):
    order = [4, 0, 5, 2, 1, 3]
    axis = nib.cifti2.ParcelsAxis.from_brain_models(
        [(LABELS[place], LABELLED[np.flatnonzero(IDS[place] == OF_LABELS)]) for place in order]
    )
    nib.save(nib.Cifti2Image(SERIES[:, order].astype(np.float32), (TIME, axis)), tmp_path / "x.ptseries.nii")
    reading = read_series(tmp_path / "x.ptseries.nii", Expected("frames_parcels", len(IDS), IDS, LABELS))
    np.testing.assert_allclose(reading.series, SERIES, rtol=1e-5)
    assert reading.tr_s == pytest.approx(0.72)
