"""Functional networks: does a model's attention say which network a parcel belongs to?

Paper, section 4.6 and table 4.
In every test recording the labelled parcels are divided into training and test parcels; each test parcel gets the
network of its nearest training parcels, by what a method knows of them. No weight is changed.

Shapes: B batch, P parcels, C networks, R recordings.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from brainlm_lightning.checkpoint.pretrained import Pretrained, load_pretrained, refuse_seen, untrained
from brainlm_lightning.checkpoint.start import training_covariance
from brainlm_lightning.data.atlas import UNKNOWN_NETWORK
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.comparison import with_corrected_p
from brainlm_lightning.model.attention_maps import Reading
from brainlm_lightning.model.gcn import correlation
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.tasks.networks.classify import Networks, Tally, classify_recording
from brainlm_lightning.tasks.networks.methods import (
    AttentionRows,
    Connectivity,
    Fixed,
    ParcelEmbedding,
    ParcelFeatures,
    Position,
    RawSeries,
    without_signal,
)
from brainlm_lightning.tasks.networks.neighbours import UNKNOWN, NeighbourPlan
from brainlm_lightning.tasks.networks.score import compare_methods, network_scores
from brainlm_lightning.tasks.task import Task

Control = Literal["as_pretrained", "standard"]


class NetworkTask(Task):
    """Sorts the parcels of each test recording into networks, by attention and by what it is compared with.

    Only the first window of a recording is used.

    Args:
        pretrained: checkpoint of a masked autoencoder: a file, a run folder or `runs/<experiment>`.
        embeddings: name -> checkpoint of further models whose parcel embeddings are compared (paper: a VAE and a GCN).
        readings: name -> which attention; the first is compared with everything else.
        neighbours: divisions of the parcels, and what is chosen inside the training parcels.
        max_recordings: of each test cohort; None = all.
    """

    fitted = False  # `test` needs no fit before

    def __init__(
        self,
        pretrained: str,
        embeddings: dict[str, str] | None = None,
        readings: dict[str, Reading] | None = None,
        neighbours: NeighbourPlan | None = None,
        max_recordings: int | None = None,
    ) -> None:
        super().__init__()
        self.place = pretrained
        self.embeddings = dict(embeddings or {})
        self.readings = dict(readings or {"attention": Reading()})
        self.neighbours = neighbours or NeighbourPlan()
        self.max_recordings = max_recordings
        self.methods: dict[str, ParcelFeatures] = {}
        self.statistics: dict[str, Any] | None = None  # by which the first model's data were scaled
        self.checkpoints: dict[str, Path] = {}  # of the models compared, for the run's provenance

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
        atlas = self.datamodule.stores[0].atlas
        self.networks = Networks.of(atlas.name, list(atlas.networks), UNKNOWN_NETWORK, self.neighbours)
        left_out = int((self.networks.number_P < 0).sum())
        rank_zero_info(
            f"networks: {', '.join(self.networks.names)}; {left_out} parcels are {UNKNOWN_NETWORK!r}, left out"
        )
        self.methods = self._methods()
        self.tallies = [Tally(self.networks) for _ in self.datamodule.test_sets]

    def _methods(self) -> dict[str, ParcelFeatures]:
        """All that is compared, the reference first."""
        pretrained = self._load("pretrained", self.place)
        model = pretrained.model
        if not isinstance(model, MaskedAutoencoder):
            raise ValueError(
                f"{pretrained.path} holds a {model.name}, which has no attention; name a masked autoencoder"
            )
        for reading in self.readings.values():
            reading.check(model.config.depth, model.config.num_heads)
        xyz_mm = self.datamodule.stores[0].atlas.xyz_mm
        group_PP = correlation(training_covariance(self.datamodule)).numpy()  # after the scaling is settled
        groups: tuple[dict[str, ParcelFeatures], ...] = (
            {name: AttentionRows(model, reading) for name, reading in self.readings.items()},
            self._controls(pretrained),
            {f"{self.reference}_without_signal": without_signal(model, self.readings[self.reference])},
            {"embedding": ParcelEmbedding(model)},
            {name: ParcelEmbedding(self._load(name, place).model) for name, place in self.embeddings.items()},
            {"raw_series": RawSeries(), "connectivity": Connectivity(), "group_connectivity": Fixed(group_PP)},
            {"position": Position(xyz_mm), "position_mirrored": Position(xyz_mm, mirrored=True)},
        )
        names = [name for group in groups for name in group]
        if len(set(names)) < len(names):
            raise ValueError(f"two methods have one name: {sorted(names)}; rename readings or embeddings")
        return {name: method for group in groups for name, method in group.items()}

    def _controls(self, pretrained: Pretrained) -> dict[str, ParcelFeatures]:
        """Attention of the same model without its pretraining: as that began, and at the random start."""
        starts: dict[str, Control] = {"untrained": "as_pretrained"}
        if pretrained.about["initialisation"]["start"] != "standard":
            starts["random_start"] = "standard"
        found: dict[str, ParcelFeatures] = {}
        for name, start in starts.items():
            model = untrained(pretrained, self.datamodule, start).to(self.device)
            assert isinstance(model, MaskedAutoencoder)
            found[f"{self.reference}_{name}"] = AttentionRows(model, self.readings[self.reference])
        return found

    def _load(self, name: str, place: str) -> Pretrained:
        """Loads a model that has seen no test subject, and whose own data were scaled as those of the first."""
        pretrained = load_pretrained(place, self.datamodule)
        statistics = pretrained.about["scaling"]["statistics"]
        if self.statistics not in (None, statistics):
            raise ValueError(
                f"{pretrained.path} was trained on data scaled by other statistics than {self.place}; compare models "
                "that were trained on one cohort"
            )
        self.statistics = statistics
        self.checkpoints[name] = pretrained.path
        rows = np.concatenate([test_set.rows for test_set in self.datamodule.test_sets])
        refuse_seen(pretrained, self.datamodule.recordings.table["subject_id"].iloc[rows], "to be tested on")
        pretrained.model.to(self.device)
        return pretrained

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Classifies the parcels of each recording whose first window is in the batch."""
        wanted = self._wanted(batch, dataloader_idx)
        if not len(wanted):
            return
        chosen: Any = {name: value[wanted] for name, value in batch.items()}  # type: ignore[index]
        features = {name: method(chosen) for name, method in self.methods.items()}
        relational = [name for name, method in self.methods.items() if method.relational]
        for place, row in enumerate(chosen["recording_index_B"].tolist()):
            found = classify_recording(
                {name: values[place] for name, values in features.items()},
                relational,
                chosen["observed_BP"][place].cpu().numpy(),
                self.networks,
                self.neighbours,
                seed=self._seed(row),
            )
            self.tallies[dataloader_idx].add(row, found)

    def _wanted(self, batch: Batch, cohort: int) -> NDArray[np.intp]:
        """Places in the batch of the first windows of the recordings to classify."""
        rows = self.datamodule.test_sets[cohort].rows[: self.max_recordings]
        first_B = batch["start_B"].cpu().numpy() == 0
        return np.flatnonzero(first_B & np.isin(batch["recording_index_B"].cpu().numpy(), rows))

    def _seed(self, row: int) -> int:
        """Of a recording's divisions: a function of the experiment's seed and the recording's name."""
        return int((int(self.datamodule.recordings.hashes[row]) + self.datamodule.seed) % 2**31)

    def on_test_epoch_end(self) -> None:
        """Scores with intervals and paired tests, and the arrays for figures."""
        results: dict[str, float] = {}
        self.arrays = {"networks/names": np.array(self.networks.names), "networks/number_P": self.networks.number_P}
        self.arrays["networks/xyz_mm"] = self.datamodule.stores[0].atlas.xyz_mm
        for test_set, tally in zip(self.datamodule.test_sets, self.tallies, strict=True):
            place = f"test/{test_set.name}/networks"
            results |= {f"{place}/{name}": value for name, value in self._results(tally).items()}
            self.arrays |= {f"{place}/{name}": value for name, value in self._arrays(tally).items()}
            self.tables[f"networks_{test_set.name}"] = self._parcels(tally)
        self.results = with_corrected_p(results)
        for name in (name for name in self.results if name.endswith("/accuracy")):
            self.log(name, self.results[name])

    def _results(self, tally: Tally) -> dict[str, float]:
        """Scores of every method of a cohort, and the reference against the others."""
        if not tally.rows:
            raise ValueError(
                f"none of {tally.left_out} test recordings has {self.neighbours.fewest} observed parcels of each "
                "network; lower neighbours.folds or look at the cohort's dead parcels"
            )
        subjects = self.datamodule.recordings.table["subject_id"].iloc[tally.rows].to_numpy()
        found = {"num_recordings_left_out": float(tally.left_out)}
        found["num_parcels_left_out"] = float((self.networks.number_P == UNKNOWN).sum())
        for name, confusion_RCC in tally.confusions.items():
            found |= {f"{name}/{score}": value for score, value in network_scores(confusion_RCC, subjects).items()}
        return found | compare_methods(tally.confusions, subjects, self.reference)

    def _arrays(self, tally: Tally) -> dict[str, Any]:
        """Of every method: confusion and guesses over all recordings, and what was chosen; (rows) of the table."""
        found: dict[str, Any] = {"recording_index": np.array(tally.rows)}
        plan = self.neighbours
        for name, confusion_RCC in tally.confusions.items():
            found[f"{name}/confusion_RCC"] = np.array(confusion_RCC, np.int32)
            found[f"{name}/votes_PC"] = tally.votes_PC[name]
            found[f"{name}/chosen_MK"] = tally.chosen(name, plan.metrics, plan.ks)
        return found

    def _parcels(self, tally: Tally) -> pd.DataFrame:
        """The atlas table with what the reference said of each parcel."""
        votes_PC, number_P = tally.votes_PC[self.reference], self.networks.number_P
        tested_P = votes_PC.sum(1)
        right_P = votes_PC[np.arange(len(number_P)), np.maximum(number_P, 0)]
        said_P = np.where(tested_P > 0, np.array(self.networks.names)[votes_PC.argmax(1)], "")
        missed_P = np.where(tested_P > 0, 100 * (1 - right_P / np.maximum(tested_P, 1)), np.nan).round(1)
        parcels = self.datamodule.stores[0].atlas.parcels
        return parcels.assign(times_tested=tested_P, missed_percent=missed_P, most_often_said=said_P)
