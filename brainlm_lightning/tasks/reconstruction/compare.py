"""How well hidden values are reconstructed: every method on the same windows and masks.

For every test set and way of hiding each method's sums over hidden values are kept by recording and parcel, and where
tokens are hidden at random by recording and distance to what is visible, too, and what the completed windows keep of
connectivity and spectrum; all scores, intervals and paired tests follow from them (paper, section 4.1, table 1 and
figure 3).

Shapes: B windows of a batch, P parcels, T frames, N patches per parcel, R recordings, Q classes of distance.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.comparison import compare
from brainlm_lightning.evaluation.metrics import HiddenSums, r2, scores
from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.evaluation.resampling import sum_by_subject
from brainlm_lightning.model.masking import MaskingName
from brainlm_lightning.tasks.compare import Arrays, Numbers, Shown, TestedSet
from brainlm_lightning.tasks.reconstruction.completed import CompletedSums
from brainlm_lightning.tasks.reconstruction.methods import MaskedWindows, ReconstructionMethod
from brainlm_lightning.tasks.reconstruction.plan import Hiding
from brainlm_lightning.tasks.reconstruction.score import (
    CLASSES,
    DistanceSums,
    by_distance,
    centred_r2,
    distance_class,
    named,
)

DrawMask = Callable[[Batch, float, MaskingName], Tensor]
Sets = TestedSet[ReconstructionMethod]


class ReconstructionScore:
    """Keeps each method's sums over hidden values; see `Score`.

    Args:
        draw_mask: a batch, a ratio and a strategy to its hidden patches, (B, P, N).
        hidings: what is hidden.
        reference: the method that the others are compared with.
        num_parcels: P.
        device: where the windows are.
    """

    def __init__(
        self, draw_mask: DrawMask, hidings: Sequence[Hiding], reference: str, num_parcels: int, device: torch.device
    ) -> None:
        self.draw_mask, self.hidings, self.reference = draw_mask, tuple(hidings), reference
        self.num_parcels, self.device = num_parcels, device
        self._sums: dict[MetricName, HiddenSums] = {}
        self._by_distance: dict[MetricName, DistanceSums] = {}
        self._completed: dict[MetricName, CompletedSums] = {}
        self._shown = Shown()

    def update(self, test_set: Sets, methods: Mapping[str, ReconstructionMethod], batch: Batch) -> None:
        """See `Score.update`."""
        signal_BPT, index_B = batch["signal_BPT"], test_set.index(batch)
        for hiding in self.hidings:
            hidden_BPN = self.draw_mask(batch, hiding.ratio, hiding.strategy)
            observed_BP, ids = batch["observed_BP"], test_set.ids(batch)
            windows = MaskedWindows.of(signal_BPT, hidden_BPN, observed_BP, ids, batch["start_B"])
            hidden_BPT, class_BPT = windows.hidden_BPT, distance_class(windows.visible_BPT)
            class_BPT = class_BPT.where(hidden_BPT, -1)
            for name, method in methods.items():
                of = hiding.named(test_set.name, name)
                with method.precision(signal_BPT.device):
                    prediction_BPT = method.reconstruct(windows)
                self._sums_of(of, test_set).update(prediction_BPT, signal_BPT, hidden_BPT, index_B)
                completed_BPT = prediction_BPT.where(hidden_BPT, signal_BPT)
                self._completed_of(of, test_set).update(completed_BPT, signal_BPT, observed_BP, index_B)
                if hiding.strategy == "random":
                    self._distances_of(of, test_set).update(prediction_BPT, signal_BPT, class_BPT, index_B)
                if name == self.reference:
                    shown = {"truth_BPT": signal_BPT, "prediction_BPT": prediction_BPT, "hidden_BPT": hidden_BPT}
                    self._show(of, shown)

    def compute(self, test_set: Sets, methods: Sequence[str]) -> tuple[Numbers, Arrays]:
        """See `Score.compute`."""
        numbers: Numbers = {}
        arrays = self._shown.arrays()
        subject_R = test_set.subject_R
        for hiding in self.hidings:
            whole = hiding.named(test_set.name)
            arrays[whole.of("subject_U")] = np.unique(subject_R)
            sums = {name: self._total(hiding.named(test_set.name, name), test_set) for name in methods}
            for name, sums_RPK in sums.items():
                of = hiding.named(test_set.name, name)
                found = scores(sums_RPK, subject_R) | named("r2_centred", centred_r2(sums_RPK, subject_R))
                found |= self._completed_of(of, test_set).scores(subject_R)
                numbers |= {of.of(score): value for score, value in found.items()}
                arrays[of.of("sums_UK")] = sum_by_subject(sums_RPK, subject_R).sum(1)
            numbers |= {whole.of(pair): value for pair, value in compare(sums, subject_R, self.reference).items()}
            arrays[hiding.named(test_set.name, self.reference).of("r2_P")] = r2(sums[self.reference].sum(0))
            if hiding.strategy == "random":
                self._add_distances(hiding, test_set, methods, numbers, arrays)
        return numbers, arrays

    def _add_distances(
        self, hiding: Hiding, test_set: Sets, methods: Sequence[str], numbers: Numbers, arrays: Arrays
    ) -> None:
        """R² of each method by distance to the nearest visible frame of the same parcel."""
        arrays[hiding.named(test_set.name).of("distance_bins")] = np.array(CLASSES)
        for name in methods:
            of = hiding.named(test_set.name, name)
            r2_3Q = by_distance(self._distances_of(of, test_set).compute(), test_set.subject_R)
            arrays[of.of("r2_by_distance")] = r2_3Q[0]
            for number, label in enumerate(CLASSES):
                numbers |= named(of.of(f"r2_distance_{label}"), r2_3Q[:, number])

    def _sums_of(self, of: MetricName, test_set: Sets) -> HiddenSums:
        if of not in self._sums:
            self._sums[of] = HiddenSums(len(test_set.rows), self.num_parcels).to(self.device)
        return self._sums[of]

    def _distances_of(self, of: MetricName, test_set: Sets) -> DistanceSums:
        if of not in self._by_distance:
            self._by_distance[of] = DistanceSums(len(test_set.rows), self.device)
        return self._by_distance[of]

    def _completed_of(self, of: MetricName, test_set: Sets) -> CompletedSums:
        if of not in self._completed:
            self._completed[of] = CompletedSums(len(test_set.rows), self.device)
        return self._completed[of]

    def _total(self, of: MetricName, test_set: Sets) -> NDArray[np.float64]:
        """Sums over all ranks; a rank that saw no window of the cohort adds nothing."""
        sums_RPK: NDArray[np.float64] = self._sums_of(of, test_set).compute().cpu().numpy()
        return sums_RPK

    def _show(self, name: MetricName, values: Mapping[str, Tensor]) -> None:
        for part, value in values.items():
            self._shown.add(MetricName(name.cohort, name.condition, name.method, part), value)
