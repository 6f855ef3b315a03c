"""In-silico perturbation: what must change for the model to take one group's recordings for another's?

Paper, sections 3.5 and 4.5, algorithm 1, figures 6 to 8. Every source is perturbed twice: towards a target of the
other group and, as the null, towards a target of its own group. What both need is the distance between any two people;
the contrast is what the group adds. It is tested over target subjects, whose group is exchangeable under the null
hypothesis.

Shapes: B pairs at once, J pairs of a contrast, P parcels, I steps of the optimiser plus one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from brainlm_lightning.data.division import TestSet
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.comparison import with_corrected_p
from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.evaluation.resampling import subject_mean
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.run_folder import read_arrays, write_arrays
from brainlm_lightning.tasks.compare import parcel_arrays
from brainlm_lightning.tasks.contrasts.contrast import (
    Analysis,
    ContrastTask,
    cohort_name,
    contrast_numbers,
    count_seen,
)
from brainlm_lightning.tasks.contrasts.exchange import HIDDEN_SHARE, exchange, exchange_numbers
from brainlm_lightning.tasks.contrasts.groups import Filter, in_words, select
from brainlm_lightning.tasks.contrasts.net import PerturbationPlan, perturb
from brainlm_lightning.tasks.contrasts.pairs import Pairs, draw_pairs

MEASURES = {"theta_size": "size_BP", "theta_shift": "mean_BP"}  # mean over frames of |θ|, and of θ with its sign
SIGNALS = ("signal_level", "signal_amplitude")


@dataclass(frozen=True)
class PairContrast:
    """Recordings to perturb, and recordings to match them with.

    Attributes:
        sources: filters on the cohort's table.
        targets: filters on the cohort's table.
        expected_networks: where a difference is expected, named before looking: how well the contrast ranks their
            parcels above the others is given as an area under the curve.
    """

    sources: tuple[Filter, ...]
    targets: tuple[Filter, ...]
    expected_networks: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairPlan:
    """How many pairs there are.

    Attributes:
        pairs: of each contrast (paper: 1,000).
        pairs_at_once: optimised as one batch, each with its null pair: as many as the device's memory holds.
        control: the same with the model before its pretraining.
    """

    pairs: int = 1000
    pairs_at_once: int = 32
    control: bool = True

    def __post_init__(self) -> None:
        """Validate the counts: at least one pair."""
        if min(self.pairs, self.pairs_at_once) < 1:
            raise ValueError(f"pairs {self.pairs} and pairs_at_once {self.pairs_at_once} must be at least 1")


class PerturbTask(ContrastTask):
    """Optimises perturbations with `test`; finished batches of pairs are kept, and a second start goes on from there.

    Args:
        pretrained: checkpoint, run folder, or folder of an experiment.
        contrasts: by name.
        perturbation: G, the target and the optimiser.
        draw: the pairs.
        analysis: whom they are drawn from, and the tests.
    """

    def __init__(
        self,
        pretrained: str,
        contrasts: dict[str, PairContrast],
        perturbation: PerturbationPlan = PerturbationPlan(),
        draw: PairPlan = PairPlan(),
        analysis: Analysis = Analysis(),
    ) -> None:
        super().__init__(pretrained, contrasts, analysis)
        self.plan, self.draw = perturbation, draw

    # -- before ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Checks everything before any work: the checkpoint, networks, filters; draws the pairs."""
        among = self.candidates()
        self.pairs = {name: self._draw(name, contrast, among) for name, contrast in self.contrasts.items()}
        self.load(self.draw.control)
        sets = [
            TestSet(name, np.unique(pairs.rows), tuple(pairs.batches(self.draw.pairs_at_once)))
            for name, pairs in self.pairs.items()
        ]
        self.datamodule.use_test_sets(sets)
        self.folders = [self.experiment_folder / "pairs" / self._identity(name) for name in self.contrasts]

    def _draw(self, name: str, contrast: PairContrast, among: np.ndarray) -> Pairs:
        sources = select(self.table, contrast.sources, f"sources of {name}", among)
        targets = select(self.table, contrast.targets, f"targets of {name}", among)
        data = self.datamodule
        return draw_pairs(self.table, sources, targets, self.draw.pairs, data.places, data.seed)

    def _identity(self, name: str) -> str:
        """A name that follows from what the perturbations depend on: model, plan, pairs, the recordings' bytes."""
        pairs = self.pairs[name]
        used = {
            "checkpoint": hashlib.sha256(self.pretrained.path.read_bytes()).hexdigest(),
            "plan": asdict(self.plan),
            "control": self.table["sha256"].iloc[self.datamodule.train_rows].tolist() if self.draw.control else None,
            "precision": str(self.trainer.precision),
            "at_once": self.draw.pairs_at_once,
            "exchanged": HIDDEN_SHARE,
            "recordings": self.table["sha256"].iloc[pairs.rows.ravel()].tolist(),
            "starts": pairs.starts.tolist(),
        }
        return f"{name}-{hashlib.sha256(json.dumps(used).encode()).hexdigest()[:12]}"

    def on_test_start(self) -> None:
        """Logs how many batches of pairs are done already."""
        for (name, pairs), folder in zip(self.pairs.items(), self.folders, strict=True):
            total, done = -(-len(pairs) // self.draw.pairs_at_once), len(list(folder.glob("batch-*.npz")))
            rank_zero_info(f"{name}: {len(pairs)} pairs in {total} batches, {done} of them done before ({folder})")

    # -- the pairs ------------------------------------------------------------------------------------------------

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Perturbs some sources, each towards its target and its null target, or finds it done."""
        number = batch_idx * self.trainer.world_size + self.trainer.global_rank
        path = self.folders[dataloader_idx] / f"batch-{number:05d}.npz"
        if path.is_file():
            return
        with torch.inference_mode(False):  # tests run without gradients, and so are their tensors made
            signal, observed = batch["signal_BPT"].clone(), batch["observed_BP"].clone()
            found = signal_statistics(signal, observed)
            for name, net in self.nets.items():
                outcomes = self._both(net, signal, observed)
                found |= {f"{name}/{key}": value.cpu().numpy() for key, value in outcomes.items()}
        write_arrays(path, found)

    def _both(self, net: Any, signal: Tensor, observed: Tensor) -> dict[str, Tensor]:
        """Targets, then null targets, as one batch: the perturbations, and what exchanging CLS does."""
        source_BPT, target_BPT, null_BPT = signal.chunk(3)
        sees_BP, target_sees_BP, null_sees_BP = observed.chunk(3)
        seen_BP = torch.cat([sees_BP & target_sees_BP, sees_BP & null_sees_BP])
        pairs = (source_BPT.repeat(2, 1, 1), torch.cat([target_BPT, null_BPT]), seen_BP)
        found = vars(perturb(net, self.plan, *pairs))
        return found | vars(exchange(net, *pairs)) if isinstance(net, MaskedAutoencoder) else found

    # -- after ----------------------------------------------------------------------------------------------------

    def on_test_epoch_end(self) -> None:
        """Contrasts of all pairs, read back from every rank's files."""
        self.trainer.strategy.barrier()
        results: dict[str, float] = {}
        self.arrays = parcel_arrays(self.datamodule.atlas)
        for (name, pairs), folder in zip(self.pairs.items(), self.folders, strict=True):
            parts = [read_arrays(path.parent, path.name) for path in sorted(folder.glob("batch-*.npz"))]
            found = {key: joined([part[key] for part in parts]) for key in parts[0]}
            cohort = cohort_name(self.table.iloc[pairs.rows.ravel()])
            contrast = self.contrasts[name]
            groups = np.array([f"to {in_words(to)}" for to in (contrast.targets, contrast.sources)])
            counts = count_seen(self.pretrained, self.table.iloc[pairs.rows.ravel()], name)
            for method, values_JP in maps_of(found, list(self.nets)).items():
                numbers, arrays = self._contrast(values_JP, pairs, contrast.expected_networks)
                arrays |= {"unit": np.array(self._unit(method)), "groups": groups}
                of = MetricName(cohort, name, method)
                results |= {of.of(key): value for key, value in (counts | numbers).items()}
                self.arrays |= {of.of(key): value for key, value in arrays.items()}
            for method in self.nets:
                numbers, arrays = self._distances(found, method, pairs)
                of = MetricName(cohort, name, method)
                results |= {of.of(key): value for key, value in numbers.items()}
                self.arrays |= {of.of(key): value for key, value in arrays.items()}
        self.results = with_corrected_p(results)

    def _unit(self, method: str) -> str:
        """What a map's values are."""
        of = "share of the signal" if self.plan.function == "gain_parcel" else "scaled signal"
        names = {"theta_size": f"mean |θ| ({of})", "theta_shift": f"mean θ ({of})"}
        return next((name for end, name in names.items() if method.endswith(end)), "scaled signal")

    def _contrast(
        self, values_JP: np.ndarray, pairs: Pairs, expected: tuple[str, ...]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Targets against null targets, over their subjects: one map's numbers."""
        return contrast_numbers(values_JP, *self._sides(pairs), expected, self.procedure)

    def _distances(
        self, found: Mapping[str, np.ndarray], method: str, pairs: Pairs
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Distances of the states from their targets' before and after, the mean loss at each step, exchanged CLS."""
        in_targets, subjects = self._sides(pairs)
        numbers: dict[str, float] = {"num_pairs": len(pairs)}
        numbers |= exchange_numbers(found, method, in_targets, subjects)
        arrays: dict[str, np.ndarray] = {}
        for side, chosen in (("", in_targets), ("_null", ~in_targets)):
            for when in ("before", "after"):
                distance = subject_mean(found[f"{method}/{when}_B"][chosen], subjects[chosen])
                numbers |= {f"distance_{when}{side}{end}": value for end, value in distance.items()}
            arrays[f"loss{side}_I"] = found[f"{method}/loss_BI"][chosen].mean(0)
        return numbers, arrays

    def _sides(self, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
        """Which of targets and null targets is which, and their subjects."""
        return np.repeat([True, False], len(pairs)), self.table["subject_id"].to_numpy(str)[pairs.rows[1:].ravel()]


def maps_of(found: Mapping[str, np.ndarray], nets: list[str]) -> dict[str, np.ndarray]:
    """The maps to contrast, each (2J, P): every model's mean |θ| and mean θ, and those of the signals alone."""
    maps = {f"{net}_{name}": found[f"{net}/{key}"] for net in nets for name, key in MEASURES.items()}
    return maps | {name: found[name] for name in SIGNALS}


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """Batches of (targets, null targets) as all targets, then all null targets."""
    halves = [np.split(part, 2) for part in parts]
    return np.concatenate([*(half[0] for half in halves), *(half[1] for half in halves)])


def signal_statistics(signal_BPT: Tensor, observed_BP: Tensor) -> dict[str, np.ndarray]:
    """Baseline maps without a model: mean and standard deviation over frames of targets and null targets, (2B, P)."""
    _, *chosen_BPT = signal_BPT.chunk(3)
    _, *seen_BP = observed_BP.chunk(3)
    windows_BPT, seen = torch.cat(chosen_BPT), torch.cat(seen_BP)
    parts = (windows_BPT.mean(2), windows_BPT.std(2))
    return {name: part.where(seen, torch.nan).cpu().numpy() for name, part in zip(SIGNALS, parts, strict=True)}
