import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from derivative_trees import AFFINE, IDS, LABELS, SHAPE, label_image, paint, random_series

from brainlm_lightning.data.read import Expected, read_series

SERIES = random_series(40, 1)
FAR = AFFINE + np.array([[0, 0, 0, 300], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


@pytest.fixture
def expected(tmp_path):
    nib.save(label_image(), tmp_path / "atlas.nii.gz")
    return Expected("frames_parcels", len(IDS), IDS, LABELS, image=str(tmp_path / "atlas.nii.gz"))


def naive_means(image, labels):
    """Means per parcel, voxel by voxel."""
    values, labels = np.asarray(image.dataobj, np.float64), np.asarray(labels.dataobj)
    return np.stack([[values[..., frame][labels == label].mean() for label in IDS] for frame in range(values.shape[3])])


def test_means_are_those_of_a_naive_loop(expected, tmp_path):
    image = paint(SERIES, label_image(), noise=20)
    nib.save(image, tmp_path / "bold.nii.gz")
    reading = read_series(tmp_path / "bold.nii.gz", expected)
    np.testing.assert_allclose(reading.series, naive_means(image, label_image()), rtol=1e-6)
    assert reading.tr_s == 2.0
    assert reading.remarks == ()


@pytest.mark.parametrize("lost", [0, 2, 5])
def test_a_parcel_out_of_the_field_of_view_moves_no_other(expected, tmp_path, lost):
    image = paint(SERIES, label_image())
    values = np.asarray(image.dataobj).copy()
    values[np.asarray(label_image().dataobj) == IDS[lost]] = 0
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "bold.nii")
    reading = read_series(tmp_path / "bold.nii", expected)
    kept = [place for place in range(len(IDS)) if place != lost]
    assert np.isnan(reading.series[:, lost]).all()
    np.testing.assert_allclose(reading.series[:, kept], 1000 + SERIES[:, kept], rtol=1e-6)
    assert reading.remarks == ("1 parcels with fewer than 1 voxels in the field of view are not measured",)


def test_a_label_that_the_image_lacks_moves_no_other(expected, tmp_path):
    labels = label_image()
    without = np.where(np.asarray(labels.dataobj) == IDS[1], 0, np.asarray(labels.dataobj))
    nib.save(nib.Nifti1Image(without, AFFINE), expected.image)
    nib.save(paint(SERIES, labels), tmp_path / "bold.nii.gz")
    series = read_series(tmp_path / "bold.nii.gz", expected).series
    assert np.isnan(series).all(axis=0).tolist() == [False, True, False, False, False, False]
    np.testing.assert_allclose(series[:, 2:], 1000 + SERIES[:, 2:], rtol=1e-6)


def test_a_small_image_that_claims_gigabytes_is_refused(expected, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((100, 100, 100, 300), np.uint8), AFFINE), tmp_path / "b.nii.gz")
    with pytest.raises(ValueError, match=r"b.nii.gz: [\d,]+ bytes on disk claim to hold"):
        read_series(tmp_path / "b.nii.gz", expected)


def test_another_grid_is_resampled_and_said(expected, tmp_path):
    finer = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    finer[:3, 3] -= AFFINE[:3, :3] @ [0.25, 0.25, 0.25]  # the same field of view, from its first voxel's edge
    labels = np.kron(np.asarray(label_image().dataobj), np.ones((2, 2, 2), np.int16))
    nib.save(paint(SERIES, nib.Nifti1Image(labels, finer)), tmp_path / "bold.nii.gz")
    reading = read_series(tmp_path / "bold.nii.gz", expected)
    np.testing.assert_allclose(reading.series, 1000 + SERIES, rtol=1e-6)
    assert "resampled (nearest) from 3 × 3 × 3 to the recordings' grid of 1.5 × 1.5 × 1.5 mm" in reading.remarks[0]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (nib.Nifti1Image(np.ones(SHAPE, np.float32), AFFINE), r"shape \(14, 16, 12\), expected 4-D"),
        (paint(SERIES, nib.Nifti1Image(np.asarray(label_image().dataobj), FAR)), "0 of 6 parcels lie in the image"),
    ],
)
def test_what_does_not_fit_the_atlas_is_refused(expected, tmp_path, image, message):
    nib.save(image, tmp_path / "bold.nii.gz")
    with pytest.raises(ValueError, match=rf"bold.nii.gz: .*{message}"):
        read_series(tmp_path / "bold.nii.gz", expected)


def test_a_volume_without_a_label_image_says_what_to_name(tmp_path):
    nib.save(paint(SERIES, label_image()), tmp_path / "bold.nii.gz")
    with pytest.raises(ValueError, match=r"name it in `atlas.image`"):
        read_series(tmp_path / "bold.nii.gz", Expected("frames_parcels", len(IDS), IDS, LABELS))


def test_a_header_and_a_sidecar_that_disagree_are_an_error(expected, tmp_path):
    nib.save(paint(SERIES, label_image(), tr_s=2.0), tmp_path / "bold.nii.gz")
    (tmp_path / "bold.json").write_text('{"RepetitionTime": 2.5}')
    with pytest.raises(ValueError, match=r"tr_s disagrees: the header says 2 s, the sidecar says 2.5 s"):
        read_series(tmp_path / "bold.nii.gz", expected)


def test_real_series_painted_on_a_real_atlas_come_back(real_data, tmp_path):
    atlas = real_data / "atlases" / "cc400_roi_atlas.nii.gz"
    parcels = pd.read_csv(real_data / "abide_cc400" / "parcels.tsv", sep="\t")
    ids = tuple(parcels["atlas_id"])
    with np.load(real_data / "abide_cc400" / "timeseries.npz") as archive:
        series = archive["abide_NYU_0050954"][:60].astype(np.float32)
    image = nib.load(atlas)
    labels = np.asarray(image.dataobj).astype(int)
    values = np.zeros((*labels.shape, len(series)), np.float32)
    column = np.full(labels.max() + 1, -1)
    column[list(ids)] = np.arange(len(ids))
    inside = column[labels] >= 0
    rng = np.random.default_rng(0)
    values[inside] = 500 + series.T[column[labels[inside]]] + rng.normal(0, 5, (inside.sum(), len(series)))
    nib.save(nib.Nifti1Image(values, image.affine), tmp_path / "bold.nii.gz")
    expected = Expected("frames_parcels", len(ids), ids, tuple(map(str, ids)), image=str(atlas))
    read = read_series(tmp_path / "bold.nii.gz", expected).series
    r = [np.corrcoef(read[:, place], series[:, place])[0, 1] for place in range(len(ids)) if series[:, place].std() > 5]
    assert len(r) > 380
    assert min(r) > 0.99
