"""How well the future is forecast: the trained forecaster beside others, on the same windows (table 3, figure 4).

For every test cohort each method's sums over the horizon are kept by recording, once for each parcel and once for each
frame; all scores, intervals and paired tests follow from them.

Shapes: B batch, P parcels, T frames, C context, H horizon, R recordings, S subjects, K sums.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track
from torch import Tensor

from brainlm_lightning.checkpoint.pretrained import Pretrained, refuse_seen
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.comparison import compare, compare_frames, subject_mse, with_corrected_p
from brainlm_lightning.evaluation.metrics import r2, scores
from brainlm_lightning.simulation.optimum import Optimum
from brainlm_lightning.tasks.compare import known_optimum
from brainlm_lightning.tasks.contrasts.contrast import parcel_arrays
from brainlm_lightning.tasks.forecast.methods import AR, VAR, FittedBaseline, ForecastBaseline, Persistence, Zero
from brainlm_lightning.tasks.forecast.net import Forecaster, ForecastWindow, cut
from brainlm_lightning.tasks.forecast.saved import load_forecaster
from brainlm_lightning.tasks.forecast.score import HorizonSums, frame_scores

if TYPE_CHECKING:
    from brainlm_lightning.tasks.forecast.task import ForecastTask

SHOWN_WINDOWS = 4  # kept of each cohort, for figures
SIGNIFICANT = 0.05
Method = Callable[[Batch, ForecastWindow], Tensor]


def default_forecast_baselines() -> dict[str, ForecastBaseline]:
    """What every forecaster is compared with."""
    return {"zero": Zero(), "persistence": Persistence(), "ar": AR(), "var": VAR()}


class ForecastTest:
    """Gathers the sums of every cohort and method.

    Args:
        task: with its trained forecaster and its Trainer's data. Its baselines are fitted here.
    """

    def __init__(self, task: "ForecastTask") -> None:
        assert task.net is not None
        self.task, self.data, self.name = task, task.datamodule, task.net.name
        self.methods: dict[str, Method] = {self.name: self._network(task.net)}
        for name, place in task.compare_with.items():
            self._add(name, self._network(self._load(name, place)))
        for name, baseline in task.baselines.items():
            self._add(name, self._baseline(baseline))
        self.optima = [known_optimum(self.data, test.rows) for test in self.data.test_sets]
        self.sums: dict[tuple[int, str], HorizonSums] = {}
        self.shown: dict[str, list[np.ndarray]] = {}
        self.windows = [0 for _ in self.data.test_sets]
        self.chosen = self._fit()

    def update(self, batch: Batch, cohort: int) -> None:
        """Adds a batch of one test cohort."""
        window = self.task.cut(batch)
        rows = torch.from_numpy(self.data.test_sets[cohort].rows).to(batch["recording_index_B"].device)
        index_B = torch.searchsorted(rows, batch["recording_index_B"])
        self.windows[cohort] += len(index_B)
        for name, method in self._methods_of(cohort).items():
            forecast_BPH = method(batch, window).float()
            self._sums(cohort, name).update(forecast_BPH, window.future_BPH, window.observed_BP, index_B)
            self._show(cohort, f"{name}/forecast_BPH", forecast_BPH)
        self._show(cohort, "context_BPC", window.context_BPC)
        self._show(cohort, "future_BPH", window.future_BPH)

    def compute(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """All scores with intervals and paired tests, corrected over the whole run, and the arrays for the report."""
        results: dict[str, float] = {}
        arrays: dict[str, np.ndarray] = parcel_arrays(self.data.stores[0].atlas)
        arrays |= {name: np.concatenate(parts)[:SHOWN_WINDOWS] for name, parts in self.shown.items()}
        for cohort, test in enumerate(self.data.test_sets):
            if len(test.rows):
                subjects = self.task.subjects(test.rows)
                arrays[f"{self._place(cohort)}/subject_S"] = np.unique(subjects)
                arrays[f"{self._place(cohort)}/time_s_H"] = np.arange(1, self.task.horizon_frames + 1) * self.task.tr_s
                self._score(cohort, subjects, results, arrays)
                self._compare(cohort, subjects, results, arrays)
                results |= self._counts(cohort)
        return self._corrected(results, arrays), arrays

    # -- scores ---------------------------------------------------------------------------------------------------

    def _score(self, cohort: int, subjects: np.ndarray, results: dict, arrays: dict) -> None:
        for name in self._methods_of(cohort):
            place = f"{self._place(cohort)}/{name}"
            sums_RPK, sums_RHK = self._sums(cohort, name).compute()
            results |= {f"{place}/{score}": value for score, value in scores(sums_RPK, subjects).items()}
            arrays |= {f"{place}/{score}_3H": value for score, value in frame_scores(sums_RHK, subjects).items()}
            arrays[f"{place}/r2_P"] = r2(sums_RPK.sum(0))
            arrays[f"{place}/mse_SH"] = subject_mse(sums_RHK, subjects)

    def _compare(self, cohort: int, subjects: np.ndarray, results: dict, arrays: dict) -> None:
        """The forecaster against every other: R² over the horizon, and squared error at each frame."""
        place, methods = self._place(cohort), self._methods_of(cohort)
        sums = {name: self._sums(cohort, name).compute() for name in methods}
        by_parcel = {name: sums_RPK for name, (sums_RPK, _) in sums.items()}
        results |= {f"{place}/{key}": value for key, value in compare(by_parcel, subjects, self.name).items()}
        for other in methods:
            if other == self.name:
                continue
            found = compare_frames(sums[self.name][1], sums[other][1], subjects)
            pair = f"{place}/{self.name}_minus_{other}"
            arrays[f"{pair}/mse_3H"] = np.stack([found.difference, found.low, found.high])
            results |= {f"{pair}/frame{frame}/p": float(p) for frame, p in enumerate(found.p, 1)}

    def _corrected(self, results: dict[str, float], arrays: dict[str, np.ndarray]) -> dict[str, float]:
        """All p-values corrected together; those of frames go to the arrays, and how many tell to the results."""
        results, num_frames = with_corrected_p(results), self.task.horizon_frames
        for pair in [name.removesuffix("/mse_3H") for name in arrays if "_minus_" in name]:
            names = [f"{pair}/frame{frame}/p" for frame in range(1, num_frames + 1)]
            for name in names:
                results.pop(name)
            p_H = np.array([results.pop(f"{name}_corrected") for name in names])
            difference_H = arrays[f"{pair}/mse_3H"][0]
            arrays[f"{pair}/p_corrected_H"] = p_H
            results[f"{pair}/num_frames_better"] = float(((p_H < SIGNIFICANT) & (difference_H < 0)).sum())
            results[f"{pair}/num_frames_worse"] = float(((p_H < SIGNIFICANT) & (difference_H > 0)).sum())
        return results | self.chosen

    def _counts(self, cohort: int) -> dict[str, float]:
        """What was tested, and what did not fit into windows."""
        table, test = self.data.recordings.table, self.data.test_sets[cohort]
        there = table[table["cohort"] == test.name]
        short = there["num_frames"] < self.data.window_frames
        if test.name in self.data.weights:
            short &= there["split"] == "test"
        beyond = (table["num_frames"].iloc[test.rows] % self.data.window_frames).sum()
        counts = {
            "horizon_s": self.task.horizon_frames * self.task.tr_s,
            "num_windows": self.task.trainer.strategy.reduce(torch.tensor(float(self.windows[cohort])), "sum"),
            "num_recordings_too_short": short.sum(),
            "num_frames_in_no_window": beyond,
        }
        place = self._place(cohort)
        rank_zero_info(
            f"{test.name}: {counts['num_windows']:g} windows of {len(test.rows)} recordings; "
            f"{short.sum()} recordings are too short for one, {beyond} frames at recordings' ends fill none"
        )
        return {f"{place}/{name}": float(value) for name, value in counts.items()}

    # -- methods --------------------------------------------------------------------------------------------------

    def _add(self, name: str, method: Method) -> None:
        if name in self.methods or name == "optimum" or "_minus_" in name or "/" in name:
            raise ValueError(f"a method to compare with is named {name!r}; that is taken, or no name: choose another")
        self.methods[name] = method

    def _load(self, name: str, place: str) -> Forecaster:
        assert self.task.net is not None
        net, about, path = load_forecaster(place, self.task.description(self.task.net))
        tested = {str(subject) for test in self.data.test_sets for subject in self.task.subjects(test.rows)}
        refuse_seen(Pretrained(net, about, path), tested, f"on which {name} is to be tested")  # type: ignore[arg-type]
        return net.to(self.task.device)

    def _network(self, net: Forecaster) -> Method:
        return lambda batch, window: net(window.context_BPC, window.observed_BP)

    def _baseline(self, baseline: ForecastBaseline) -> Method:
        def forecast(batch: Batch, window: ForecastWindow) -> Tensor:
            # Mixed precision is the networks' alone: the baselines are exact.
            with torch.autocast(window.context_BPC.device.type, enabled=False):
                return baseline(window.context_BPC, window.observed_BP, self.task.horizon_frames)

        return forecast

    def _optimal(self, optimum: Optimum) -> Method:
        """The Kalman predictor: it knows the recording's own model, and sees the context alone."""

        def forecast(batch: Batch, window: ForecastWindow) -> Tensor:
            ids = self.data.recordings.table["recording_id"]
            names = [ids.iloc[row] for row in batch["recording_index_B"].tolist()]
            future_BPT = torch.zeros_like(batch["signal_BPT"], dtype=torch.bool)
            future_BPT[:, :, -self.task.horizon_frames :] = True
            with torch.autocast(future_BPT.device.type, enabled=False):
                filled_BPT = optimum.predict(
                    batch["signal_BPT"], future_BPT, window.observed_BP, names, batch["start_B"]
                )
            return window.standardised(filled_BPT[:, :, -self.task.horizon_frames :])

        return forecast

    def _methods_of(self, cohort: int) -> dict[str, Method]:
        optimum = self.optima[cohort]
        return self.methods if optimum is None else {**self.methods, "optimum": self._optimal(optimum)}

    def _fit(self) -> dict[str, float]:
        """Fits what can be fitted, on training subjects, choosing on validation subjects; says what was chosen."""
        validation = list(self._windows_of(self.data.val_rows))
        chosen: dict[str, float] = {}
        for name, baseline in self.task.baselines.items():
            if isinstance(baseline, FittedBaseline):
                rows, show = self.data.train_rows, self.task.trainer.is_global_zero
                recordings = track(rows, f"fitting {name}", disable=not show)
                baseline.fit((window for row in recordings for window in self._windows_of(np.array([row]))), validation)
                chosen |= {f"fitted/{name}/{what}": value for what, value in baseline.chosen().items()}
        return chosen

    def _windows_of(self, rows: np.ndarray) -> Iterator[ForecastWindow]:
        """As few windows of each recording as hold all its frames, evenly spread; all of one recording at once."""
        dataset, window_frames = self.data.dataset, self.data.window_frames
        assert dataset is not None
        for row in rows:
            series_PF, observed_P = dataset.scaled_recording(int(row))
            _, unit_1P = dataset.scaling(np.array([row]))
            room = series_PF.shape[1] - window_frames
            starts = np.linspace(0, room, 1 + -(-room // window_frames)).round().astype(int)
            signal_BPT = torch.from_numpy(np.stack([series_PF[:, s : s + window_frames] for s in starts]))
            unit_BP, observed_BP = (
                torch.from_numpy(np.broadcast_to(each, signal_BPT.shape[:2]).copy()) for each in (unit_1P, observed_P)
            )
            yield cut(signal_BPT, unit_BP, observed_BP, self.task.horizon_frames, self.task.standardise)

    # -- pieces ---------------------------------------------------------------------------------------------------

    def _place(self, cohort: int) -> str:
        return f"test/{self.data.test_sets[cohort].name}/horizon{self.task.horizon_frames}"

    def _sums(self, cohort: int, name: str) -> HorizonSums:
        if (cohort, name) not in self.sums:
            num_recordings, num_parcels = len(self.data.test_sets[cohort].rows), self.data.stores[0].atlas.num_parcels
            sums = HorizonSums(num_recordings, num_parcels, self.task.horizon_frames, self.task.device)
            self.sums[cohort, name] = sums
        return self.sums[cohort, name]

    def _show(self, cohort: int, name: str, values: Tensor) -> None:
        kept = self.shown.setdefault(f"{self._place(cohort)}/{name}", [])
        if sum(len(part) for part in kept) < SHOWN_WINDOWS:
            kept.append(values.detach().float().cpu().numpy())
