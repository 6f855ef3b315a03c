"""How well hidden values are reconstructed: the model beside its baselines, on the same windows and masks.

For every test cohort and hidden ratio each method's sums over hidden values are kept by recording and parcel; all
scores, intervals and paired tests follow from them (paper, section 4.1, table 1 and figure 3).

Shapes: B batch, P parcels, T frames, N patches per parcel, R recordings, K sums.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.comparison import compare, with_corrected_p
from brainlm_lightning.evaluation.metrics import HiddenSums, r2, scores
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.tasks.compare import known_optimum
from brainlm_lightning.tasks.reconstruction.methods import BOLD_LAGS, ConditionalGaussian, LinearInterpolation, Zero
from brainlm_lightning.tasks.reconstruction.reconstructor import Reconstructor

if TYPE_CHECKING:
    from brainlm_lightning.tasks.reconstruction.task import PretrainTask

SHOWN_WINDOWS = 4  # kept of each cohort and ratio, for figures


def default_baselines() -> dict[str, Reconstructor]:
    """What every reconstruction is compared with."""
    return {
        "zero": Zero(),
        "linear_interpolation": LinearInterpolation(),
        "conditional_gaussian": ConditionalGaussian(),
        "conditional_gaussian_lagged": ConditionalGaussian(lags=BOLD_LAGS),
    }


class Network:
    """A model as a `Reconstructor`."""

    def __init__(self, net: MaskedModel) -> None:
        self.net = net

    def predict(
        self,
        signal_BPT: Tensor,
        hidden_BPT: Tensor,
        observed_BP: Tensor,
        recording_ids: Iterable[str],
        first_frame_B: Tensor,
    ) -> Tensor:
        """See `Reconstructor.predict`; patches are hidden whole."""
        hidden_BPN = hidden_BPT.unflatten(2, (self.net.num_patches, -1))[..., 0]
        return self.net(signal_BPT, hidden_BPN, observed_BP).prediction_BPT


class ReconstructionTest:
    """Gathers the sums of every cohort, ratio and method.

    Args:
        task: with its trained model and its Trainer's data.
        untrained: the same model as initialised, or none: what the training itself has brought.
        baselines: by name.
        ratios: shares hidden at random.
    """

    def __init__(
        self,
        task: "PretrainTask",
        untrained: tuple[MaskedModel, ...],
        baselines: dict[str, Reconstructor],
        ratios: tuple[float, ...],
    ) -> None:
        assert task.net is not None
        self.task, self.data, self.ratios, self.baselines = task, task.datamodule, ratios, baselines
        self.name = task.net.name
        self.methods: dict[str, Reconstructor] = {self.name: Network(task.net)}
        for net in untrained:
            self.methods[f"{self.name}_untrained"] = Network(net.to(task.device).eval())
        self.methods |= baselines
        self.optima = {i: known_optimum(self.data, test.rows) for i, test in enumerate(self.data.test_sets)}
        self.sums: dict[tuple[int, float, str], HiddenSums] = {}
        self.shown: dict[str, list[np.ndarray]] = {}

    def fit_baselines(self) -> None:
        """Fits what can be fitted, on the training subjects alone."""
        for name, baseline in self.baselines.items():
            if hasattr(baseline, "fit"):
                recordings = self.data.scaled_recordings(self.data.train_rows)
                count = len(self.data.train_rows)
                show = self.task.trainer.is_global_zero
                baseline.fit(track(recordings, f"fitting {name}", total=count, disable=not show))

    def update(self, batch: Batch, cohort: int) -> None:
        """Adds a batch of one test cohort, at every ratio."""
        for ratio in self.ratios:
            hidden_BPN = self.task.draw_mask(batch, ratio)
            hidden_BPT = hidden_BPN.repeat_interleave(batch["signal_BPT"].shape[2] // hidden_BPN.shape[2], dim=2)
            for name, method in self._methods_of(cohort).items():
                prediction_BPT = self._predict(method, batch, hidden_BPT)
                index_B = self._index(batch, cohort)
                self._sums(cohort, ratio, name).update(prediction_BPT, batch["signal_BPT"], hidden_BPT, index_B)
                if name == self.name:
                    self._show(cohort, ratio, batch, prediction_BPT, hidden_BPT)

    def compute(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """All scores with intervals and corrected paired tests, and the arrays for figures."""
        results: dict[str, float] = {}
        arrays = {name: np.concatenate(parts)[:SHOWN_WINDOWS] for name, parts in self.shown.items()}
        for cohort, test in enumerate(self.data.test_sets):
            subjects = self.data.recordings.table["subject_id"].iloc[test.rows].to_numpy()
            for ratio in self.ratios:
                place = f"test/{test.name}/hidden{ratio:g}"
                sums = {name: self._total(cohort, ratio, name) for name in self._methods_of(cohort)}
                for name, sums_RPK in sums.items():
                    results |= {f"{place}/{name}/{score}": value for score, value in scores(sums_RPK, subjects).items()}
                results |= {f"{place}/{key}": value for key, value in compare(sums, subjects, self.name).items()}
                arrays[f"{place}/{self.name}/r2_P"] = r2(sums[self.name].sum(0))
        return with_corrected_p(results), arrays

    # -- pieces ---------------------------------------------------------------------------------------------------

    def _methods_of(self, cohort: int) -> dict[str, Reconstructor]:
        optimum = self.optima[cohort]
        return self.methods if optimum is None else {**self.methods, "optimum": optimum}

    def _predict(self, method: Reconstructor, batch: Batch, hidden_BPT: Tensor) -> Tensor:
        ids = self.data.recordings.table["recording_id"]
        recording_ids = [ids.iloc[index] for index in batch["recording_index_B"].tolist()]
        # Mixed precision is the networks' alone: the baselines are exact.
        mixed = isinstance(method, Network) and torch.is_autocast_enabled(hidden_BPT.device.type)
        with torch.autocast(hidden_BPT.device.type, enabled=mixed):
            return method.predict(
                batch["signal_BPT"], hidden_BPT, batch["observed_BP"], recording_ids, batch["start_B"]
            )

    def _index(self, batch: Batch, cohort: int) -> Tensor:
        rows = torch.from_numpy(self.data.test_sets[cohort].rows).to(batch["recording_index_B"].device)
        return torch.searchsorted(rows, batch["recording_index_B"])

    def _sums(self, cohort: int, ratio: float, name: str) -> HiddenSums:
        key = (cohort, ratio, name)
        if key not in self.sums:
            num_parcels = self.data.stores[0].atlas.num_parcels
            self.sums[key] = HiddenSums(len(self.data.test_sets[cohort].rows), num_parcels).to(self.task.device)
        return self.sums[key]

    def _total(self, cohort: int, ratio: float, name: str) -> np.ndarray:
        """Sums over all ranks; a rank that saw no window of the cohort adds nothing."""
        return self._sums(cohort, ratio, name).compute().cpu().numpy()

    def _show(self, cohort: int, ratio: float, batch: Batch, prediction_BPT: Tensor, hidden_BPT: Tensor) -> None:
        place = f"test/{self.data.test_sets[cohort].name}/hidden{ratio:g}"
        parts = {"truth_BPT": batch["signal_BPT"], "prediction_BPT": prediction_BPT, "hidden_BPT": hidden_BPT}
        for name, value in parts.items():
            kept = self.shown.setdefault(f"{place}/{self.name}/{name}", [])
            if sum(len(part) for part in kept) < SHOWN_WINDOWS:
                kept.append(value.detach().float().cpu().numpy().astype(bool if name == "hidden_BPT" else np.float32))
