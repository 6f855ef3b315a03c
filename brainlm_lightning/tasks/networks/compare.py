"""How well parcels are sorted into networks: every method on the same windows and divisions of the parcels.

Shapes: B batch, P parcels, Q networks, R recordings, M metrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.tasks.compare import Arrays, Numbers, TestedSet
from brainlm_lightning.tasks.networks.classify import Networks, Tally, classify_recording
from brainlm_lightning.tasks.networks.methods import ParcelMethod
from brainlm_lightning.tasks.networks.neighbours import UNKNOWN, NeighbourPlan
from brainlm_lightning.tasks.networks.score import compare_methods, network_scores

CONDITION = "networks"
Sets = TestedSet[ParcelMethod]


@dataclass(frozen=True)
class Division:
    """How the parcels of each recording are divided and classified.

    Attributes:
        networks: of the atlas.
        plan: divisions, and what is chosen inside the training parcels.
        max_recordings: of each test set; None = all.
        seed_R: of each recording of the table: a function of the experiment's seed and the recording's name.
    """

    networks: Networks
    plan: NeighbourPlan
    max_recordings: int | None
    seed_R: NDArray[np.int64]


class NetworkScore:
    """Keeps how each method classified the parcels of each recording; see `Score`.

    Args:
        division: of the parcels.
        reference: the method that the others are compared with.
    """

    def __init__(self, division: Division, reference: str) -> None:
        self.division, self.reference = division, reference
        self._tallies: dict[str, Tally] = {}
        self._fixed: set[str] = set()

    def update(self, test_set: Sets, methods: Mapping[str, ParcelMethod], batch: Batch) -> None:
        """See `Score.update`; of each recording the first window alone is used."""
        self._fixed = {name for name, method in methods.items() if not method.depends_on_recording}
        wanted = self._wanted(test_set, batch)
        if not len(wanted):
            return
        chosen: Any = {name: value[wanted] for name, value in batch.items()}  # type: ignore[index]
        features = {}
        for name, method in methods.items():
            with method.precision(chosen["signal_BPT"].device):
                features[name] = method.features(chosen)
        relational = [name for name, method in methods.items() if method.relational]
        for index, row in enumerate(chosen["recording_index_B"].tolist()):
            found = classify_recording(
                {name: values[index] for name, values in features.items()},
                relational,
                chosen["observed_BP"][index].cpu().numpy(),
                self.division.networks,
                self.division.plan,
                seed=int(self.division.seed_R[row]),
            )
            self.tally(test_set).add(row, found)

    def compute(self, test_set: Sets, methods: Sequence[str]) -> tuple[Numbers, Arrays]:
        """See `Score.compute`.

        Raises:
            ValueError: no recording could be divided.
        """
        tally, of = self.tally(test_set), MetricName(test_set.name, CONDITION)
        if not tally.rows:
            raise ValueError(
                f"none of {tally.left_out} test recordings has {self.division.plan.fewest} observed parcels of each "
                "network; lower neighbours.folds or look at the cohort's dead parcels"
            )
        subject_R = test_set.subject_R[np.searchsorted(test_set.rows, tally.rows)]
        numbers = {
            of.of("num_recordings_left_out"): float(tally.left_out),
            of.of("num_parcels_left_out"): float((self.division.networks.number_P == UNKNOWN).sum()),
        }
        arrays: Arrays = {of.of("recording_index"): np.array(tally.rows)}
        for name, confusion_RQQ in tally.confusions.items():
            own = MetricName(test_set.name, CONDITION, name)
            numbers |= {own.of(score): value for score, value in network_scores(confusion_RQQ, subject_R).items()}
            arrays[own.of("confusion_RCC")] = np.array(confusion_RQQ, np.int32)
            arrays[own.of("votes_PC")] = tally.votes_PQ[name]
            arrays[own.of("chosen_MK")] = tally.chosen(name, self.division.plan.metrics, self.division.plan.ks)
        pairs = compare_methods(tally.confusions, subject_R, self.reference, self._fixed)
        return numbers | {of.of(pair): value for pair, value in pairs.items()}, arrays

    def tally(self, test_set: Sets) -> Tally:
        """What was found of a test set so far."""
        return self._tallies.setdefault(test_set.name, Tally(self.division.networks))

    def _wanted(self, test_set: Sets, batch: Batch) -> NDArray[np.intp]:
        """Places in the batch of the first windows of the recordings to classify."""
        rows = torch.from_numpy(test_set.rows[: self.division.max_recordings])
        first_B = batch["start_B"].cpu() == 0
        return np.flatnonzero((first_B & torch.isin(batch["recording_index_B"].cpu(), rows)).numpy())


def parcel_table(atlas: Atlas, tally: Tally, method: str) -> pd.DataFrame:
    """The atlas table with how often a method tested and misclassified each parcel, and its most frequent answer."""
    votes_PQ, networks = tally.votes_PQ[method], tally.networks
    tested_P = votes_PQ.sum(1)
    right_P = votes_PQ[np.arange(len(votes_PQ)), np.maximum(networks.number_P, 0)]
    assigned_P = np.where(tested_P > 0, np.array(networks.names)[votes_PQ.argmax(1)], "")
    missed_P = np.where(tested_P > 0, 100 * (1 - right_P / np.maximum(tested_P, 1)), np.nan).round(1)
    return atlas.parcels.assign(times_tested=tested_P, missed_percent=missed_P, most_often_said=assigned_P)
