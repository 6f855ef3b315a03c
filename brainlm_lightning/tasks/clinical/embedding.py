"""Embeddings of whole recordings by an encoder that does not change.

Shapes: B batch, P parcels, N patches per parcel, R recordings, D width.
"""

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.windows import Batch, scale_on_device
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.model.masking import Grid, deal_tokens

POOLINGS = ("cls", "mean")


def hidden_parts(batch: Batch, num_patches: int, parts: int) -> Iterator[Tensor]:
    """What is hidden while each part of a window's tokens is encoded, (B, P, N); with one part nothing is."""
    part_BPN = deal_tokens(batch["key_B"], Grid(batch["observed_BP"], num_patches), parts)
    return (part_BPN != part for part in range(parts))


@torch.no_grad()
def embed(
    net: MaskedModel, data: CohortDataModule, rows: NDArray[np.intp], parts: int
) -> dict[str, NDArray[np.float32]]:
    """Embeds recordings, part by part of each window.

    Args:
        net: on its device; embeds in evaluation mode.
        data: whose windows are taken.
        rows: of the recordings.
        parts: see `hidden_parts`; a model without tokens of its own takes whole windows.

    Returns:
        ``cls`` and ``mean`` (token), each the mean over all parts of all windows, (R, D); and ``cls_variance`` and
        ``mean_variance``, how much the parts of a recording differ.
    """
    device, was_training = next(net.parameters()).device, net.training
    parts = parts if net.has_tokens else 1
    net.eval()
    index = torch.full((len(data.recordings.table),), -1, dtype=torch.long)
    index[torch.from_numpy(rows)] = torch.arange(len(rows))
    total = torch.zeros(0, dtype=torch.float64)  # until the first window says how wide an embedding is
    count = torch.zeros(len(rows))
    for batch in track(data.evaluation_loader(rows), f"embedding {len(rows)} recordings", disable=len(rows) < 200):
        scaled = scale_on_device(cast(Batch, {name: value.to(device) for name, value in batch.items()}))
        index_B = index[batch["recording_index_B"]]
        for hidden_BPN in hidden_parts(scaled, net.num_patches, parts):
            cls_BD, tokens_BPND = net.tokens(scaled["signal_BPT"], hidden_BPN, scaled["observed_BP"])
            visible_BPN = scaled["observed_BP"][:, :, None] & ~hidden_BPN[:, :, : tokens_BPND.shape[2]]
            mean_BD = tokens_BPND.sum(dim=(1, 2)) / visible_BPN.sum(dim=(1, 2)).clamp(min=1)[:, None]
            pooled_B2D = torch.stack([cls_BD, mean_BD], dim=1).double().cpu()
            if not len(total):
                total = total.new_zeros(len(rows), 2 * len(POOLINGS), pooled_B2D.shape[2])
            total.index_add_(0, index_B, torch.cat([pooled_B2D, pooled_B2D.square()], dim=1))
            count.index_add_(0, index_B, torch.ones(len(index_B)))
    net.train(was_training)
    mean_R2D, square_R2D = (total / count[:, None, None]).chunk(2, dim=1)
    variance_R2D = (square_R2D - mean_R2D.square()).clamp(min=0)  # float64: summaries vary little about their mean
    names = [*POOLINGS, *(f"{name}_variance" for name in POOLINGS)]
    parts_R4D = torch.cat([mean_R2D, variance_R2D], dim=1).float().numpy()
    return dict(zip(names, np.moveaxis(parts_R4D, 1, 0), strict=True))
