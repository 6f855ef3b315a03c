"""Functional networks: does a model's attention say which network a parcel belongs to?

Paper, section 4.6 and table 4.
In every test recording the labelled parcels are divided into training and test parcels; each test parcel gets the
network of its nearest training parcels, by what a method knows of them. No weight is changed.

Shapes: P parcels, R recordings.
"""

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from brainlm_lightning.checkpoint.pretrained import ControlStart, Pretrained, refuse_seen, untrained
from brainlm_lightning.data.parcellation import UNKNOWN_NETWORK
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.model.attention_maps import Reading
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.tasks.compare import Comparison, LearningData, TestedSet, fit_methods, with_baselines
from brainlm_lightning.tasks.networks.classify import Networks
from brainlm_lightning.tasks.networks.compare import Division, NetworkScore, parcel_table
from brainlm_lightning.tasks.networks.methods import (
    AttentionRows,
    AttentionWithoutSignal,
    ParcelEmbedding,
    ParcelMethod,
    default_baselines,
)
from brainlm_lightning.tasks.networks.neighbours import NeighbourPlan
from brainlm_lightning.tasks.task import Task


class NetworkTask(Task):
    """Sorts the parcels of each test recording into networks, by attention and by what it is compared with.

    Only the first window of a recording is used.

    Args:
        pretrained: checkpoint of a masked autoencoder: a file, a run folder or `runs/<experiment>`.
        embeddings: name -> checkpoint of further models whose parcel embeddings are compared (paper: a VAE and a GCN).
        readings: name -> which attention; the first is compared with everything else.
        neighbours: divisions of the parcels, and what is chosen inside the training parcels.
        max_recordings: of each test cohort; None = all.
        baselines: tested beside the models and the default baselines, by name; null leaves a default out.
        default_baselines: False = the given baselines alone.
    """

    fitted = False  # `test` needs no fit before

    def __init__(
        self,
        pretrained: str,
        embeddings: dict[str, str] | None = None,
        readings: dict[str, Reading] | None = None,
        neighbours: NeighbourPlan | None = None,
        max_recordings: int | None = None,
        baselines: dict[str, ParcelMethod | None] | None = None,
        default_baselines: bool = True,
    ) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.embeddings = dict(embeddings or {})
        self.readings = dict(readings or {"attention": Reading()})
        self.neighbours = neighbours or NeighbourPlan()
        self.max_recordings = max_recordings
        self.baselines, self.use_defaults = baselines, default_baselines

    @property
    def reference(self) -> str:
        """The method that the others are compared with."""
        return next(iter(self.readings))

    def setup(self, stage: str) -> None:
        """Checks everything and loads the models, before any work.

        Raises:
            ValueError: the atlas has no networks, or too small ones; a model does not fit the data or has seen its test
                subjects; a layer or head is not there; there are several devices.
        """
        if self.trainer.world_size > 1:
            raise ValueError(
                f"networks take minutes on one device, got {self.trainer.world_size}; set trainer.devices=1"
            )
        atlas = self.datamodule.atlas
        self.networks = Networks.of(atlas.name, list(atlas.networks), UNKNOWN_NETWORK, self.neighbours)
        left_out = int((self.networks.number_P < 0).sum())
        rank_zero_info(
            f"networks: {', '.join(self.networks.names)}; {left_out} parcels are {UNKNOWN_NETWORK!r}, left out"
        )
        first = self._load("pretrained", self.pretrained)
        others = {name: self._load(name, checkpoint) for name, checkpoint in self.embeddings.items()}
        for other in others.values():
            _check_scaled_alike(first, other)
        self.datamodule.adopt_statistics(first.statistics)
        self.methods = self._methods(first, others)

    def _load(self, name: str, checkpoint: str) -> Pretrained:
        """Loads a model that has seen no test subject."""
        found = self.load_pretrained(checkpoint, name)
        rows = np.concatenate([test_set.rows for test_set in self.datamodule.test_sets])
        refuse_seen(found.about, found.path, self.datamodule.recordings.table.iloc[rows], "to be tested on")
        return found

    def _methods(self, first: Pretrained, others: dict[str, Pretrained]) -> dict[str, ParcelMethod]:
        """Every method of the comparison, the reference first.

        Raises:
            ValueError: the first model has no attention, or not the layers and heads to read; a name is taken.
        """
        model, reading = first.model, self.readings[self.reference]
        if not isinstance(model, MaskedAutoencoder):
            raise ValueError(f"{first.path} holds a {model.name}, which has no attention; name a masked autoencoder")
        for each in self.readings.values():
            each.check(model.config.depth, model.config.num_heads)
        controls = self._controls(first)
        groups: tuple[dict[str, ParcelMethod], ...] = (
            {name: AttentionRows(model, each) for name, each in self.readings.items()},
            {f"{self.reference}_{name}": AttentionRows(control, reading) for name, control in controls},
            {f"{self.reference}_without_signal": AttentionWithoutSignal(model, reading)},
            {"embedding": ParcelEmbedding(model)},
            {name: ParcelEmbedding(other.model) for name, other in others.items()},
        )
        names = [name for group in groups for name in group]
        if len(set(names)) < len(names):
            raise ValueError(f"two methods have one name: {sorted(names)}; rename readings or embeddings")
        own = {name: method for group in groups for name, method in group.items()}
        return with_baselines(own, default_baselines(), self.baselines, self.use_defaults)

    def _controls(self, pretrained: Pretrained) -> list[tuple[str, MaskedAutoencoder]]:
        """The same model without its pretraining: as that began, and at the random start."""
        starts: dict[str, ControlStart] = {"untrained": "as_pretrained"}
        if pretrained.about["initialisation"]["start"] != "standard":
            starts["random_start"] = "standard"
        found = []
        for name, start in starts.items():
            model = untrained(pretrained, self.datamodule, start)
            assert isinstance(model, MaskedAutoencoder)
            found.append((name, model))
        return found

    def on_test_start(self) -> None:
        """Moves the models to the device, and fits what can be fitted."""
        for method in self.methods.values():
            for part in vars(method).values():
                if isinstance(part, torch.nn.Module):
                    part.to(self.device)
        data = self.datamodule
        self.chosen = fit_methods(self.methods, LearningData(data))
        seed_R = (data.recordings.hashes.astype(object) + data.seed) % 2**31
        division = Division(self.networks, self.neighbours, self.max_recordings, seed_R.astype(np.int64))
        self.score = NetworkScore(division, self.reference)
        table = data.recordings.table
        sets: list[TestedSet[ParcelMethod]] = [TestedSet.of(test_set, table) for test_set in data.test_sets]
        self.comparison = Comparison(self.methods, sets, self.score)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Classifies the parcels of each recording whose first window is in the batch."""
        self.comparison.update(batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Scores with intervals and paired tests, and the arrays for figures."""
        numbers, arrays = self.comparison.compute()
        self.results = numbers | self.chosen
        atlas = self.datamodule.atlas
        self.arrays = {
            "networks/names": np.array(self.networks.names),
            "networks/number_P": self.networks.number_P,
            "networks/xyz_mm": atlas.xyz_mm,
            **arrays,
        }
        for test_set in self.comparison.test_sets:
            table = parcel_table(atlas, self.score.tally(test_set), self.reference)
            self.tables[f"networks_{test_set.name}"] = table
        for name in (name for name in self.results if name.endswith("/accuracy")):
            self.log(name, self.results[name])


def _check_scaled_alike(first: Pretrained, other: Pretrained) -> None:
    """Checks that two models' own data were scaled by the same statistics, for both see the same windows.

    Raises:
        ValueError: they were not.
    """
    if first.about["scaling"]["statistics"] != other.about["scaling"]["statistics"]:
        raise ValueError(
            f"{other.path} was trained on data scaled by other statistics than {first.path}; compare models that were "
            "trained on one cohort"
        )
