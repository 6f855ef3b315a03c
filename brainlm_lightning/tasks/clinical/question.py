"""A phenotype to be predicted: labels, folds, the pretrained encoder and its control.

Shapes: R recordings (rows of the table), D width.
"""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from brainlm_lightning.checkpoint.description import subject_digest
from brainlm_lightning.checkpoint.pretrained import Pretrained, untrained
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.parcellation import UNKNOWN_NETWORK
from brainlm_lightning.embedding.definitions import WindowEmbedding, check_model, named_embeddings
from brainlm_lightning.embedding.recordings import embed_recordings
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.tasks.clinical.cache import cached, cached_with, digest_of
from brainlm_lightning.tasks.clinical.embedding import embed
from brainlm_lightning.tasks.clinical.folds import Fold, FoldPlan
from brainlm_lightning.tasks.clinical.labels import Labels, Target, TargetScale, read_labels
from brainlm_lightning.tasks.clinical.recording_folds import recording_folds

KEY = "clinical"  # of a checkpoint's entry that says what is predicted


@dataclass(frozen=True)
class Question:
    """Which phenotype is predicted for which subjects with which encoder.

    Attributes:
        data: the cohort.
        target: the phenotype.
        plan: of the folds.
        labels: of all recordings.
        rows: recordings with a label and a window.
        folds: as rows; all repeats.
        pretrained: the encoder.
        runs: folder of all runs, where embeddings and controls are kept, shared by all experiments.
    """

    data: CohortDataModule
    target: Target
    plan: FoldPlan
    labels: Labels
    rows: NDArray[Any]
    folds: list[Fold]
    pretrained: Pretrained
    runs: Path

    @classmethod
    def from_data(
        cls, data: CohortDataModule, pretrained: Pretrained, target: Target, plan: FoldPlan, runs: Path
    ) -> "Question":
        """Reads the labels, checks them, and deals the subjects out to folds.

        Raises:
            ValueError: the question cannot be asked of these data; says why.
        """
        if data.test_cohorts or data.train_fraction != 1:
            raise ValueError(
                "folds take all subjects of data.cohorts: leave data.test_cohorts and data.train_fraction out. To test "
                "on a whole cohort, name it in data.cohorts and set folds.leave_out to cohort"
            )
        table = data.recordings.table
        labels = read_labels(table, target, data.usable)
        rows = np.flatnonzero(data.usable & labels.known_R)
        folds = recording_folds(table, labels, rows, plan, pretrained.seen)
        question = cls(data, target, plan, labels, rows, folds, pretrained, runs)
        rank_zero_info(question.summary())
        return question

    # -- counts -----------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Numbers of subjects: with and without a label, tested, and tested though seen in pretraining."""
        table = self.data.recordings.table
        subjects = table["subject_id"].to_numpy()
        tests = np.unique(np.concatenate([fold.test for fold in self.folds]))
        seen = tests[self.pretrained.seen(table.iloc[tests])]
        without = np.setdiff1d(subjects[self.data.usable & ~self.labels.known_R], subjects[self.rows])
        return {
            "num_subjects": len(np.unique(subjects[self.rows])),
            "num_tested": len(np.unique(subjects[tests])),
            "num_tested_seen_in_pretraining": len(np.unique(subjects[seen])),
            "num_without_label": len(without),
            "num_folds": len(self.folds),
        }

    def summary(self) -> str:
        """The counts as a sentence for the log."""
        of = self.counts()
        return (
            f"{self.target.column}: {of['num_subjects']} subjects with a label ({of['num_without_label']} without were "
            f"left out), {of['num_tested']} of them in the test folds, of whom the pretraining has seen "
            f"{of['num_tested_seen_in_pretraining']}; {of['num_folds']} folds"
        )

    @property
    def num_outputs(self) -> int:
        """O: one for a number, else one for each class."""
        return len(self.labels.classes) or 1

    @property
    def cohort(self) -> str:
        """Name of the cohort, or of several."""
        return "+".join(self.data.weights)

    # -- folds ------------------------------------------------------------------------------------------------------

    def scale(self, fold: Fold) -> TargetScale:
        """The scale of a fold's labels, from its training subjects (those who choose the checkpoint are among them)."""
        training = np.concatenate([fold.train, fold.val])
        return TargetScale.fit(self.target.scale, self.labels.values_R[training])

    def digest(self, fold: Fold) -> str:
        """A digest of what a fold's result depends on: its subjects' series and labels, and the encoder."""
        parts = [
            [self._recordings(rows), self.labels.values_R[rows].tolist()] for rows in (fold.train, fold.val, fold.test)
        ]
        return digest_of([parts, self.target.scale, self.checkpoint_sha256()])

    def checkpoint_sha256(self) -> str:
        """Hash of the pretrained model's file."""
        with self.pretrained.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    # -- encoders ---------------------------------------------------------------------------------------------------

    def start_rows(self, fold: Fold) -> NDArray[Any]:
        """Recordings from whose covariances the control starts: the pretraining's, else the fold's training ones.

        So the control has seen no test subject that the pretrained model has not.
        """
        digests = set(self.pretrained.about["subjects"]["train"])
        subjects = self.data.recordings.table["subject_id"]
        own = self.data.usable & subjects.map(lambda name: subject_digest(name) in digests).to_numpy(dtype=bool)
        return np.flatnonzero(own) if own.any() else fold.train

    def encoder(self, without_pretraining: bool, fold: Fold) -> MaskedModel:
        """The pretrained encoder, or the same before its first step; each call gives a model of its own."""
        net = copy.deepcopy(self.pretrained.model)
        if without_pretraining:
            key = {"control_of": self.checkpoint_sha256(), "from": self._recordings(self.start_rows(fold))}
            weights = cached(self.runs, key, lambda: self._control(fold))
            net.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        return net

    def _control(self, fold: Fold) -> dict[str, NDArray[Any]]:
        """The weights of the model before its first step."""
        net = untrained(self.pretrained, self.data, rows=self.start_rows(fold))
        return {name: value.numpy() for name, value in net.state_dict().items()}

    def _recordings(self, rows: NDArray[Any]) -> list[list[str]]:
        """Names and hashes of recordings, from which their windows, keys and embeddings follow."""
        table = self.data.recordings.table.iloc[rows]
        return [(table["cohort"] + "/" + table["recording_id"]).tolist(), table["sha256"].tolist()]

    def features(
        self, without_pretraining: bool, fold: Fold, parts: int, device: torch.device | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Embeddings of all recordings by a frozen encoder, computed once.

        Args:
            without_pretraining: of the control.
            fold: from whose training subjects the control may start.
            parts: see `hidden_parts`.
            device: on which they are computed; None = the CPU.

        Returns:
            What `embed` returns, each (R, D) by row of the table; NaN for recordings without a window.
        """
        rows = np.flatnonzero(self.data.usable)
        key = {
            "checkpoint": self.checkpoint_sha256(),
            "control_from": self._recordings(self.start_rows(fold)) if without_pretraining else None,
            "parts": parts,
            "of": self._recordings(rows),
            "seed": self.data.seed,
            "one_window": self.plan.one_window,
        }
        found = cached(
            self.runs, key, lambda: embed(self.encoder(without_pretraining, fold).to(device), self.data, rows, parts)
        )
        full = {
            name: np.full((len(self.data.usable), array.shape[1]), np.nan, np.float32) for name, array in found.items()
        }
        for name, array in found.items():
            full[name][rows] = array
        return full

    @cached_property
    def _definitions(self) -> Mapping[str, WindowEmbedding]:
        return named_embeddings(list(self.data.atlas.networks), UNKNOWN_NETWORK)

    @property
    def known_embeddings(self) -> list[str]:
        """Names of the embeddings of windows that `embedding` computes."""
        return list(self._definitions)

    def check_embedding(self, name: str, parts: int) -> None:
        """Raises ValueError where the pretrained encoder cannot have an embedding, taking windows in so many parts."""
        check_model([self._definitions[name]], self.pretrained.model, parts)

    def embedding(
        self, name: str, without_pretraining: bool, fold: Fold, parts: int, others: Sequence[str] = ()
    ) -> NDArray[np.float32]:
        """An embedding of all recordings by a frozen encoder, computed once.

        Args:
            name: of the embedding; see `embedding.definitions`.
            without_pretraining: of the control.
            fold: from whose training subjects the control may start.
            parts: see `hidden_parts`.
            others: embeddings of the same encoder that will be asked for, too: they are computed in the same go.

        Returns:
            (R, F) for the recordings in ``rows``.
        """
        shared = {
            "checkpoint": self.checkpoint_sha256(),
            "control_from": self._recordings(self.start_rows(fold)) if without_pretraining else None,
            "parts": parts,
            "of": self._recordings(self.rows),
            "seed": self.data.seed,
            "one_window": self.plan.one_window,
        }

        def embed_all(names: list[str]) -> dict[str, NDArray[np.float32]]:
            wanted = {own: self._definitions[own] for own in names}
            return embed_recordings(self.encoder(without_pretraining, fold), self.data, self.rows, wanted, parts)

        keys = {own: {"embedding": own, **shared} for own in sorted({name, *others})}
        return cached_with(self.runs, name, keys, embed_all)
