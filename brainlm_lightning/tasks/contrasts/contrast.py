"""What the tasks that contrast groups share: which recordings may be chosen, and how contrasts are tested.

Shapes: R recordings (or pairs), P parcels, Q networks.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from lightning.pytorch.utilities import rank_zero_info
from sklearn.metrics import roc_auc_score
from torch import nn

from brainlm_lightning.checkpoint.pretrained import Pretrained, untrained
from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.parcellation import UNKNOWN_NETWORK
from brainlm_lightning.evaluation.names import quoted
from brainlm_lightning.evaluation.resampling import SIGNIFICANCE
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.tasks.contrasts.score import GroupDifference, compare_groups
from brainlm_lightning.tasks.task import Task

NAME = re.compile(r"[\w+-]+")
SHOWN = ("difference", "low", "high", "effect_size", "z", "p", "p_fdr", "p_max")  # arrays of a contrast, by parcel


@dataclass(frozen=True)
class Analysis:
    """Which subjects a contrast uses, and how it is tested.

    Attributes:
        subjects: ``test``, the test subjects of the cohorts and all of the test cohorts; or ``all``, where there are
            few: the table then says how many of them the pretraining has seen.
        permutations: of the groups' names, for every p-value.
    """

    subjects: Literal["test", "all"] = "test"
    permutations: int = 5000

    def __post_init__(self) -> None:
        """Validate permutations: enough for a significant p-value."""
        if self.permutations < 1 / SIGNIFICANCE:
            raise ValueError(
                f"permutations is {self.permutations}; with fewer than {1 / SIGNIFICANCE:g} no p-value can be below "
                f"{SIGNIFICANCE:g}"
            )

    def rows(self, datamodule: CohortDataModule) -> np.ndarray:
        """Rows of the table to choose from: with a whole window, no duplicates."""
        if self.subjects == "test":
            return np.sort(np.concatenate([test.rows for test in datamodule.test_sets]))
        parts = [datamodule.train_rows, datamodule.val_rows, *(test.rows for test in datamodule.test_sets)]
        return np.sort(np.concatenate(parts))


def check_contrasts(contrasts: Mapping[str, Any], atlas: Atlas) -> None:
    """Checks the names of contrasts and the networks that they expect.

    Raises:
        ValueError: there is no contrast, a name is not a word, or the atlas does not have a network.
    """
    wrong = [name for name in contrasts if not NAME.fullmatch(name)]
    if wrong or not contrasts:
        raise ValueError(
            f"contrasts are named {list(contrasts)}; expected at least one, named by a word: a-z, 0-9, _, -"
        )
    there = [name for name in np.unique(atlas.networks) if name != UNKNOWN_NETWORK]
    for contrast in contrasts.values():
        absent = sorted(set(contrast.expected_networks) - set(there))
        if absent:
            names = f"it has {', '.join(there)}" if there else "its table has no column of networks"
            raise ValueError(
                f"atlas {atlas.name!r} has no network {absent[0]!r}, which expected_networks names; {names}"
            )


class ContrastTask(Task):
    """Contrasts groups of a cohort by what a pretrained model makes of them; nothing is fitted.

    Args:
        pretrained: checkpoint, run folder, or folder of an experiment.
        contrasts: by name.
        analysis: whose recordings are taken, and the tests.
    """

    fitted = False

    def __init__(self, pretrained: str, contrasts: Mapping[str, Any], analysis: Analysis) -> None:
        super().__init__()
        self.checkpoint, self.contrasts, self.analysis = pretrained, contrasts, analysis
        self.nets = nn.ModuleDict()

    def candidates(self) -> np.ndarray:
        """Checks the contrasts against the atlas; returns the rows of the table to choose from."""
        data = self.datamodule
        self.table, atlas = data.recordings.table, data.atlas
        check_contrasts(self.contrasts, atlas)
        self.procedure = Procedure(atlas.networks, self.analysis.permutations, data.seed)
        return self.analysis.rows(data)

    def load(self, control: bool) -> MaskedModel:
        """Loads the model, by whose statistics the data are scaled, and its untrained control."""
        self.pretrained = self.load_pretrained(self.checkpoint)
        self.datamodule.adopt_statistics(self.pretrained.statistics)
        model = self.pretrained.model
        self.nets[model.name] = model
        if control:
            self.nets[f"{model.name}_untrained"] = untrained(self.pretrained, self.datamodule)
        self.nets.requires_grad_(False).eval()
        return model


def cohort_name(table: pd.DataFrame) -> str:
    """The cohorts that recordings are of, `hcp+ukb`."""
    return "+".join(sorted(set(table["cohort"])))


def count_seen(pretrained: Pretrained, table: pd.DataFrame, contrast: str) -> dict[str, float]:
    """Counts the subjects of a contrast and those seen in pretraining, and logs both."""
    subjects = table["subject_id"].nunique()
    seen = table["subject_id"][pretrained.seen(table)].nunique()
    rank_zero_info(f"{contrast}: {subjects} subjects, {seen} of them seen in pretraining")
    return {"num_subjects": subjects, "num_subjects_seen": seen}


@dataclass(frozen=True)
class Procedure:
    """How contrasts of one run are tested.

    Attributes:
        networks_P: network of each parcel.
        permutations: of the groups' names.
        seed: of permutations and resampling.
    """

    networks_P: np.ndarray
    permutations: int
    seed: int


def contrast_numbers(
    values_RP: np.ndarray, in_a_R: np.ndarray, subject_R: np.ndarray, expected: tuple[str, ...], procedure: Procedure
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Tests a contrast in every parcel and in every network's mean over its parcels.

    Args:
        values_RP: a map for each recording (or pair).
        in_a_R: True for the first group.
        subject_R: whom the recording is of.
        expected: networks where a difference is expected.
        procedure: how it is tested.

    Returns:
        Metrics (`num_parcels_fdr`, `network/<name>/...`, `auc`), and arrays: `<statistic>_P`, and each group's mean
        over its recordings, `mean_a_P` and `mean_b_P`.
    """
    test = compare_groups(values_RP, in_a_R, subject_R, procedure.permutations, procedure.seed)
    significant = test.p_fdr < SIGNIFICANCE
    a, b, both = test.num_subjects
    metrics: dict[str, float] = {
        "num_subjects_a": a,
        "num_subjects_b": b,
        "num_subjects_both": both,
        "num_parcels": int(np.isfinite(test.p).sum()),
        "num_parcels_fdr": int(significant.sum()),
        "num_parcels_fdr_above": int((significant & (test.difference > 0)).sum()),
        "num_parcels_max": int((test.p_max < SIGNIFICANCE).sum()),
    }
    if expected:
        metrics["auc"] = expected_auc(test, np.isin(procedure.networks_P, expected))
    metrics |= network_tests(values_RP, in_a_R, subject_R, procedure)
    arrays = {f"{name}_P": getattr(test, name) for name in SHOWN}
    return metrics, arrays | {"mean_a_P": known_mean(values_RP[in_a_R]), "mean_b_P": known_mean(values_RP[~in_a_R])}


