"""How well hidden values are reconstructed: every method on the same windows and masks.

For every test set and hidden ratio each method's sums over hidden values are kept by recording and parcel; all scores,
intervals and paired tests follow from them (paper, section 4.1, table 1 and figure 3).

Shapes: B batch, P parcels, T frames, N patches per parcel, R recordings.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.comparison import compare
from brainlm_lightning.evaluation.metrics import HiddenSums, r2, scores
from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.tasks.compare import Arrays, Numbers, Shown, TestedSet
from brainlm_lightning.tasks.reconstruction.methods import MaskedWindows, ReconstructionMethod, by_value

DrawMask = Callable[[Batch, float], Tensor]


class ReconstructionScore:
    """Keeps each method's sums over hidden values; see `Score`.

    Args:
        draw_mask: a batch and a ratio to its hidden patches, (B, P, N).
        ratios: shares hidden at random.
        reference: the method that the others are compared with.
        num_parcels: P.
        device: where the windows are.
    """

    def __init__(
        self, draw_mask: DrawMask, ratios: Sequence[float], reference: str, num_parcels: int, device: torch.device
    ) -> None:
        self.draw_mask, self.ratios, self.reference = draw_mask, tuple(ratios), reference
        self.num_parcels, self.device = num_parcels, device
        self._sums: dict[tuple[str, float, str], HiddenSums] = {}
        self._shown = Shown()

    def update(
        self, test_set: TestedSet[ReconstructionMethod], methods: Mapping[str, ReconstructionMethod], batch: Batch
    ) -> None:
        """See `Score.update`."""
        signal_BPT, ids, index_B = batch["signal_BPT"], test_set.ids(batch), test_set.index(batch)
        for ratio in self.ratios:
            hidden_BPN = self.draw_mask(batch, ratio)
            hidden_BPT = by_value(hidden_BPN, signal_BPT.shape[2])
            windows = MaskedWindows.of(signal_BPT, hidden_BPN, batch["observed_BP"], ids, batch["start_B"])
            for name, method in methods.items():
                with method.precision(signal_BPT.device):
                    prediction_BPT = method.reconstruct(windows)
                self._sums_of(test_set, ratio, name).update(prediction_BPT, signal_BPT, hidden_BPT, index_B)
                if name == self.reference:
                    shown = {"truth_BPT": signal_BPT, "prediction_BPT": prediction_BPT, "hidden_BPT": hidden_BPT}
                    self._show(condition(test_set.name, ratio, name), shown)

    def compute(self, test_set: TestedSet[ReconstructionMethod], methods: Sequence[str]) -> tuple[Numbers, Arrays]:
        """See `Score.compute`."""
        numbers: Numbers = {}
        arrays = self._shown.arrays()
        subject_R = test_set.subject_R
        for ratio in self.ratios:
            sums = {name: self._total(test_set, ratio, name) for name in methods}
            for name, sums_RPK in sums.items():
                of = condition(test_set.name, ratio, name)
                numbers |= {of.of(score): value for score, value in scores(sums_RPK, subject_R).items()}
            whole = condition(test_set.name, ratio)
            numbers |= {whole.of(pair): value for pair, value in compare(sums, subject_R, self.reference).items()}
            arrays[condition(test_set.name, ratio, self.reference).of("r2_P")] = r2(sums[self.reference].sum(0))
        return numbers, arrays

    def _sums_of(self, test_set: TestedSet[ReconstructionMethod], ratio: float, name: str) -> HiddenSums:
        key = (test_set.name, ratio, name)
        if key not in self._sums:
            self._sums[key] = HiddenSums(len(test_set.rows), self.num_parcels).to(self.device)
        return self._sums[key]

    def _total(self, test_set: TestedSet[ReconstructionMethod], ratio: float, name: str) -> np.ndarray:
        """Sums over all ranks; a rank that saw no window of the cohort adds nothing."""
        return self._sums_of(test_set, ratio, name).compute().cpu().numpy()

    def _show(self, name: MetricName, values: Mapping[str, Tensor]) -> None:
        for part, value in values.items():
            self._shown.add(MetricName(name.cohort, name.condition, name.method, part), value)


def condition(cohort: str, ratio: float, method: str = "") -> MetricName:
    """The name of a method's scores at a hidden ratio, or of the condition as a whole."""
    return MetricName(cohort, f"hidden{ratio:g}", method)
