"""All methods on identical folds: what each says of every subject while the subject is held out.

Shapes: B batch, R recordings (rows of the table), n predictions, F folds, K outputs, P parcels, T frames, D width.
"""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.comparison import with_corrected_p
from brainlm_lightning.tasks.clinical.embedding import hidden_parts, kept
from brainlm_lightning.tasks.clinical.folds import Fold
from brainlm_lightning.tasks.clinical.methods import METHODS, Training, confound_columns, correlations, pipeline, scores
from brainlm_lightning.tasks.clinical.predictions import Predictions
from brainlm_lightning.tasks.clinical.saved import FoldNetwork, check_fold, find_networks, is_online, load_network

if TYPE_CHECKING:
    from brainlm_lightning.tasks.clinical.task import ClinicalTask

Scores = NDArray[np.floating]


class ClinicalTest:
    """Gathers what every method says of the test recordings of every fold.

    Args:
        task: with its question and its Trainer's data.
    """

    def __init__(self, task: "ClinicalTask") -> None:
        self.task, self.question, self.data = task, task.question, task.datamodule
        self.paths = find_networks(task.sweep_folder, len(self.question.folds))
        rank_zero_info(
            f"networks: {', '.join(self.paths) or f'none below {task.sweep_folder}: run fit first for them'}"
        )
        self.networks: dict[str, FoldNetwork] = {}
        self.loaded = -1
        self.sums: dict[tuple[str, int], Tensor] = {}  # (R, K + 1) of a fold's test rows: sums over windows, and count
        digests = [self.question.digest(fold) for fold in self.question.folds]
        self.online: dict[str, bool] = {}
        for name, paths in self.paths.items():
            abouts = [check_fold(path, digest) for path, digest in zip(paths, digests, strict=True)]
            self.online[name] = is_online(abouts[0])

    # -- networks ---------------------------------------------------------------------------------------------------

    def update(self, batch: Batch, number: int) -> None:
        """Adds a batch of a fold's test windows, all parts of each, through the networks whose encoder must run."""
        if number != self.loaded:
            self.loaded = number
            self.networks = {name: self._load(name, number) for name in self.paths if self.online[name]}
        for name, network in self.networks.items():
            for hidden_BPN in hidden_parts(batch, network.model.net.num_patches, network.parts):
                output_BK = network.model(batch["signal_BPT"], hidden_BPN, batch["observed_BP"])
                counted_BK = torch.nn.functional.pad(self._likelihood(output_BK), (0, 1), value=1.0)
                self._sums(name, number).index_add_(0, batch["recording_index_B"], counted_BK)

    def _load(self, name: str, number: int) -> FoldNetwork:
        network = load_network(self.paths[name][number])
        network.model.to(self.task.device)
        return network

    def _sums(self, name: str, number: int) -> Tensor:
        if (name, number) not in self.sums:
            shape = (len(self.data.recordings.table), self.question.num_outputs + 1)
            self.sums[name, number] = torch.zeros(shape, device=self.task.device)
        return self.sums[name, number]

    def _network_says(self, name: str, number: int) -> Scores:
        """What a network says of a fold's test recordings."""
        fold = self.question.folds[number]
        if not self.online[name]:
            network, untrained = self._load(name, number), name.startswith("untrained")
            feature_RD = self.question.features(untrained, fold, network.parts)[network.model.pooling]
            with torch.no_grad():
                output_BK = network.model.head(torch.from_numpy(feature_RD[fold.test]).to(self.task.device))
            return self._likelihood(output_BK).cpu().double().numpy()
        total_RK = self.task.trainer.strategy.reduce(self._sums(name, number), reduce_op="sum")
        assert isinstance(total_RK, Tensor)
        total_RK = total_RK.cpu().double().numpy()[fold.test]
        return total_RK[:, :-1] / total_RK[:, -1:]

    def _likelihood(self, output_BK: Tensor) -> Tensor:
        """Probabilities of classes; numbers as they are."""
        return output_BK.float().softmax(-1) if self.question.labels.classes else output_BK.float()

    # -- baselines --------------------------------------------------------------------------------------------------

    def _baseline(self, method: str, number: int) -> Scores:
        """What a baseline says of a fold's test recordings, fitted on its training ones; kept, so a test can go on."""
        fold, features = self.question.folds[number], METHODS[method][0]
        what: dict[str, Any] = {
            "method": method,
            "fold": self.question.digest(fold),
            "connectivity": self.task.baselines.connectivity if features == "connectivity" else None,
            "confounds": self._confound_values if features == "confounds" else None,
            "groups": self._groups[self.question.rows].tolist(),
            "parts": self.task.parts if features.endswith("embedding") else None,
            "most_recordings": self.task.baselines.most_recordings,
            "seed": self.data.seed,
        }
        return kept(self.question.runs, what, lambda: {"scores": self._fitted(method, fold)})["scores"]

    def _fitted(self, method: str, fold: Fold) -> Scores:
        features, estimator = METHODS[method]
        training = self._drawn(np.concatenate([fold.train, fold.val]))
        labels_n = self.question.scale(fold).forward(self.question.labels.values_R[training])
        groups_n = self._groups[training]
        num_classes = len(self.question.labels.classes)
        given = Training(labels_n, groups_n, num_classes, self.data.seed)
        of = self._features(features, fold)
        fitted = pipeline(features, estimator, given, self.task.baselines.connectivity).fit(of(training), labels_n)
        return scores(fitted, of(fold.test), num_classes)

    def _drawn(self, rows: NDArray) -> NDArray:
        """Of too many recordings, those with the lowest hash of their names."""
        most = self.task.baselines.most_recordings
        return rows if len(rows) <= most else rows[np.argsort(self.data.recordings.hashes[rows])[:most]]

    def _features(self, name: str, fold: Fold) -> Callable[[NDArray], Any]:
        """Rows of the table to features of a method."""
        if name == "none":
            return lambda rows: np.zeros((len(rows), 1))
        if name == "confounds":
            return lambda rows: self.data.recordings.table[self.confounds].iloc[rows]
        if name == "raw":
            frames = self.data.window_frames
            return lambda rows: np.stack([self._series(row)[:, :frames].ravel() for row in rows])
        if name == "connectivity" and self.task.baselines.connectivity == "tangent":
            return lambda rows: [self._series(row).T for row in rows]
        if name == "connectivity":
            place = {row: number for number, row in enumerate(self.question.rows.tolist())}
            return lambda rows: self._correlations[[place[row] for row in rows.tolist()]]
        both = self.question.features(name.startswith("untrained"), fold, self.task.parts)
        feature_RD = np.concatenate([both["cls"], both["mean"]], axis=1)
        return lambda rows: feature_RD[rows]

    def _series(self, row: int) -> NDArray[np.float32]:
        assert self.data.dataset is not None
        return self.data.dataset.scaled_recording(int(row))[0]

    @cached_property
    def _correlations(self) -> NDArray[np.float32]:
        rows = track(self.question.rows, "connectivity", disable=len(self.question.rows) < 200)
        return correlations(self._series(row).T for row in rows)

    @cached_property
    def confounds(self) -> list[str]:
        """The confounds that this cohort has."""
        table = self.data.recordings.table.iloc[self.question.rows]
        return confound_columns(table, self.task.baselines.confounds, self.question.target.column)

    @cached_property
    def _confound_values(self) -> dict[str, list[str]]:
        table = self.data.recordings.table.iloc[self.question.rows]
        return {name: table[name].astype(str).tolist() for name in self.confounds}

    @cached_property
    def _groups(self) -> NDArray:
        table = self.data.recordings.table
        return table[self.question.plan.family or "subject_id"].astype(str).to_numpy()

    # -- all --------------------------------------------------------------------------------------------------------

    def compute(self) -> tuple[dict[str, float], dict[str, np.ndarray], dict[str, pd.DataFrame]]:
        """Scores of all methods with corrected paired tests, arrays for the report and the table of predictions."""
        said = {name: [self._network_says(name, number) for number in range(self._num_folds)] for name in self.paths}
        baselines = [name for name in METHODS if self.confounds or METHODS[name][0] != "confounds"]
        for name in track(baselines, "baselines", disable=self.task.global_rank > 0):
            said[name] = [self._baseline(name, number) for number in range(self._num_folds)]
        predictions = Predictions.of(self.question, {name: said[name] for name in [*baselines, *self.paths]})
        results, arrays, table = predictions.scored()
        return with_corrected_p(results), arrays, {"predictions": table}

    @property
    def _num_folds(self) -> int:
        return len(self.question.folds)