def network_tests(
    values_RP: np.ndarray, in_a_R: np.ndarray, subject_R: np.ndarray, procedure: Procedure
) -> dict[str, float]:
    """Tests each network's mean over its parcels, `network/<name>/...`; {} where the atlas names no networks."""
    names, values_RQ = by_network(values_RP, procedure.networks_P)
    if not names:
        return {}
    metrics = {}
    networks = compare_groups(values_RQ, in_a_R, subject_R, procedure.permutations, procedure.seed)
    for number, name in enumerate(names):
        for statistic in ("difference", "effect_size", "p"):
            metrics[f"network/{quoted(name)}/{statistic}"] = float(getattr(networks, statistic)[number])
        for end in ("low", "high"):
            metrics[f"network/{quoted(name)}/difference_{end}"] = float(getattr(networks, end)[number])
    return metrics


def known_mean(values_RP: np.ndarray) -> np.ndarray:
    """Mean over the recordings that observe a parcel, (P,); NaN where none does."""
    known = np.isfinite(values_RP)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values_RP, 0).sum(0) / known.sum(0))


def by_network(values_RP: np.ndarray, networks_P: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Mean over the observed parcels of each network, (R, Q); parcels of no network are left out."""
    names = [name for name in dict.fromkeys(networks_P.tolist()) if name != UNKNOWN_NETWORK]
    known = np.isfinite(values_RP)
    filled = np.where(known, values_RP, 0)
    columns = [np.flatnonzero(networks_P == name) for name in names]
    with np.errstate(invalid="ignore"):
        means = [filled[:, own].sum(1) / known[:, own].sum(1) for own in columns]
    return names, np.stack(means, axis=1) if means else np.empty((len(values_RP), 0))


def expected_auc(test: GroupDifference, expected_P: np.ndarray) -> float:
    """Chance that a parcel where a difference is expected has a larger |z| than one where none is."""
    tested = np.isfinite(test.z)
    if len(np.unique(expected_P[tested])) < 2:
        return float("nan")
    return float(roc_auc_score(expected_P[tested], np.abs(test.z[tested])))
