"""Does an embedding carry the person? One half of what was recorded is to find the other, and to predict it.

An embedding near zero here holds nothing of the person, however well its model reconstructs. Connectivity of the same
frames is the opponent, and the model before its pretraining the control.

Shapes: U subjects.
"""

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import nn

from brainlm_lightning.checkpoint.pretrained import refuse_seen, untrained
from brainlm_lightning.data.parcellation import UNKNOWN_NETWORK
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.embedding.definitions import WindowEmbedding, check_model, default_embeddings, named_embeddings
from brainlm_lightning.embedding.recordings import GroupMeans, embed_groups, groups_of
from brainlm_lightning.embedding.spaces import FittedSpaces
from brainlm_lightning.evaluation.comparison import with_corrected_p
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.tasks.identity.compare import CONNECTIVITY, NETWORKS, HalfEmbeddings, scored
from brainlm_lightning.tasks.identity.halves import Halves
from brainlm_lightning.tasks.task import Task

Values = dict[str, NDArray[np.float64]]  # name -> (2 U, F)


class IdentityTask(Task):
    """Scores embeddings of a pretrained model on unseen subjects, with `test`; nothing is fitted but linear readings.

    Args:
        pretrained: checkpoint of any masked model: a file, a run folder or `runs/<experiment>`.
        embeddings: which to take, by name; None = the default ones but ``parcels``, which is long.
        more_embeddings: further ones by name, of your own definition.
        parts: a window's tokens are encoded in so many parts: 4 where the pretraining hid 75 %.
        control: the same with the model before its pretraining.
        max_train_subjects: that linear readings are fitted on; of more, evenly spaced ones are taken.
    """

    fitted = False

    def __init__(
        self,
        pretrained: str,
        embeddings: list[str] | None = None,
        more_embeddings: dict[str, WindowEmbedding] | None = None,
        parts: int = 4,
        control: bool = True,
        max_train_subjects: int = 1000,
    ) -> None:
        super().__init__()
        self.checkpoint, self.names, self.more = pretrained, embeddings, dict(more_embeddings or {})
        self.parts, self.control, self.max_train_subjects = parts, control, max_train_subjects
        self.nets = nn.ModuleDict()

    def setup(self, stage: str) -> None:
        """Loads the model and names the embeddings, before any work.

        Raises:
            ValueError: an embedding is unknown, or the model cannot have it, or has seen a test subject; there are
                several devices.
        """
        if self.trainer.world_size > 1:
            raise ValueError(
                f"got {self.trainer.world_size} devices; embeddings are scored on one: set trainer.devices=1"
            )
        data = self.datamodule
        pretrained = self.load_pretrained(self.checkpoint)
        tested = np.concatenate([test_set.rows for test_set in data.test_sets])
        refuse_seen(pretrained.about, pretrained.path, data.recordings.table.iloc[tested], "to be tested on")
        data.adopt_statistics(pretrained.statistics)
        self.own, self.of_the_signal = self._embeddings()
        check_model(self.own.values(), pretrained.model, parts=self.parts)
        self.nets["model"] = pretrained.model
        if self.control:
            self.nets["untrained"] = untrained(pretrained, data)
        self.nets.requires_grad_(False).eval()

    def _embeddings(self) -> tuple[dict[str, WindowEmbedding], dict[str, WindowEmbedding]]:
        """The embeddings of the model, and connectivity, which is the signal's own."""
        networks = list(self.datamodule.atlas.networks)
        known = dict(named_embeddings(networks, UNKNOWN_NETWORK))
        of_the_signal = {name: known.pop(name) for name in (CONNECTIVITY, NETWORKS) if name in known}
        default = [name for name in default_embeddings(networks, UNKNOWN_NETWORK) if name in known]
        names = [name for name in default if name != "parcels"] if self.names is None else self.names
        missing = sorted(set(names) - known.keys())
        if missing:
            raise ValueError(f"there is no embedding {missing[0]!r}; name some of {', '.join(known)}")
        return {name: known[name] for name in names} | self.more, of_the_signal

    def on_test_start(self) -> None:
        """Embeds the training subjects, and makes room for the test subjects."""
        data, rows = self.datamodule, self._train_rows()
        self.train_halves = Halves.of(data, rows)
        self.test_halves = [Halves.of(data, test_set.rows) for test_set in data.test_sets]
        self.train_values: Values = {}
        self.spaces: dict[str, FittedSpaces] = {}
        for net in self.nets:
            found = embed_groups(self._model(net), data, rows, self.train_halves.group, self._of(net), self.parts)
            self.spaces[net] = FittedSpaces.fit(self._of(net), found)
            self.train_values |= _named(net, self.spaces[net].place(found), self.train_halves)
        self.sums = [
            {net: GroupMeans(self._model(net), self._of(net), halves.num_groups, self.parts) for net in self.nets}
            for halves in self.test_halves
        ]
        rank_zero_info(
            f"{len(self.train_halves.subject_U)} training subjects, {int(self.train_halves.has_second_U.sum())} of "
            f"them with two halves; embeddings: {', '.join(self.train_values)}"
        )

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Embeds a batch of test windows with every model."""
        group_B = groups_of(batch, self.test_halves[dataloader_idx].group)
        for means in self.sums[dataloader_idx].values():
            means.add(batch, group_B.to(self.device))

    def on_test_epoch_end(self) -> None:
        """Scores with intervals, and paired tests against connectivity."""
        train = HalfEmbeddings(self.train_halves, self.train_values)
        for test_set, halves, sums in zip(self.datamodule.test_sets, self.test_halves, self.sums, strict=True):
            values: Values = {}
            for net, means in sums.items():
                values |= _named(net, self.spaces[net].place(means.compute()), halves)
            self.results |= scored(test_set.name, train, HalfEmbeddings(halves, values))
        self.results = with_corrected_p(self.results)

    # -- pieces ---------------------------------------------------------------------------------------------------

    def _train_rows(self) -> NDArray[np.intp]:
        """Recordings of the training subjects whose readings are fitted."""
        rows = self.datamodule.train_rows
        subject_R = self.datamodule.recordings.table["subject_id"].iloc[rows].to_numpy(str)
        names = np.unique(subject_R)
        kept = names[:: max(1, -(-len(names) // self.max_train_subjects))]
        return rows[np.isin(subject_R, kept)]

    def _model(self, net: str) -> MaskedModel:
        model = self.nets[net]
        assert isinstance(model, MaskedModel)
        return model

    def _of(self, net: str) -> dict[str, WindowEmbedding]:
        """The embeddings to take with a model; those of the signal come once, with the first."""
        return self.own if net != "model" else self.own | self.of_the_signal


def _named(net: str, found: dict[str, NDArray[np.float32]], halves: Halves) -> Values:
    """Embeddings under the names of the table, with a row for every half."""
    named = {}
    for name, values_GF in found.items():
        full = np.full((halves.num_groups, values_GF.shape[1]), np.nan)
        full[: len(values_GF)] = values_GF
        named[name if net == "model" else f"{name}_{net}"] = full
    return named
