"""A simulated cohort of linear-Gaussian brains, for which the best possible reconstruction is known exactly.

Every recording is drawn from its own state-space model (`state_space.py`): each network is a noise-driven resonator at
0.01–0.1 Hz, filtered by slow haemodynamics, and parcels are mixtures of networks plus white sensor noise. A Kalman
smoother with the true parameters is therefore the best possible predictor of hidden values, and the gap between any
method and the optimum can be measured.

Subjects differ in the strength, frequency and layout of their networks. Age, symptoms and sex depend on the strengths;
`noise_score` is pure noise. A second cohort of the same parcels is another `Simulation` (see `OTHER_COHORT`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster.vq import kmeans2

from brainlm_lightning.simulation.state_space import STAGES, Array, LinearGaussian, draw_series, load_truth, resonators

__all__ = ["OTHER_COHORT", "LinearGaussian", "Simulation", "load_truth", "place_parcels", "simulate"]

ELLIPSOID_MM = np.array([65.0, 85.0, 60.0])  # half axes of the brain: x (right), y (anterior), z (superior)


@dataclass(frozen=True)
class Simulation:
    """Configuration of a simulated cohort.

    Attributes:
        name: of the cohort and prefix of the subject ids, so that two cohorts share no subject.
        subjects: number of subjects, each with one resting recording.
        parcels: number of parcels; even, since every parcel has a mirror image in the other hemisphere.
        frames: frames of each recording.
        tr_s: seconds between frames.
        networks: number of planted networks.
        seed: of subjects, loadings and noise.
        atlas_seed: of the parcels' positions; cohorts with the same `atlas_seed` share an atlas.
        task_recordings: number of subjects (the first ones) who also have a block-design task recording.
        driven_network: index of the network that the blocks drive, from 0.
        block_s: duration of a block, and of the rest between blocks, in seconds.
        drive: plateau of the response to a long block, in standard deviations of the network at rest.
        frequency_hz: lowest and highest resonance frequency; networks are spaced evenly between them on a log scale.
        bandwidth_hz: width of the resonances; a wider one has a shorter memory.
        haemodynamic_s: time constant of each of the two haemodynamic stages.
        correlation: between the driving noise of any two networks.
        reach_mm: spatial scale over which a network extends into neighbouring parcels.
        strength_sd: standard deviation over subjects of the log of a network's strength.
        frequency_sd: standard deviation over subjects of the log of a network's frequency.
        loading_sd: standard deviation over subjects of each loading (that of a parcel on its own network is about 1).
        noise: standard deviation of the sensor noise of a typical parcel, whose signal has about 1.
        phenotype_r: correlation of age, log symptoms and the latent variable behind sex with network strengths.
    """

    name: str = "simulated"
    subjects: int = 200
    parcels: int = 64
    frames: int = 300
    tr_s: float = 1.0
    networks: int = 7
    seed: int = 0
    atlas_seed: int = 0
    task_recordings: int = 0
    driven_network: int = 0
    block_s: float = 20.0
    drive: float = 1.5
    frequency_hz: tuple[float, float] = (0.015, 0.08)
    bandwidth_hz: float = 0.05
    haemodynamic_s: float = 1.5
    correlation: float = 0.2
    reach_mm: float = 25.0
    strength_sd: float = 0.25
    frequency_sd: float = 0.15
    loading_sd: float = 0.08
    noise: float = 1.1
    phenotype_r: float = 0.7

    def __post_init__(self) -> None:
        """Validates the values."""
        low, high = self.frequency_hz
        allowed = {
            "subjects": self.subjects >= 1,
            "frames": self.frames >= 2,
            "tr_s": self.tr_s > 0,
            "parcels": self.parcels % 2 == 0,
            "networks": 2 <= self.networks <= self.parcels // 2,
            "frequency_hz": self.tr_s > 0 and 0 < low <= high < 0.5 / self.tr_s,
            "task_recordings": 0 <= self.task_recordings <= self.subjects,
            "driven_network": 0 <= self.driven_network < self.networks,
            "correlation": 0 <= self.correlation < 1,
            "phenotype_r": 0 <= self.phenotype_r <= 1,
            "bandwidth_hz": self.bandwidth_hz > 0,
            "noise": self.noise > 0,
        }
        wrong = {name: getattr(self, name) for name, right in allowed.items() if not right}
        if wrong:
            raise ValueError(
                f"invalid simulation settings {wrong}: subjects at least 1, frames at least 2, tr_s above 0, parcels "
                "even, networks from 2 to half of them, frequency_hz increasing and below 0.5 / tr_s, task_recordings "
                f"at most {self.subjects}, driven_network below networks, correlation in [0, 1), phenotype_r in "
                "[0, 1], bandwidth_hz and noise above 0"
            )


# Another scanner and population, the same atlas: the role of HCP in Table 1 of the paper.
OTHER_COHORT = Simulation(
    name="simulated_other", seed=1, frequency_hz=(0.02, 0.1), bandwidth_hz=0.06, reach_mm=32.0, noise=1.4
)


def simulate(simulation: Simulation, folder: str | Path) -> Path:
    """Writes a simulated cohort as files for a manifest.

    `timeseries.npz` (one float32 array (frames, parcels) per recording), `recordings.tsv`, `parcels.tsv`, `truth.npz`.
    The same configuration gives identical bytes; adding subjects does not change the earlier ones.

    Returns:
        The folder. It is written under another name and renamed, so it is either complete or absent.

    Raises:
        FileExistsError: the folder is not empty.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: name a new folder, or remove this one first")
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    parcels, (strengths, people) = place_parcels(simulation), draw_subjects(simulation)
    recordings = list_recordings(simulation, people)
    truth = draw_models(simulation, parcels, strengths)
    series = draw_series(truth, **draw_noise(simulation))
    ids = recordings["recording"].to_numpy(str)
    arrays: dict[str, Any] = dict(zip(ids, series, strict=True))
    parcels.to_csv(part / "parcels.tsv", sep="\t", index=False)
    recordings.to_csv(part / "recordings.tsv", sep="\t", index=False)
    np.savez(part / "timeseries.npz", **arrays)
    np.savez(part / "truth.npz", recording=ids, allow_pickle=False, **truth)
    os.replace(part, folder)
    return folder


