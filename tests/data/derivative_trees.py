"""Small trees of derivatives whose parcel series are known, made for the tests."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import yaml

IDS = (3, 130, 300, 7, 128, 129)  # beyond int8, with gaps, in no order
LABELS = ("L_a", "L_b", "L_c", "R_a", "R_b", "R_c")
AFFINE = np.array([[-3.0, 0, 0, 20], [0, 3, 0, -25], [0, 0, 3, -15], [0, 0, 0, 1]])
SHAPE = (14, 16, 12)
SPACE = "MNI152NLin2009cAsym"


def label_image(ids=IDS):
    """Blocks of voxels, one a parcel, with air between."""
    labels = np.zeros(SHAPE, np.int16)
    for place, label in enumerate(ids):
        x, y = place % 3, place // 3
        labels[1 + 4 * x : 4 + 4 * x, 2 + 6 * y : 6 + 6 * y, 3 : 8 + place % 2] = label
    return nib.Nifti1Image(labels, AFFINE)


def paint(series, labels, tr_s=2.0, noise=0.0, seed=0):
    """A 4-D image whose voxels hold their parcel's series around 1000, and noise."""
    array = np.asarray(labels.dataobj)
    values = np.zeros((*array.shape, len(series)), np.float32)
    for place, label in enumerate(IDS):
        values[array == label] = 1000 + series[:, place]
    values[array > 0] += np.random.default_rng(seed).normal(0, 1, ((array > 0).sum(), len(series))) * noise
    image = nib.Nifti1Image(values, labels.affine)
    image.header.set_zooms((*labels.header.get_zooms()[:3], tr_s))
    image.header.set_xyzt_units("mm", "sec")
    return image


