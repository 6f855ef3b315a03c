"""How well the future is forecast: every method on the same windows (paper, table 3 and figure 4).

For every test set each method's sums over the horizon are kept by recording, once for each parcel and once for each
frame; all scores, intervals and paired tests follow from them.

Shapes: B batch, P parcels, T frames, C context, H horizon, R recordings, U subjects.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track

from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.comparison import compare, compare_frames, correct, subject_mse
from brainlm_lightning.evaluation.metrics import r2, scores
from brainlm_lightning.evaluation.names import MetricName, parsed
from brainlm_lightning.evaluation.resampling import SIGNIFICANCE
from brainlm_lightning.tasks.compare import Arrays, Numbers, Shown, TestedSet
from brainlm_lightning.tasks.forecast.methods import ForecastLearning, ForecastMethod, Past
from brainlm_lightning.tasks.forecast.net import ForecastPlan, ForecastWindow
from brainlm_lightning.tasks.forecast.score import HorizonSums, frame_scores

Sets = TestedSet[ForecastMethod]


class ForecastScore:
    """Keeps each method's sums over the horizon; see `Score`.

    Args:
        plan: where windows are cut, and on which scale they are forecast.
        data: after its setup.
        reference: the method that the others are compared with.
        device: where the windows are.
    """

    def __init__(self, plan: ForecastPlan, data: CohortDataModule, reference: str, device: torch.device) -> None:
        self.plan, self.data, self.reference, self.device = plan, data, reference, device
        self._sums: dict[tuple[str, str], HorizonSums] = {}
        self._windows: dict[str, torch.Tensor] = {}
        self._shown = Shown()

    def update(self, test_set: Sets, methods: Mapping[str, ForecastMethod], batch: Batch) -> None:
        """See `Score.update`."""
        window, index_B, of = self.plan.cut(batch), test_set.index(batch), self._condition(test_set)
        past = past_of(batch, window, test_set.ids(batch), self.plan.horizon_frames)
        self._windows[test_set.name] = self._count(test_set) + len(index_B)
        for name, method in methods.items():
            with method.precision(self.device):
                forecast_BPH = method.forecast(past).float()
            self._sums_of(test_set, name).update(forecast_BPH, window.future_BPH, window.observed_BP, index_B)
            self._shown.add(MetricName(of.cohort, of.condition, name, "forecast_BPH"), forecast_BPH)
        for name, values in (("context_BPC", window.context_BPC), ("future_BPH", window.future_BPH)):
            self._shown.add(MetricName(of.cohort, of.condition, "", name), values)

    def compute(self, test_set: Sets, methods: Sequence[str]) -> tuple[Numbers, Arrays]:
        """See `Score.compute`."""
        arrays = self._shown.arrays()
        if not len(test_set.rows):
            return {}, arrays
        subject_R, of = test_set.subject_R, self._condition(test_set)
        arrays[of.of("subject_U")] = np.unique(subject_R)
        arrays[of.of("time_s_H")] = np.arange(1, self.plan.horizon_frames + 1) * self.tr_s
        numbers: Numbers = {}
        for found, drawn in (
            self._scores(of, test_set, methods),
            self._pairs(of, test_set, methods),
            (self._counts(of, test_set), {}),
        ):
            numbers |= found
            arrays |= drawn
        return numbers, arrays

    @property
    def tr_s(self) -> float:
        """Seconds between frames."""
        return float(self.data.stores[0].tr_s)

    # -- pieces ---------------------------------------------------------------------------------------------------

    def _condition(self, test_set: Sets) -> MetricName:
        return MetricName(test_set.name, f"horizon{self.plan.horizon_frames}")

    def _sums_of(self, test_set: Sets, name: str) -> HorizonSums:
        key = (test_set.name, name)
        if key not in self._sums:
            num_parcels = self.data.atlas.num_parcels
            self._sums[key] = HorizonSums(len(test_set.rows), num_parcels, self.plan.horizon_frames, self.device)
        return self._sums[key]

    def _count(self, test_set: Sets) -> torch.Tensor:
        return self._windows.get(test_set.name, torch.zeros((), device=self.device))

    def _scores(self, condition: MetricName, test_set: Sets, methods: Sequence[str]) -> tuple[Numbers, Arrays]:
        """Scores of each method over the horizon, and at each frame."""
        numbers: Numbers = {}
        arrays: Arrays = {}
        for name in methods:
            of = MetricName(condition.cohort, condition.condition, name)
            sums_RPK, sums_RHK = self._sums_of(test_set, name).compute()
            numbers |= {of.of(score): value for score, value in scores(sums_RPK, test_set.subject_R).items()}
            by_frame = frame_scores(sums_RHK, test_set.subject_R)
            arrays |= {of.of(f"{score}_3H"): value for score, value in by_frame.items()}
            arrays[of.of("r2_P")] = r2(sums_RPK.sum(0))
            arrays[of.of("mse_SH")] = subject_mse(sums_RHK, test_set.subject_R)
        return numbers, arrays

    def _pairs(self, condition: MetricName, test_set: Sets, methods: Sequence[str]) -> tuple[Numbers, Arrays]:
        """The reference against every other: R² over the horizon, and squared error at each frame."""
        sums = {name: self._sums_of(test_set, name).compute() for name in methods}
        by_parcel = {name: sums_RPK for name, (sums_RPK, _) in sums.items()}
        compared = compare(by_parcel, test_set.subject_R, self.reference)
        numbers = {condition.of(pair): value for pair, value in compared.items()}
        arrays: Arrays = {}
        reference = MetricName(condition.cohort, condition.condition, self.reference)
        for other in (name for name in methods if name != self.reference):
            pair = reference.against(other)
            found = compare_frames(sums[self.reference][1], sums[other][1], test_set.subject_R)
            arrays[pair.of("mse_3H")] = np.stack([found.difference, found.low, found.high])
            arrays[pair.of("p_H")] = found.p
        return numbers, arrays

    def _counts(self, condition: MetricName, test_set: Sets) -> Numbers:
        """What was tested, and what did not fit into windows."""
        windows = float(self._reduced(self._count(test_set)))
        short, beyond = _left_out(self.data, test_set)
        rank_zero_info(
            f"{test_set.name}: {windows:g} windows of {len(test_set.rows)} recordings; "
            f"{short} recordings are too short for one, {beyond} frames at recordings' ends fill none"
        )
        counts = {
            "horizon_s": self.plan.horizon_frames * self.tr_s,
            "num_windows": windows,
            "num_recordings_too_short": float(short),
            "num_frames_in_no_window": float(beyond),
        }
        return {condition.of(name): value for name, value in counts.items()}

    def _reduced(self, count: torch.Tensor) -> torch.Tensor:
        trainer = self.data.trainer
        assert trainer is not None
        reduced = trainer.strategy.reduce(count, reduce_op="sum")
        assert isinstance(reduced, torch.Tensor)
        return reduced


def correct_frames(numbers: Numbers, arrays: Arrays) -> tuple[Numbers, Arrays]:
    """Corrects the tests over the horizon and at its frames together; counts the frames that tell."""
    over_horizon = [name for name in numbers if name.endswith("/p")]
    at_frames = [name for name in parsed(arrays) if name.score == "p_H"]
    p_values = [np.array([numbers[name] for name in over_horizon]), *(arrays[str(name)] for name in at_frames)]
    corrected = correct(np.concatenate(p_values)) if p_values else np.array([])
    parts = np.split(corrected, np.cumsum([len(part) for part in p_values])[:-1])
    numbers |= {f"{name}_corrected": float(p) for name, p in zip(over_horizon, parts[0], strict=True)}
    for name, p_H in zip(at_frames, parts[1:], strict=True):
        difference_H = arrays[name.of("mse_3H")][0]
        del arrays[str(name)]
        arrays[name.of("p_corrected_H")] = p_H
        for word, side_H in (("better", difference_H < 0), ("worse", difference_H > 0)):
            numbers[name.of(f"num_frames_{word}")] = float(((p_H < SIGNIFICANCE) & side_H).sum())
    return numbers, arrays


def past_of(batch: Batch, window: ForecastWindow, ids: Sequence[str], horizon_frames: int) -> Past:
    """What methods may look at of a batch of windows."""
    scaled_BPC = batch["signal_BPT"][:, :, :-horizon_frames]
    return Past(
        window.context_BPC,
        window.observed_BP,
        horizon_frames,
        scaled_BPC,
        ids,
        batch["start_B"],
        window.standardised,
    )


def _left_out(data: CohortDataModule, test_set: Sets) -> tuple[int, int]:
    """How many recordings are too short for a window, and how many frames fill none."""
    rows = test_set.rows
    frames = data.recordings.table["num_frames"].to_numpy()[rows]
    beyond = frames - data.places.num_side_by_side(rows) * data.window_frames
    return data.num_short[test_set.name], int(beyond.sum())


def learning_data(plan: ForecastPlan, data: CohortDataModule, show: bool) -> ForecastLearning:
    """Windows of training and validation subjects, cut as those of the test are.

    Args:
        plan: where windows are cut.
        data: after its setup.
        show: progress bars.
    """

    def training(name: str) -> Iterator[ForecastWindow]:
        return _windows(plan, data, track(data.train_rows, f"fitting {name}", disable=not show))

    return ForecastLearning(training, list(_windows(plan, data, data.val_rows)))


def _windows(plan: ForecastPlan, data: CohortDataModule, rows: Iterable[int]) -> Iterator[ForecastWindow]:
    """As few windows of each stretch as hold all its frames, evenly spread; all of one stretch at once.

    A stretch is a whole recording, or what lies between its frames marked as missing.
    """
    dataset, window_frames = data.dataset, data.window_frames
    assert dataset is not None
    for row in map(int, rows):
        series_PF, observed_P = dataset.scaled_recording(row)
        _, unit_1P = dataset.scaling(np.array([row]))
        for first, length in data.places.stretches(row).tolist():
            room = length - window_frames
            starts = first + np.linspace(0, room, 1 + -(-room // window_frames)).round().astype(int)
            signal_BPT = torch.from_numpy(np.stack([series_PF[:, s : s + window_frames] for s in starts]))
            unit_BP, observed_BP = (
                torch.from_numpy(np.broadcast_to(each, signal_BPT.shape[:2]).copy()) for each in (unit_1P, observed_P)
            )
            yield plan.cut_windows(signal_BPT, unit_BP, observed_BP)
