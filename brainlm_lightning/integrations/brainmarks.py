"""A model of this package as a plug-in of Brainmarks, the field's cross-model benchmark of frozen embeddings.

What is assumed of the benchmark's interface: a model comes as a pair. The *transform* takes one sample, a mapping
with the series in ``bold``, (frames, parcels), the ``tr`` in seconds and, where the benchmark has z-scored them,
``mean`` and ``std`` of each parcel; it returns tensors that are collated to batches. The *model* takes a batch and
returns embeddings of CLS, of registers (None here) and of patches, which the benchmark's probes are trained on.

    transform, model = plugin("my_model")  # an exported folder, or anything else that `brainlm_lightning.load` takes

Shapes: B samples of a batch, W windows of a sample, P parcels, T frames, N patches per parcel, L tokens, D width.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from brainlm_lightning.data.windows import Batch, scale_on_device
from brainlm_lightning.embedding.one_line import EmbeddingModel, load

Transform = Callable[[Mapping[str, Any]], dict[str, Tensor]]


class Embeddings(NamedTuple):
    """What the benchmark's probes take.

    Attributes:
        cls_embeds: (B, 1, D).
        reg_embeds: None: there are no registers.
        patch_embeds: (B, L, D), parcel-major; (B, N, D) of a model whose tokens hold several parcels.
    """

    cls_embeds: Tensor
    reg_embeds: None
    patch_embeds: Tensor


def plugin(source: Path | str, num_windows: int = 1) -> tuple[Transform, "BrainmarksModel"]:
    """The transform and the frozen model of a checkpoint.

    Args:
        source: see `brainlm_lightning.load`.
        num_windows: of each sample, evenly spaced; their embeddings are averaged.
    """
    model = load(source)
    return SampleTransform(model, num_windows), BrainmarksModel(model)


class SampleTransform:
    """A sample to windows as the checkpoint says: resampled, and scaled with its statistics, not with the benchmark's.

    Args:
        model: says how.
        num_windows: W.
    """

    def __init__(self, model: EmbeddingModel, num_windows: int = 1) -> None:
        if num_windows < 1:
            raise ValueError(f"num_windows is {num_windows}; expected 1 or more")
        self.model, self.num_windows = model, num_windows

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        """Windows of one sample.

        Returns:
            ``signal_WPT`` float32 and ``observed_P`` bool.

        Raises:
            ValueError: the parcels are not the checkpoint's in number, or the sample has fewer windows than wanted.
        """
        series = np.asarray(sample["bold"], np.float32)
        own = self.model.about["parcels"]
        parcels = len(own["index"])
        if series.ndim != 2 or series.shape[1] != parcels:
            raise ValueError(
                f"the sample's series is {series.shape}, the checkpoint is in {own['atlas']!r}: "
                f"expected (frames, {parcels}); choose the benchmark's data in this atlas, or move the model by `on`"
            )
        if "mean" in sample and "std" in sample:
            series = series * np.asarray(sample["std"], np.float32) + np.asarray(sample["mean"], np.float32)
        batch = self.model.windows(series, float(sample["tr"]))
        there = len(batch["start_B"])
        if there < self.num_windows:
            raise ValueError(f"the sample has {there} windows, {self.num_windows} are wanted; lower num_windows")
        scaled = scale_on_device(cast(Batch, dict(batch)))
        chosen = np.linspace(0, there - 1, self.num_windows).round().astype(int)
        return {"signal_WPT": scaled["signal_BPT"][chosen].float(), "observed_P": scaled["observed_BP"][0]}


class BrainmarksModel(nn.Module):
    """A frozen encoder with the benchmark's outputs.

    Args:
        model: whose encoder it is.

    Attributes:
        space: name of the atlas whose series it takes.
    """

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__()
        self.net = model.model.eval().requires_grad_(False)
        self.space = str(model.about["parcels"]["atlas"])

    def train(self, mode: bool = True) -> "BrainmarksModel":
        """Stays in evaluation mode: it is frozen."""
        super().train(False)
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> Embeddings:
        """Embeds a collated batch of `SampleTransform`, nothing hidden, means over the windows of each sample."""
        signal_BWPT, observed_BP = batch["signal_WPT"], batch["observed_P"]
        samples, windows = signal_BWPT.shape[:2]
        observed = observed_BP.repeat_interleave(windows, dim=0)
        hidden = torch.zeros_like(observed)[:, :, None].expand(-1, -1, self.net.num_patches)
        cls_D, tokens = self.net.tokens(signal_BWPT.flatten(0, 1), hidden, observed)
        cls_BD = torch.unflatten(cls_D, 0, (samples, windows)).mean(1)
        tokens_BLD = torch.unflatten(tokens.flatten(1, -2), 0, (samples, windows)).mean(1)
        return Embeddings(cls_BD[:, None], None, tokens_BLD)
