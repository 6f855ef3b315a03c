"""Embeddings of recordings and subjects: the mean over a recording's windows, and over a subject's recordings.

Shapes: B windows of a batch, R recordings, U subjects, F features.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.windows import Batch, scale_on_device
from brainlm_lightning.embedding.definitions import WindowEmbedding
from brainlm_lightning.embedding.states import window_states
from brainlm_lightning.model.masked import MaskedModel

SHOWN = 200  # recordings from which on a progress bar is worth a line
Floats = NDArray[np.float32]


@torch.no_grad()
def embed_recordings(
    model: MaskedModel,
    data: CohortDataModule,
    rows: NDArray[np.intp],
    embeddings: Mapping[str, WindowEmbedding],
    parts: int = 1,
) -> dict[str, Floats]:
    """Embeds recordings: the mean of the embeddings of their windows.

    Args:
        model: on its device; embeds in evaluation mode and is left as it was.
        data: after its setup, scaled as the model's own data were.
        rows: of the recordings, each with at least one window.
        embeddings: by name.
        parts: in how many parts a window's tokens are encoded; see `hidden_parts`.

    Returns:
        Name -> (R, F) float32, in the order of ``rows``.
    """
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    index = torch.full((len(data.recordings.table),), -1, dtype=torch.long)
    index[torch.from_numpy(rows)] = torch.arange(len(rows))
    completes = any(embedding.completes for embedding in embeddings.values())
    sums: dict[str, torch.Tensor] = {}
    count = torch.zeros(len(rows))
    shown = f"embedding {len(rows)} recordings"
    for batch in track(data.evaluation_loader(rows), shown, disable=len(rows) < SHOWN):
        moved = {name: cast(torch.Tensor, value).to(device) for name, value in batch.items()}
        scaled = scale_on_device(cast(Batch, moved))
        states = window_states(
            model, scaled["signal_BPT"], scaled["observed_BP"], scaled["key_B"], parts, complete=completes
        )
        index_B = index[batch["recording_index_B"]]
        for name, embedding in embeddings.items():
            value_BF = embedding.of(states).cpu()
            if name not in sums:
                sums[name] = torch.zeros(len(rows), value_BF.shape[1])
            sums[name].index_add_(0, index_B, value_BF)
        count.index_add_(0, index_B, torch.ones(len(index_B)))
    model.train(was_training)
    return {name: (total / count[:, None]).numpy() for name, total in sums.items()}


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
