"""From cohorts to loaders: which recordings train, validate and test, in the same batches for any number of ranks.

Shapes: B batch, P parcels, T frames.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import joblib
import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.checks import check_atlas_trained, check_batches, check_together, no_windows
from brainlm_lightning.data.counts import check_counts, check_weights
from brainlm_lightning.data.division import TestSet, divide
from brainlm_lightning.data.joined_atlas import JoinedAtlas, joined_statistics
from brainlm_lightning.data.left_out import LeftOut
from brainlm_lightning.data.scaling import ScalingStatistics
from brainlm_lightning.data.schedule import (
    EvaluationBatches,
    TrainingBatches,
    TrainingSchedule,
    evaluation_windows,
    micro_batches,
    weighted_windows,
)
from brainlm_lightning.data.store import Store, open_cohort, training_statistics
from brainlm_lightning.data.windows import Batch, Recordings, WindowDataset, scale_on_device

LEAST = {
    **dict.fromkeys(("window_frames", "global_batch_size", "micro_batch_size", "windows_per_recording"), 1),
    **{"eval_batch_size": 1, "num_workers": 0, "seed": 0},
}
ScalingRecipe = Literal["robust", "robust_centred", "recording_zscore", "none"]


class ResumableLoader(DataLoader[Batch]):
    """A DataLoader whose position is kept by the DataModule; these methods tell Lightning that it is resumable."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see `CohortDataModule.state_dict`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing: see `CohortDataModule.load_state_dict`."""


