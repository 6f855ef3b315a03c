"""What a model makes of windows: the states of their tokens, encoded a part at a time.

Shapes: B windows of a batch, P parcels, T frames, N patches per parcel, D width.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from brainlm_lightning.embedding.extras import Extra, attention_of_cls, check_extra, prior_of
from brainlm_lightning.model.masked import MaskedModel, Reconstruction
from brainlm_lightning.model.masking import Grid, deal_tokens


@dataclass(frozen=True)
class WindowStates:
    """Windows, and a model's states of them.

    Attributes:
        signal_BPT: scaled signal; 0 where unobserved.
        observed_BP: False where a recording has no data of a parcel.
        cls_BD: summary of the window, the mean over the parts in which it was encoded.
        tokens_BPND: state of each token; 0 for parcels that are not observed.
        completed_BPT: the window as the model completes it, each token predicted while its part is hidden.
        has_parcels: False if tokens are shared by parcels; see `MaskedModel.has_parcels`.
        attention_BP: see `attention_of_cls`.
        expected_BPT: the window as the model's prior expects it, each token while its part is hidden.
    """

    signal_BPT: Tensor
    observed_BP: Tensor
    cls_BD: Tensor
    tokens_BPND: Tensor
    completed_BPT: Tensor | None = None
    has_parcels: bool = True
    attention_BP: Tensor | None = None
    expected_BPT: Tensor | None = None


def hidden_parts(key_B: Tensor, observed_BP: Tensor, num_patches: int, parts: int) -> Iterator[Tensor]:
    """What is hidden while each part of a window's tokens is encoded, (B, P, N); with one part nothing is.

    Args:
        key_B: int64 key of each window, from which the parts follow.
        observed_BP: False where a recording has no data of a parcel.
        num_patches: N.
        parts: as many tokens are visible at once as the pretraining saw, if it hid 1 − 1 / parts of them.
    """
    part_BPN = deal_tokens(key_B, Grid(observed_BP, num_patches), parts)
    return (part_BPN != part for part in range(parts))


@torch.no_grad()
def window_states(
    model: MaskedModel,
    signal_BPT: Tensor,
    observed_BP: Tensor,
    key_B: Tensor,
    parts: int = 1,
    needs: Collection[Extra] = (),
) -> WindowStates:
    """Encodes windows part by part; every token is encoded once.

    Args:
        model: in evaluation mode, on the windows' device.
        signal_BPT: scaled windows.
        observed_BP: False where a recording has no data of a parcel.
        key_B: see `hidden_parts`.
        parts: see `hidden_parts`; a model without tokens of its own takes whole windows.
        needs: what else is wanted: ``completed``, each part is hidden in turn, at the cost of decoding; ``attention``,
            at the cost of encoding whole windows; ``expected``, by the prior of a model that has one.

    Raises:
        ValueError: the model cannot give what is wanted.
    """
    for extra in needs:
        check_extra(extra, model, parts)
    cls, tokens_BPND = [], torch.zeros((), device=signal_BPT.device)
    predicted = {extra: torch.zeros_like(signal_BPT) for extra in needs if extra != "attention"}
    for hidden_BPN in hidden_parts(key_B, observed_BP, model.num_patches, parts if model.has_tokens else 1):
        cls_BD, part_BPND = model.tokens(signal_BPT, hidden_BPN, observed_BP)
        cls.append(cls_BD)
        tokens_BPND = tokens_BPND + part_BPND.float()
        target_BPN = ~hidden_BPN & observed_BP[:, :, None]
        target_BPT = target_BPN.repeat_interleave(signal_BPT.shape[2] // model.num_patches, dim=2)
        for extra, whole_BPT in predicted.items():
            part_BPT = _predicted(extra, model, signal_BPT, target_BPN, observed_BP).to(whole_BPT.dtype)
            predicted[extra] = whole_BPT.where(~target_BPT, part_BPT)
    return WindowStates(
        signal_BPT,
        observed_BP,
        cls_BD=torch.stack(cls).float().mean(0),
        tokens_BPND=tokens_BPND,
        completed_BPT=predicted.get("completed"),
        has_parcels=model.has_parcels,
        attention_BP=attention_of_cls(model, signal_BPT, observed_BP) if "attention" in needs else None,
        expected_BPT=predicted.get("expected"),
    )


def _predicted(extra: Extra, model: MaskedModel, signal_BPT: Tensor, target_BPN: Tensor, observed_BP: Tensor) -> Tensor:
    """What the model, or for ``expected`` its prior, predicts of windows while targets are hidden, (B, P, T)."""
    if extra == "completed":
        reconstruction: Reconstruction = model(signal_BPT, target_BPN, observed_BP)
        return reconstruction.prediction_BPT
    visible_BPN = ~target_BPN & observed_BP[:, :, None]
    visible_BPT = visible_BPN.repeat_interleave(signal_BPT.shape[2] // model.num_patches, dim=2)
    expected_BPT: Tensor = prior_of(model)(signal_BPT, visible_BPT)
    return expected_BPT