def random_series(frames, seed):
    """Slow series, (frames, parcels)."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 1, (frames + 20, len(IDS)))
    return np.stack([np.convolve(column, np.ones(5) / 5, "same")[10:-10] for column in steps.T], axis=1) * 10


def write_atlas(root):
    table = {"index": IDS, "label": LABELS, "x": 1.0, "y": range(len(IDS)), "z": 3.0}
    pd.DataFrame(table).to_csv(root / "parcels.tsv", sep="\t", index=False)
    nib.save(label_image(), root / "atlas.nii.gz")


def confounds(frames, seed, spikes=()):
    rng = np.random.default_rng(seed)
    names = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"] + ["csf", "white_matter", "global_signal"]
    table = pd.DataFrame(rng.normal(0, 1, (frames, len(names))), columns=names)
    for name in list(table):
        table[f"{name}_derivative1"] = table[name].diff()
        table[f"{name}_power2"] = table[name] ** 2
        table[f"{name}_derivative1_power2"] = table[f"{name}_derivative1"] ** 2
    table["framewise_displacement"] = [np.nan, *np.full(frames - 1, 0.1)]
    table["std_dvars"] = [np.nan, *np.full(frames - 1, 1.0)]
    table.loc[list(spikes), "framewise_displacement"] = 2.0
    table["cosine00"] = np.cos(np.pi * np.arange(frames) / frames)
    return table


def fmriprep_tree(root, subjects=6, frames=60, noise=0.5, sessions=("",), nuisance=0.0):
    """fMRIPrep's names, sidecars and confounds; returns the true series by recording."""
    root.mkdir(parents=True, exist_ok=True)
    write_atlas(root)
    truth = {}
    for number in range(subjects):
        for session in sessions:
            folder = root / f"sub-{number:02d}" / session / "func"
            folder.mkdir(parents=True)
            name = "_".join(filter(None, (f"sub-{number:02d}", session, "task-rest")))
            truth[name] = random_series(frames, number)
            regressors = confounds(frames, number, spikes=(20, 21) if number == 0 else ())
            painted = truth[name] + nuisance * regressors[["csf"]].to_numpy()
            nib.save(
                paint(painted, label_image(), noise=noise), folder / f"{name}_space-{SPACE}_desc-preproc_bold.nii.gz"
            )
            (folder / f"{name}_space-{SPACE}_desc-preproc_bold.json").write_text(json.dumps({"RepetitionTime": 2.0}))
            regressors.to_csv(folder / f"{name}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
            (folder / f"{name}_desc-confounds_timeseries.json").write_text("{}")
    people = {"participant_id": [f"sub-{number:02d}" for number in range(subjects)], "age": range(30, 30 + subjects)}
    pd.DataFrame(people).to_csv(root / "participants.tsv", sep="\t", index=False)
    return truth


def xcpd_tree(root, subjects=4, frames=60):
    """XCP-D's parcel tables, with motion and outliers; returns the true series by recording."""
    root.mkdir(parents=True, exist_ok=True)
    write_atlas(root)
    truth = {}
    for number in range(subjects):
        folder = root / f"sub-{number:02d}" / "func"
        folder.mkdir(parents=True)
        name = f"sub-{number:02d}_task-rest"
        truth[name] = random_series(frames, number)
        table = pd.DataFrame(truth[name], columns=LABELS)[list(LABELS)[::-1]]
        table.to_csv(folder / f"{name}_space-{SPACE}_seg-toy_stat-mean_timeseries.tsv", sep="\t", index=False)
        motion = pd.DataFrame({"framewise_displacement": np.full(frames, 0.1 + 0.3 * number)})
        motion.to_csv(folder / f"{name}_motion.tsv", sep="\t", index=False)
        outliers = pd.DataFrame({"framewise_displacement": np.arange(frames) == 30})
        outliers.astype(int).to_csv(folder / f"{name}_outliers.tsv", sep="\t", index=False)
        (folder / f"{name}_space-{SPACE}_desc-denoised_bold.json").write_text(json.dumps({"RepetitionTime": 2.0}))
    return truth


def cifti_tree(root, kind, subjects=6, frames=60):
    """Grayordinates (`dtseries`) or parcels (`ptseries`); returns the true series by recording."""
    root.mkdir(parents=True, exist_ok=True)
    write_atlas(root)
    brain = nib.cifti2.BrainModelAxis.from_surface(np.arange(60), 60, "CIFTI_STRUCTURE_CORTEX_LEFT")
    of = np.repeat(IDS, 10)
    names = {0: ("???", (1, 1, 1, 0))} | {label: (name, (0, 0, 0, 1)) for label, name in zip(IDS, LABELS, strict=True)}
    labels = nib.Cifti2Image(of[None].astype(np.float32), (nib.cifti2.LabelAxis(["six"], [names]), brain))
    nib.save(labels, root / "atlas.dlabel.nii")
    parcels = [(name, brain[of == label]) for name, label in zip(LABELS, IDS, strict=True)]
    truth = {}
    for number in range(subjects):
        folder = root / f"sub-{number:02d}" / "func"
        folder.mkdir(parents=True)
        name = f"sub-{number:02d}_task-rest"
        truth[name] = random_series(frames, number)
        time = nib.cifti2.SeriesAxis(0, 2.0, frames)
        values = truth[name].astype(np.float32)
        if kind == "ptseries":
            image = nib.Cifti2Image(values, (time, nib.cifti2.ParcelsAxis.from_brain_models(parcels)))
            nib.save(image, folder / f"{name}_space-fsLR_seg-six_timeseries.ptseries.nii")
        else:
            image = nib.Cifti2Image(np.repeat(values, 10, axis=1), (time, brain))
            nib.save(image, folder / f"{name}_space-fsLR_den-91k_bold.dtseries.nii")
    return truth


def write_manifest(root, path, **changes):
    """A manifest of a tree; returns its path."""
    content = {
        "cohort": "toy",
        "root": str(root),
        "atlas": {"name": "six", "table": "parcels.tsv", "index": "index", "label": "label", "xyz_mm": ["x", "y", "z"],
                  "image": "atlas.nii.gz", "space": SPACE},
        "recordings": {"derivatives": {"suffix": "bold", "extension": ".nii.gz", "desc": "preproc"}},
        "tr_s": 2.0,
        "dtype": "float32",
        "min_frames": 20,
        "split": {"method": "exact", "val": 0.2, "test": 0.2},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content | changes))
    return path
