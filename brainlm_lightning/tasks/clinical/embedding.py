"""Embeddings of whole recordings by an encoder that does not change: computed once, kept beside the runs.

Shapes: B batch, P parcels, N patches per parcel, R recordings, D width.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from brainlm_lightning import __version__
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.windows import Batch, scale_on_device
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.masking import Grid, deal_tokens
from brainlm_lightning.provenance import git_commit
from brainlm_lightning.run_folder import read_arrays, write_arrays
from brainlm_lightning.tasks.clinical.net import mean_token

POOLINGS = ("cls", "mean")


def hidden_parts(batch: Batch, num_patches: int, parts: int) -> Iterator[Tensor]:
    """What is hidden while each part of a window's tokens is encoded, (B, P, N); with one part nothing is."""
    part_BPN = deal_tokens(batch["key_B"], Grid(batch["observed_BP"], num_patches), parts)
    return (part_BPN != part for part in range(parts))


@torch.no_grad()
def embed(net: MaskedAutoencoder, datamodule: CohortDataModule, rows: NDArray, parts: int) -> NDArray[np.float32]:
    """Embeds recordings: the mean over all parts of all windows of CLS, and of the mean token.

    Args:
        net: on its device; embeds in evaluation mode.
        datamodule: whose windows are taken.
        rows: of the recordings.
        parts: see `hidden_parts`.

    Returns:
        (R, 2, D): CLS and mean token.
    """
    device, was_training = net.cls_D.device, net.training
    net.eval()
    place = torch.full((len(datamodule.recordings.table),), -1, dtype=torch.long)
    place[torch.from_numpy(rows)] = torch.arange(len(rows))
    total = torch.zeros(len(rows), len(POOLINGS), net.config.embed_dim, dtype=torch.float64)
    count = torch.zeros(len(rows))
    for batch in track(
        datamodule.evaluation_loader(rows), f"embedding {len(rows)} recordings", disable=len(rows) < 200
    ):
        scaled = scale_on_device({name: value.to(device) for name, value in batch.items()})  # type: ignore[arg-type]
        place_B = place[batch["recording_index_B"]]
        for hidden_BPN in hidden_parts(scaled, net.num_patches, parts):
            encoding = net.encode(scaled["signal_BPT"], hidden_BPN, scaled["observed_BP"])
            feature_B2D = torch.stack([encoding.cls_BD, mean_token(encoding)], dim=1)
            total.index_add_(0, place_B, feature_B2D.double().cpu())
            count.index_add_(0, place_B, torch.ones(len(place_B)))
    net.train(was_training)
    return (total / count[:, None, None]).float().numpy()


def kept(runs: Path, what: dict[str, Any], make: Callable[[], dict[str, NDArray]]) -> dict[str, NDArray]:
    """Arrays that follow from ``what``: read where they were made before, else made and kept.

    Args:
        runs: folder of all runs, which all experiments share; such files are in its ``.kept``.
        what: all that the arrays depend on beside this package's code, as plain values.
        make: makes them.
    """
    name = f"{digest_of([what, __version__, git_commit()])}.npz"
    folder = runs / ".kept"  # hidden: it is no experiment, and may be deleted
    if (folder / name).is_file():
        return read_arrays(folder, name)
    arrays = make()
    write_arrays(folder / name, arrays)
    return arrays


def digest_of(values: Any) -> str:
    """A short digest of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]