def place_parcels(simulation: Simulation) -> pd.DataFrame:
    """Returns the atlas (index, label, network, x, y, z in mm): mirrored hemispheres tiled by compact networks.

    Parcels of the right hemisphere are chosen from many random points by farthest-point sampling; networks are their
    k-means clusters.
    """
    points = np.random.default_rng(simulation.atlas_seed).uniform(-1, 1, (40 * simulation.parcels, 3))
    points = points[np.linalg.norm(points, axis=1) < 1] * ELLIPSOID_MM
    right = spread(points[points[:, 0] > 5], simulation.parcels // 2)  # keeps parcels away from the midline
    owner = kmeans2(right, spread(right, simulation.networks), minit="matrix", missing="raise")[1]
    right, owner = right[np.argsort(owner, kind="stable")], np.sort(owner)
    xyz_mm = np.concatenate([right * [-1, 1, 1], right])
    network = np.tile(owner + 1, 2)
    side = np.repeat(["left", "right"], len(right))
    number = np.arange(1, simulation.parcels + 1)
    table = {"index": number, "label": [f"{s}-{i}" for s, i in zip(side, number, strict=True)]}
    table["network"] = [f"network{k}" for k in network]
    return pd.DataFrame(table | dict(zip("xyz", xyz_mm.round(2).T, strict=True)))


def spread(points: Array, count: int) -> Array:
    """Farthest-point sampling: returns `count` of the points, starting with the most anterior."""
    chosen = [int(points[:, 1].argmax())]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    return points[chosen]


def draw_subjects(simulation: Simulation) -> tuple[Array, pd.DataFrame]:
    """Returns standardised log strengths (subjects, networks) and a table of ids and phenotypes.

    Each phenotype except `noise_score` depends on the contrast of two networks: age on the first two, symptoms on the
    next two, sex on the two after. Age is in years; symptoms are log-normal, roughly like questionnaire scores.
    """
    networks, r = simulation.networks, simulation.phenotype_r
    draws = draw_per_subject(simulation, "person", networks + 4)
    strengths, own = draws[:, :networks], draws[:, networks:]

    def caused(pair: int) -> Array:
        contrast = strengths[:, 2 * pair % networks] - strengths[:, (2 * pair + 1) % networks]
        mixed: Array = r * contrast / np.sqrt(2) + np.sqrt(1 - r**2) * own[:, pair]
        return mixed

    table = pd.DataFrame({"subject": [f"{simulation.name}-{i:05d}" for i in range(simulation.subjects)]})
    table["age"] = (62 + 7.5 * caused(0)).round(2)
    table["symptoms"] = (4 * np.exp(0.8 * caused(1))).round(2)
    table["sex"] = np.where(caused(2) > 0, "F", "M")
    table["noise_score"] = own[:, 3].round(4)
    return strengths, table


def draw_per_subject(simulation: Simulation, purpose: str, *shape: int) -> Array:
    """Returns (subjects, *shape) standard normal numbers that depend on seed, subject and purpose alone."""
    seeds = [[simulation.seed, subject, *purpose.encode()] for subject in range(simulation.subjects)]
    return np.stack([np.random.default_rng(seed).standard_normal(shape) for seed in seeds])


def list_recordings(simulation: Simulation, people: pd.DataFrame) -> pd.DataFrame:
    """Returns one row per recording: all subjects at rest, then the first `task_recordings` subjects at the task."""
    at_task = people.iloc[: simulation.task_recordings]
    table = pd.concat([people.assign(task="rest"), at_task.assign(task="blocks")], ignore_index=True)
    table.insert(0, "recording", table["subject"] + "_" + table["task"])
    table.insert(2, "tr", simulation.tr_s)
    return table


def draw_models(simulation: Simulation, parcels: pd.DataFrame, strengths: Array) -> dict[str, Array]:
    """Returns the fields of `LinearGaussian` stacked over recordings; `driven` holds the rows of `drive`."""
    subjects, networks = strengths.shape
    own = draw_per_subject(simulation, "layout", simulation.parcels, networks)
    layout = group_loading(simulation, parcels) + simulation.loading_sd * own
    unseen = np.zeros(
        (subjects, simulation.parcels, (STAGES - 1) * networks)
    )  # only the last stage reaches the parcels
    tempo = np.exp(simulation.frequency_sd * draw_per_subject(simulation, "tempo", networks))
    varied = np.exp(0.2 * np.random.default_rng(simulation.seed).standard_normal(simulation.parcels))
    models = resonators(
        np.geomspace(*simulation.frequency_hz, networks) * tempo,
        tr_s=simulation.tr_s,
        bandwidth_hz=simulation.bandwidth_hz,
        haemodynamic_s=simulation.haemodynamic_s,
        correlation=simulation.correlation,
    )
    models["loading"] = np.concatenate([unseen, layout * np.exp(simulation.strength_sd * strengths[:, None])], axis=2)
    models["noise_var"] = np.tile((simulation.noise * varied) ** 2, (subjects, 1))
    rows = np.r_[:subjects, : simulation.task_recordings]  # as in `list_recordings`
    truth = {name: stacked[rows] for name, stacked in models.items()}
    drive = np.tile(block_drive(simulation), (simulation.task_recordings, 1, 1))
    return truth | {"driven": subjects + np.arange(simulation.task_recordings), "drive": drive}


def group_loading(simulation: Simulation, parcels: pd.DataFrame) -> Array:
    """Returns (parcels, networks) with unit rows: mostly a parcel's own network, decaying with distance to others."""
    xyz_mm = parcels[["x", "y", "z"]].to_numpy(float)
    owner = parcels["network"].str.removeprefix("network").to_numpy(int) - 1
    apart = np.linalg.norm(xyz_mm[:, None] - xyz_mm, axis=2)
    nearest = np.stack([apart[:, owner == k].min(1) for k in range(simulation.networks)], axis=1)
    loading = np.exp(-0.5 * (nearest / simulation.reach_mm) ** 2)
    unit: Array = loading / np.linalg.norm(loading, axis=1, keepdims=True)
    return unit


def block_drive(simulation: Simulation) -> Array:
    """Returns (frames, states): alternating rest and blocks, input to the driven network's first haemodynamic stage."""
    time_s = np.arange(simulation.frames) * simulation.tr_s
    gain = 1 - np.exp(
        -simulation.tr_s / simulation.haemodynamic_s
    )  # the response to a long block then converges to `drive`
    drive = np.zeros((simulation.frames, STAGES * simulation.networks))
    driven = 2 * simulation.networks + simulation.driven_network
    drive[:, driven] = gain * simulation.drive * (time_s // simulation.block_s % 2)
    return drive


def draw_noise(simulation: Simulation) -> dict[str, Array]:
    """Returns the standard normal numbers for `draw_series`, with rows as in `list_recordings`."""
    shapes = {
        "start": (1, STAGES * simulation.networks),
        "pushes": (simulation.frames, simulation.networks),
        "sensor": (simulation.frames, simulation.parcels),
    }

    def draw(what: str, shape: tuple[int, ...]) -> Array:
        rest = draw_per_subject(simulation, f"{what} at rest", *shape)
        task = draw_per_subject(simulation, f"{what} at task", *shape)
        return np.concatenate([rest, task[: simulation.task_recordings]])

    return {what: draw(what, shape) for what, shape in shapes.items()}
