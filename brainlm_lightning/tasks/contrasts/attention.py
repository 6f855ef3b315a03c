"""Where does the model look, and does it look elsewhere in another group?

Paper, section 4.4, figures 5 and 9. Of every window, nothing hidden, the attention of CLS to each parcel and of the
parcels to one another; averaged over the windows of a recording, and then over recordings. Groups are contrasted parcel
by parcel, over subjects.

Shapes: B batch, P parcels, R recordings chosen, G groups (two a contrast).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from brainlm_lightning.data.division import TestSet
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.comparison import with_corrected_p
from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.model.attention_maps import Reading, parcel_attention
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.tasks.compare import parcel_arrays
from brainlm_lightning.tasks.contrasts.contrast import (
    Analysis,
    ContrastTask,
    cohort_name,
    contrast_numbers,
    count_seen,
)
from brainlm_lightning.tasks.contrasts.groups import Filter, in_words, select

SIGNALS = ("signal_level", "signal_amplitude")
UNITS = {
    "cls_attention": "attention of CLS (share)",
    "parcel_attention": "attention received from parcels (share)",
    "signal_level": "mean (scaled signal)",
    "signal_amplitude": "standard deviation (scaled signal)",
}


@dataclass(frozen=True)
class GroupContrast:
    """Two groups of recordings: the first minus the second.

    Attributes:
        group: filters on the cohort's table.
        against: filters on the cohort's table.
        expected_networks: where a difference is expected, named before looking: how well the contrast ranks their
            parcels above the others is given as an area under the curve.
    """

    group: tuple[Filter, ...]
    against: tuple[Filter, ...]
    expected_networks: tuple[str, ...] = ()


class AttentionTask(ContrastTask):
    """Reads attention with `test`, and contrasts groups.

    Args:
        pretrained: checkpoint, run folder, or folder of an experiment; of a masked autoencoder.
        contrasts: by name.
        reading: layers and heads to average, or rollout.
        control: the same with the model before its pretraining.
        analysis: whose recordings are read, and the tests.
    """

    def __init__(
        self,
        pretrained: str,
        contrasts: dict[str, GroupContrast],
        reading: Reading = Reading(),
        control: bool = True,
        analysis: Analysis = Analysis(),
    ) -> None:
        super().__init__(pretrained, contrasts, analysis)
        self.reading, self.control = reading, control

    # -- before ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Checks networks, filters, checkpoint and layers before any work."""
        among = self.candidates()
        self.groups = {name: self._groups(name, contrast, among) for name, contrast in self.contrasts.items()}
        self.rows = np.unique(np.concatenate([rows for groups in self.groups.values() for rows in groups]))
        model = self.load(self.control)
        if not isinstance(model, MaskedAutoencoder):
            raise ValueError(f"{self.pretrained.path} holds a {type(model).__name__}, which has no attention to read")
        self.reading.check(model.config.depth, model.config.num_heads)
        self.datamodule.use_test_sets([TestSet(cohort_name(self.table.iloc[self.rows]), self.rows)])

    def _groups(self, name: str, contrast: GroupContrast, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        group = select(self.table, contrast.group, f"group of {name}", among)
        against = select(self.table, contrast.against, f"against of {name}", among)
        both = np.intersect1d(group, against)
        if len(both):
            raise ValueError(
                f"contrast {name}: {len(both)} recordings are in both groups, "
                f"{self.table['recording_id'].iloc[both[0]]!r} first; choose filters that exclude one another"
            )
        return group, against

    # -- every window ---------------------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        """Makes room for the sums over windows."""
        parcels, recordings = len(self.procedure.networks_P), len(self.rows)
        names = [f"{net}_{kind}" for net in self.nets for kind in ("cls_attention", "parcel_attention")]
        self.sums = {name: torch.zeros(recordings, parcels, device=self.device) for name in (*names, *SIGNALS)}
        windows_R = self.datamodule.places.num_side_by_side(self.rows)
        groups = [rows for pair in self.groups.values() for rows in pair]
        member_GR = np.stack([np.isin(self.rows, rows) / windows_R for rows in groups])
        self.windows_R1 = torch.tensor(windows_R[:, None], device=self.device)
        self.member_GR = torch.tensor(member_GR, dtype=torch.float32, device=self.device)
        self.chosen = torch.tensor(self.rows, device=self.device)
        # Of the matrices the groups' sums alone: one for each of 15,000 recordings would be 10 GB.
        self.matrix_GPP = torch.zeros(2, len(groups), parcels, parcels, device=self.device)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds a batch of windows."""
        signal_BPT, observed_BP = batch["signal_BPT"], batch["observed_BP"]
        index_B = torch.searchsorted(self.chosen, batch["recording_index_B"])
        parts = dict(zip(SIGNALS, (signal_BPT.mean(2), signal_BPT.std(2)), strict=True))
        for name, net in self.nets.items():
            assert isinstance(net, MaskedAutoencoder)
            found = parcel_attention(net, signal_BPT, observed_BP, self.reading)
            parts[f"{name}_cls_attention"] = found.cls_BP
            parts[f"{name}_parcel_attention"] = found.parcels_BPP.nansum(1) / observed_BP.sum(1, keepdim=True)
            if name == self.pretrained.model.name:
                self._add_matrix(found.parcels_BPP, index_B)
        for name, values_BP in parts.items():
            self.sums[name].index_add_(0, index_B, values_BP.float())

    def _add_matrix(self, parcels_BPP: Tensor, index_B: Tensor) -> None:
        """Sums and weights of each pair of parcels; rows of unobserved parcels are left out."""
        member_GB = self.member_GR[:, index_B]
        known_BPP = torch.isfinite(parcels_BPP).float()
        for part, values in zip(self.matrix_GPP, (parcels_BPP.nan_to_num(), known_BPP), strict=True):
            part += torch.einsum("gb,bpq->gpq", member_GB, values)

    # -- after ----------------------------------------------------------------------------------------------------

    def on_test_epoch_end(self) -> None:
        """Contrasts, from the sums of all ranks."""
        reduce = self.trainer.strategy.reduce
        observed_RP = self._observed()
        maps = {
            name: np.where(observed_RP, (reduce(sums, reduce_op="sum") / self.windows_R1).cpu().numpy(), np.nan)
            for name, sums in self.sums.items()
        }
        total, weight = reduce(self.matrix_GPP, reduce_op="sum").cpu().numpy()
        matrices = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
        self.results, self.arrays = {}, parcel_arrays(self.datamodule.atlas)
        for number, name in enumerate(self.contrasts):
            self._contrast(name, maps)
            of = self._name(name, f"{self.pretrained.model.name}_parcel_attention")
            self.arrays |= {
                of.of("matrix_a_PP"): matrices[2 * number],
                of.of("matrix_b_PP"): matrices[2 * number + 1],
            }
        self.results = with_corrected_p(self.results)

    def _observed(self) -> np.ndarray:
        """Which parcels each recording observes, (R, P)."""
        dataset = self.datamodule.dataset
        assert dataset is not None
        return dataset.observed(self.rows)

    def _name(self, contrast: str, kind: str) -> MetricName:
        return MetricName(cohort_name(self.table.iloc[np.concatenate(self.groups[contrast])]), contrast, kind)

    def _contrast(self, name: str, maps: dict[str, np.ndarray]) -> None:
        """Adds one contrast's numbers of every map."""
        group, against = self.groups[name]
        rows = np.concatenate([group, against])
        index, in_group = np.searchsorted(self.rows, rows), np.repeat([True, False], [len(group), len(against)])
        subjects, expected = self.table["subject_id"].to_numpy(str)[rows], self.contrasts[name].expected_networks
        counts = count_seen(self.pretrained, self.table.iloc[rows], name)
        contrast = self.contrasts[name]
        names = np.array([in_words(contrast.group), in_words(contrast.against)])
        for kind, values_RP in maps.items():
            of = self._name(name, kind)
            numbers, arrays = contrast_numbers(values_RP[index], in_group, subjects, expected, self.procedure)
            arrays |= {"groups": names, "unit": np.array(unit(kind))}
            self.results |= {of.of(key): value for key, value in (counts | numbers).items()}
            self.arrays |= {of.of(key): value for key, value in arrays.items()}


def unit(kind: str) -> str:
    """What a map's values are."""
    return next(text for end, text in UNITS.items() if kind.endswith(end))
