"""Embeddings of recordings and subjects: the mean over a recording's windows, and over a subject's recordings.

Shapes: B windows of a batch, G groups of windows, R recordings, U subjects, F features.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.windows import Batch, scale_on_device
from brainlm_lightning.embedding.definitions import WindowEmbedding, check_model
from brainlm_lightning.embedding.states import window_states
from brainlm_lightning.model.masked import MaskedModel

SHOWN = 200  # recordings from which on a progress bar is worth a line
Floats = NDArray[np.float32]


class GroupMeans:
    """The mean embedding of groups of windows: of a recording, of half a recording.

    Args:
        model: on its device; embeds in evaluation mode.
        embeddings: by name.
        num_groups: G.
        parts: in how many parts a window's tokens are encoded; see `hidden_parts`.

    Raises:
        ValueError: the model cannot have one of the embeddings.
    """

    def __init__(
        self, model: MaskedModel, embeddings: Mapping[str, WindowEmbedding], num_groups: int, parts: int
    ) -> None:
        check_model(embeddings.values(), model, parts)
        self.model, self.embeddings, self.parts = model, embeddings, parts
        self._needs = {extra for embedding in embeddings.values() for extra in embedding.needs}
        self._sums: dict[str, torch.Tensor] = {}
        self._count_G = torch.zeros(num_groups)

    @torch.no_grad()
    def add(self, batch: Batch, group_B: torch.Tensor) -> None:
        """Adds scaled windows on the model's device; those of group −1 are left out."""
        was_training = self.model.training
        self.model.eval()
        wanted = group_B >= 0
        if not bool(wanted.any()):
            return
        inputs = (batch["signal_BPT"][wanted], batch["observed_BP"][wanted], batch["key_B"][wanted])
        states = window_states(self.model, *inputs, parts=self.parts, needs=self._needs)
        group_B = group_B[wanted].cpu()
        for name, embedding in self.embeddings.items():
            value_BF = embedding.of(states).cpu()
            if name not in self._sums:
                self._sums[name] = torch.zeros(len(self._count_G), value_BF.shape[1])
            self._sums[name].index_add_(0, group_B, value_BF)
        self._count_G.index_add_(0, group_B, torch.ones(len(group_B)))
        self.model.train(was_training)

    def compute(self) -> dict[str, Floats]:
        """Name -> (G, F) float32; NaN for groups without a window."""
        return {name: (total_GF / self._count_G[:, None]).numpy() for name, total_GF in self._sums.items()}


def embed_recordings(
    model: MaskedModel,
    data: CohortDataModule,
    rows: NDArray[np.intp],
    embeddings: Mapping[str, WindowEmbedding],
    parts: int = 1,
) -> dict[str, Floats]:
    """Embeds recordings: the mean of the embeddings of their windows.

    Args:
        model: on its device.
        data: after its setup, scaled as the model's own data were.
        rows: of the recordings, each with at least one window.
        embeddings: by name.
        parts: see `GroupMeans`.

    Returns:
        Name -> (R, F) float32, in the order of ``rows``.
    """
    index_of = {int(row): number for number, row in enumerate(rows)}
    groups = {(row, start): number for row, number in index_of.items() for start in window_starts(data, row)}
    return embed_groups(model, data, rows, groups, embeddings, parts)


def embed_groups(
    model: MaskedModel,
    data: CohortDataModule,
    rows: NDArray[np.intp],
    groups: Mapping[tuple[int, int], int],
    embeddings: Mapping[str, WindowEmbedding],
    parts: int = 1,
) -> dict[str, Floats]:
    """Embeds groups of windows, each the mean of its windows' embeddings.

    Args:
        model: on its device.
        data: after its setup, scaled as the model's own data were.
        rows: recordings whose windows are read.
        groups: (row of the recording, first frame of the window) -> number of the group.
        embeddings: by name.
        parts: see `GroupMeans`.

    Returns:
        Name -> (G, F) float32.
    """
    device = next(model.parameters()).device
    means = GroupMeans(model, embeddings, max(groups.values()) + 1, parts)
    shown = f"embedding {len(rows)} recordings"
    for batch in track(data.evaluation_loader(rows), shown, disable=len(rows) < SHOWN):
        moved = {name: cast(torch.Tensor, value).to(device) for name, value in batch.items()}
        means.add(scale_on_device(cast(Batch, moved)), groups_of(batch, groups))
    return means.compute()


def groups_of(batch: Batch, groups: Mapping[tuple[int, int], int]) -> torch.Tensor:
    """The group of each window of a batch, (B,) int64; −1 for windows of none."""
    windows = zip(batch["recording_index_B"].tolist(), batch["start_B"].tolist(), strict=True)
    return torch.tensor([groups.get(window, -1) for window in windows])


def window_starts(data: CohortDataModule, row: int) -> list[int]:
    """First frames of a recording's windows, side by side."""
    return [int(start) for start in data.places.side_by_side(row)]


def by_subject(values_RF: Floats, subject_R: Sequence[str] | NDArray[Any]) -> tuple[NDArray[np.str_], Floats]:
    """Means over each subject's recordings.

    Args:
        values_RF: an embedding of each recording.
        subject_R: whom each recording is of.

    Returns:
        The subjects, sorted, and their embeddings (U, F).
    """
    names, index_R = np.unique(np.asarray(subject_R, dtype=str), return_inverse=True)
    total_UF = np.zeros((len(names), values_RF.shape[1]))
    np.add.at(total_UF, index_R, values_RF)
    return names, (total_UF / np.bincount(index_R)[:, None]).astype(np.float32)
