"""All methods on identical folds: what each predicts for every subject while the subject is held out.

Shapes: B batch, R recordings (rows of the table), n predictions, O outputs: 1 for a number, Q for classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.comparison import with_corrected_p
from brainlm_lightning.tasks.clinical.cache import cached
from brainlm_lightning.tasks.clinical.embedding import hidden_parts
from brainlm_lightning.tasks.clinical.features import RecordingFeatures
from brainlm_lightning.tasks.clinical.fold_learning import FoldLearning
from brainlm_lightning.tasks.clinical.methods import ClinicalMethod
from brainlm_lightning.tasks.clinical.predictions import Predictions
from brainlm_lightning.tasks.clinical.question import Question
from brainlm_lightning.tasks.clinical.recording_folds import fold_units
from brainlm_lightning.tasks.clinical.saved import FoldNetwork, check_fold, find_networks, is_online, load_network
from brainlm_lightning.tasks.compare import Arrays, Numbers

Floats = NDArray[np.floating]


class FoldNetworks:
    """The fitted networks of a sweep, each asked about its own fold's test recordings.

    Args:
        experiment: folder of the sweep's runs.
        question: with its folds.
        strategy: of the Trainer; knows the device, and adds up over ranks.
    """

    def __init__(self, experiment: Path, question: Question, strategy: Strategy) -> None:
        self.question, self.strategy, self.device = question, strategy, strategy.root_device
        self.paths = find_networks(experiment, len(question.folds))
        rank_zero_info(f"networks: {', '.join(self.paths) or f'none below {experiment}: run fit first for them'}")
        digests = [question.digest(fold) for fold in question.folds]
        self._online: dict[str, bool] = {}
        for name, paths in self.paths.items():
            abouts = [check_fold(path, digest) for path, digest in zip(paths, digests, strict=True)]
            self._online[name] = is_online(abouts[0])
        self._loaded = -1
        self._networks: dict[str, FoldNetwork] = {}
        self._sums: dict[tuple[str, int], Tensor] = {}  # (R, O + 1): sums over a recording's windows, and their count

    def update(self, batch: Batch, number: int) -> None:
        """Adds a batch of a fold's test windows, all parts of each, through the networks whose encoder must run."""
        if number != self._loaded:
            self._loaded = number
            self._networks = {name: self._load(name, number) for name in self.paths if self._online[name]}
        for name, network in self._networks.items():
            for hidden_BPN in hidden_parts(batch, network.model.net.num_patches, network.parts):
                output_BO = network.model(batch["signal_BPT"], hidden_BPN, batch["observed_BP"])
                counted_BO = torch.nn.functional.pad(self._likelihood(output_BO), (0, 1), value=1.0)
                self._sums_of(name, number).index_add_(0, batch["recording_index_B"], counted_BO)

    def predict(self, name: str, number: int) -> Floats:
        """One network's predictions for its fold's test recordings, (n, O)."""
        fold = self.question.folds[number]
        if not self._online[name]:
            network = self._load(name, number)
            features = self.question.features(name.startswith("untrained"), fold, network.parts)
            feature_nD = torch.from_numpy(features[network.model.pooling][fold.test]).to(self.device)
            with torch.no_grad():
                return self._likelihood(network.model.head(feature_nD)).cpu().double().numpy()
        total_RO = self.strategy.reduce(self._sums_of(name, number), reduce_op="sum")
        assert isinstance(total_RO, Tensor)
        total_nO = total_RO.cpu().double().numpy()[fold.test]
        mean_nO: Floats = total_nO[:, :-1] / total_nO[:, -1:]
        return mean_nO

    def _load(self, name: str, number: int) -> FoldNetwork:
        network = load_network(self.paths[name][number])
        network.model.to(self.device)
        return network

    def _sums_of(self, name: str, number: int) -> Tensor:
        if (name, number) not in self._sums:
            shape = (len(self.question.data.recordings.table), self.question.num_outputs + 1)
            self._sums[name, number] = torch.zeros(shape, device=self.device)
        return self._sums[name, number]

    def _likelihood(self, output_BO: Tensor) -> Tensor:
        """Probabilities of classes; numbers as they are."""
        return output_BO.float().softmax(-1) if self.question.labels.classes else output_BO.float()


class ClinicalComparison:
    """Baselines and networks on the same folds.

    Args:
        baselines: by name; fitted in every fold.
        networks: of the sweep.
        question: with its folds.
        features: that baselines learn from.
    """

    def __init__(
        self,
        baselines: Mapping[str, ClinicalMethod],
        networks: FoldNetworks,
        question: Question,
        features: RecordingFeatures,
    ) -> None:
        self.baselines, self.networks, self.question, self.features = baselines, networks, question, features

    def update(self, batch: Batch, number: int) -> None:
        """Adds a batch of the test recordings of the fold of this number."""
        self.networks.update(batch, number)

    def compute(self, show: bool) -> tuple[Numbers, Arrays, pd.DataFrame]:
        """Scores of all methods with corrected paired tests, arrays for the report and the table of predictions.

        Args:
            show: a progress bar.
        """
        folds = range(len(self.question.folds))
        predicted: dict[str, list[Floats]] = {}
        for name in track(self.baselines, "baselines", disable=not show):
            predicted[name] = [self._baseline(name, number) for number in folds]
        for name in self.networks.paths:
            predicted[name] = [self.networks.predict(name, number) for number in folds]
        numbers, arrays, table = Predictions.of(self.question, predicted).scored()
        return with_corrected_p(numbers), arrays, table

    def _baseline(self, name: str, number: int) -> Floats:
        """A baseline's predictions for a fold's test recordings, cached so that a killed test can continue."""
        method, fold = self.baselines[name], self.question.folds[number]
        learning = self._learning(number)

        def predict() -> dict[str, NDArray[Any]]:
            method.fit(learning)
            return {"scores": method.predict(fold.test)}

        key = method.cache_key(learning)
        if key is None:
            return predict()["scores"]
        shared = {
            "fold": self.question.digest(fold),
            "groups": self._groups[self.question.rows].tolist(),
            "most_recordings": self.features.plan.most_recordings,
            "seed": self.question.data.seed,
            "paired": self.question.target.paired,
            "one_window": self.question.plan.one_window,
        }
        return cached(self.question.runs, {"method": key, **shared}, predict)["scores"]

    def _learning(self, number: int) -> FoldLearning:
        """Training data of a fold; includes the subjects by whom a network's checkpoint is chosen."""
        fold = self.question.folds[number]
        rows = self._drawn(np.concatenate([fold.train, fold.val]))
        return FoldLearning(
            rows=rows,
            labels_n=self.question.scale(fold).forward(self.question.labels.values_R[rows]),
            groups_n=self._groups[rows],
            num_classes=len(self.question.labels.classes),
            seed=self.question.data.seed,
            features=lambda name, rows: self.features.of(name, rows, fold),
            depends_on=self.features.depends_on,
        )

    def _drawn(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """At most `most_recordings` of the recordings: those whose names have the lowest hashes."""
        most = self.features.plan.most_recordings
        hashes = self.question.data.recordings.hashes
        return rows if len(rows) <= most else rows[np.argsort(hashes[rows])[:most]]

    @property
    def _groups(self) -> NDArray[Any]:
        """The subject or family of every recording with a label; '' of others."""
        groups = np.full(len(self.question.data.usable), "", dtype=object)
        people = self.question.data.recordings.table.iloc[self.question.rows]
        groups[self.question.rows] = fold_units(people, self.question.plan)
        return groups.astype(str)