class CohortDataModule(pl.LightningDataModule):
    """Streams windows of prepared cohorts.

    Trains and validates on the training and validation subjects of the cohorts. Tests on their test subjects, and on
    all subjects of ``test_cohorts``, which contribute to no training statistic.

    Args:
        cohorts: name of the cohort to train on, or several names with weights, their shares of the windows.
        test_cohorts: further cohorts, to be tested as a whole. They are scaled with the statistics of the first
            training cohort in their atlas.
        several_atlases: the cohorts may have different atlases, for pretraining. The model then knows the parcels of
            all, a recording has those of its own, and a training batch has recordings of one atlas.
        window_frames: T, number of frames in a window.
        global_batch_size: windows of one optimiser step, over all devices.
        micro_batch_size: windows that a device processes at once; None = its whole share of the global batch.
        windows_per_recording: windows drawn from each recording in an epoch.
        train_fraction: share of the training subjects to train on (table 1 of the paper: 0.01).
        leave_out: recordings of the training cohorts, whole sites for instance, that neither train nor validate. They
            are a test set of their own, `<cohort>_left_out`, beside the test subjects of what is left.
        scaling: ``robust`` (paper), ``robust_centred``, ``recording_zscore`` or ``none``; see `centre_and_scale`.
        eval_batch_size: windows in a validation or test batch on each device.
        num_workers: processes that read windows, as many as there are cores at most; 0 = the training process reads
            them.
        seed: seed of window starts, batches and masks.
    """

    def __init__(
        self,
        cohorts: str | dict[str, float],
        test_cohorts: list[str] | None = None,
        several_atlases: bool = False,
        window_frames: int = 200,
        global_batch_size: int = 512,
        micro_batch_size: int | None = None,
        windows_per_recording: int = 1,
        train_fraction: float = 1.0,
        leave_out: LeftOut | None = None,
        scaling: ScalingRecipe = "robust",
        eval_batch_size: int = 16,
        num_workers: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < train_fraction <= 1:
            raise ValueError(f"train_fraction {train_fraction} is outside (0, 1]")
        check_counts(LEAST, locals())
        self.weights = {cohorts: 1.0} if isinstance(cohorts, str) else dict(cohorts)
        check_weights(self.weights)
        self.test_cohorts = list(test_cohorts or [])
        self.several_atlases = several_atlases
        self.window_frames = window_frames
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.windows_per_recording = windows_per_recording
        self.train_fraction = train_fraction
        self.leave_out = leave_out
        self.scaling = scaling
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._position = {"epoch": 0, "batches": 0}
        self.dataset: WindowDataset | None = None

    # -- cohorts --------------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Opens the stores and checks them, before any long work starts."""
        if self.dataset is None:
            names = list(dict.fromkeys([*self.weights, *self.test_cohorts]))
            stores = [open_cohort(name) for name in names]
            check_together(stores, self.several_atlases)
            trained, tested = stores[: len(self.weights)], stores[len(self.weights) :]
            check_atlas_trained(trained, tested)
            self.recordings = Recordings.of(stores)
            cohorts = list(self.weights)
            division = divide(
                self.recordings, cohorts, self.test_cohorts, self.window_frames, self.train_fraction, self.leave_out
            )
            if division.unusable:
                rank_zero_info(f"left out: {division.unusable}")
            self.places, self.usable, self.num_short = division.places, division.usable, division.num_short
            self.train_rows, self.val_rows = division.train_rows, division.val_rows
            self.test_sets = division.test_sets
            of_atlas: dict[str, ScalingStatistics] = {}
            statistics = [self._training_statistics(store) for store in trained]
            for store, found in zip(trained, statistics, strict=True):
                of_atlas.setdefault(store.atlas.sha256, found)
            statistics += [of_atlas[store.atlas.sha256] for store in tested]
            self._statistics = joined_statistics([of_atlas[sha256] for sha256 in self.atlases.parts])
            self.dataset = WindowDataset(self.recordings, self.scaling, statistics, self.window_frames)
            self.num_workers = self._readers()
        if stage == "fit":
            self._share_out()

    def _readers(self) -> int:
        """The number of reading processes: as asked for, or that of the cores where it is lower."""
        readers: int = min(self.num_workers, joblib.cpu_count())  # respects affinity and a container's share
        if readers < self.num_workers:
            rank_zero_info(f"data.num_workers is {self.num_workers}; {readers} read, since there are as many cores")
        return readers

    def _training_statistics(self, store: Store) -> ScalingStatistics:
        """Scaling statistics of a cohort's training subjects, of no others than it trains on."""
        if self.train_fraction == 1 and self.leave_out is None:
            return store.statistics
        kept = self.recordings.table.iloc[self.train_rows]
        kept = kept[kept["cohort"] == store.name]
        if not len(kept):
            raise no_windows("train", self.recordings.table, [store.name], self.window_frames)
        return training_statistics(store, set(kept["subject_id"]))

    def use_rows(self, train: np.ndarray, val: np.ndarray, test_sets: list[TestSet], stage: str) -> None:
        """Replaces the stored split, for a task with its own folds; to be called in its `setup`.

        Raises:
            ValueError: ``leave_out`` asks for another division.
        """
        if self.leave_out is not None:
            raise ValueError("data.leave_out is for tasks without folds; this one has model.init_args.folds.leave_out")
        self.train_rows, self.val_rows, self.test_sets = train, val, test_sets
        if stage == "fit":
            self._share_out()

    def use_test_sets(self, test_sets: list[TestSet]) -> None:
        """Tests on these in place of the cohorts' own; call it in a task's `setup`."""
        self.test_sets = test_sets

    def _share_out(self) -> None:
        """Plans the training batches, and their micro-batches on each device."""
        if not len(self.val_rows):
            raise no_windows("val", self.recordings.table, list(self.weights), self.window_frames)
        table = self.recordings.table.iloc[self.train_rows]
        groups = tuple(self.train_rows[(table["cohort"] == name).to_numpy()] for name in self.weights)
        for name, rows in zip(self.weights, groups, strict=True):
            if not len(rows):
                raise no_windows("train", self.recordings.table, [name], self.window_frames)
        kinds = list(self.atlases.parts)
        weights = list(self.weights.values())
        sizes = [len(rows) for rows in groups]
        weights = [float(size) for size in sizes] if len(weights) == 1 else weights
        self.schedule = TrainingSchedule(
            hashes=self.recordings.hashes,
            places=self.places,
            groups=groups,
            windows=weighted_windows(sizes, weights, self.windows_per_recording),
            global_batch_size=self.global_batch_size,
            seed=self.seed,
            kinds=tuple(kinds.index(store.atlas.sha256) for store in self.stores[: len(self.weights)]),
        )
        trainer = self._trainer()
        check_batches(self.schedule, list(self.weights), weights, trainer.world_size * (self.micro_batch_size or 1))
        self.accumulate = micro_batches(self.global_batch_size, trainer.world_size, self.micro_batch_size)
        trainer.accumulate_grad_batches = self.accumulate

    # -- loaders --------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> ResumableLoader:
        """This rank's micro-batches, from the position of a resumed checkpoint.

        Raises:
            ValueError: an epoch of the resumed run had another number of micro-batches.
        """
        trainer = self._trainer()
        batches = TrainingBatches(
            self.schedule,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            accumulate=self.accumulate,
            epoch=self._position["epoch"],
            skip=self._position["batches"],
        )
        if self._position.get("of", len(batches)) != len(batches):
            raise ValueError(
                f"an epoch of the checkpoint's run has {self._position['of']} micro-batches, here it has "
                f"{len(batches)}, so the run cannot be resumed where it stopped; keep cohorts, train_fraction, "
                "windows_per_recording, global_batch_size and micro_batch_size × devices unchanged"
            )
        return self._loader(batches)

    def val_dataloader(self) -> ResumableLoader:
        """All windows of the validation subjects, the same in each epoch."""
        return self._own_share(self.val_rows)

    def test_dataloader(self) -> list[ResumableLoader]:
        """One loader for each of ``test_sets``, which a task may replace in its `setup`.

        Raises:
            ValueError: a test set is empty.
        """
        for test_set in self.test_sets:
            if not len(test_set.rows):
                raise no_windows("test", self.recordings.table, [test_set.name], self.window_frames)
        return [self._test_loader(test_set) for test_set in self.test_sets]

    def _test_loader(self, test_set: TestSet) -> ResumableLoader:
        if test_set.batches is None:
            return self._own_share(test_set.rows)
        trainer = self._trainer()
        return self._loader(test_set.batches[trainer.global_rank :: trainer.world_size])

    def _own_share(self, rows: np.ndarray) -> ResumableLoader:
        trainer = self._trainer()
        return self.evaluation_loader(rows, trainer.global_rank, trainer.world_size)

    def evaluation_loader(self, rows: np.ndarray, rank: int = 0, world_size: int = 1) -> ResumableLoader:
        """A rank's share of all windows of some recordings, the same in each call."""
        windows = evaluation_windows(self.recordings.hashes, self.places, rows, self.seed)
        return self._loader(EvaluationBatches(windows, self.eval_batch_size, rank, world_size))

    def _loader(self, batches: Iterable[Any]) -> ResumableLoader:
        assert self.dataset is not None
        return ResumableLoader(
            self.dataset,
            batch_sampler=batches,  # yields requests, which the dataset answers with whole batches
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self._trainer().strategy.root_device.type == "cuda",
            collate_fn=_as_it_is,
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Scales on the device, so that half-precision values are transferred."""
        return scale_on_device(batch)

    def _trainer(self) -> pl.Trainer:
        if self.trainer is None:
            raise RuntimeError("the CohortDataModule is driven by a Trainer; pass it to fit, validate or test")
        return self.trainer

    # -- resuming -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The position in the schedule: the epoch and the number of its micro-batches that are done."""
        loop: Any = self._trainer().fit_loop
        # Derived from the total count: Lightning's epoch counts are off by one after some resumptions.
        epoch, done = divmod(loop.epoch_loop.batch_progress.total.processed, loop.max_batches)
        return {"epoch": epoch, "batches": done, "of": self.schedule.num_batches * self.accumulate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a position from `state_dict`; `train_dataloader` checks that it fits."""
        self._position = dict(state_dict)

    # -- what others need to know ---------------------------------------------------------------------------------

    @property
    def stores(self) -> tuple[Store, ...]:
        """The stores, the first training cohort's first."""
        return self.recordings.stores

    @property
    def atlases(self) -> JoinedAtlas:
        """The atlases of the stores, joined; with ``several_atlases`` there may be more than one."""
        return self.recordings.atlases

    @property
    def atlas(self) -> Atlas:
        """The parcels of a batch."""
        return self.atlases.whole

    def scaled_recordings(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields recordings, scaled (P, frames), with their observed parcels (P,), to fit baselines on.

        Each comes whole; where frames are marked as missing, the stretches without them that hold a window, one by one.
        """
        assert self.dataset is not None
        for row in rows.tolist():
            series_PF, observed_P = self.dataset.scaled_recording(row)
            for first, length in self.places.stretches(row).tolist():
                yield series_PF[:, first : first + length], observed_P

    def statistics(self) -> ScalingStatistics:
        """Scaling statistics of the first training cohort, of each atlas, unless others were adopted."""
        return self._statistics

    def adopt_statistics(self, statistics: ScalingStatistics) -> None:
        """Scales every cohort with a pretrained model's statistics; to be called before the first loader is made.

        Raises:
            ValueError: the statistics have another number of parcels.
        """
        assert self.dataset is not None
        given, expected = len(statistics.robust.centre), self.atlas.num_parcels
        if given != expected:
            raise ValueError(
                f"scaling statistics of {given} parcels for cohorts of {expected} parcels; use one atlas for both"
            )
        self._statistics = statistics
        self.dataset.use_statistics(statistics)


def _as_it_is(batch: Any) -> Any:
    return batch
