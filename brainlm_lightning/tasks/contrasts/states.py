"""What of a model can be matched with a target, and how far two windows are apart in it.

Training moves what the reconstruction of hidden patches depends on: the states of the visible tokens, and the hidden
patches as they are decoded. CLS is no such thing: exchanging it between recordings hardly changes a reconstruction
(`exchange`), so that no distance in it has a trained meaning.

Shapes: B batch of pairs, P parcels, T frames, N patches per parcel, D width.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.model.masking import Grid, deal_tokens

TargetName = Literal["cls", "tokens", "decoded", "decoded_hidden", "recording"]

HALVES = 2  # every patch is decoded from the patches of the other half


class Match:
    """The distance of windows' states from those of fixed targets, over the parcels that both have.

    Args:
        model: in evaluation mode.
        target: ``cls``, the summary token; ``tokens``, the states of all tokens; ``decoded``, the reconstruction of the
            window; ``decoded_hidden``, the same with each patch hidden while it is decoded, from a half of the window
            that is dealt at random and is the same for every pair; ``recording``, of the target its own values, of the
            perturbed window the reconstruction. Nothing is hidden but for ``decoded_hidden``.
        target_BPT: windows to match.
        observed_BP: True where both windows of a pair have data: nothing else is shown to the model.
    """

    def __init__(self, model: MaskedModel, target: TargetName, target_BPT: Tensor, observed_BP: Tensor) -> None:
        self.model, self.target, self.observed_BP = model, target, observed_BP
        states: dict[TargetName, Callable[[Tensor], Tensor]] = {
            "cls": self._cls,
            "tokens": self._tokens,
            "decoded": self._decoded,
            "decoded_hidden": self._decoded_hidden,
            "recording": self._decoded,
        }
        self._state_of = states[target]
        grid = Grid(observed_BP, model.num_patches)
        self._half_BPN = deal_tokens(same_keys(observed_BP), grid, HALVES)
        with torch.no_grad():
            self.goal = target_BPT if target == "recording" else self._state(target_BPT)

    def distance(self, signal_BPT: Tensor) -> Tensor:
        """Mean squared difference of the states, (B,)."""
        squared = (self._state(signal_BPT) - self.goal).square()
        return squared.mean(1) if self.target == "cls" else parcel_mean(squared.flatten(2).mean(2), self.observed_BP)

    def _state(self, signal_BPT: Tensor) -> Tensor:
        """CLS (B, D), the tokens' states (B, P, N, D), or a decoded window (B, P, T)."""
        return self._state_of(signal_BPT * self.observed_BP[:, :, None]).float()

    def _nothing(self) -> Tensor:
        """A mask that hides nothing, (B, P, N)."""
        return self.observed_BP.new_zeros(*self.observed_BP.shape, self.model.num_patches)

    def _cls(self, signal_BPT: Tensor) -> Tensor:
        if isinstance(self.model, MaskedAutoencoder):  # without decoding
            return self.model.encode(signal_BPT, self._nothing(), self.observed_BP).cls_BD
        cls_BD: Tensor = self.model(signal_BPT, self._nothing(), self.observed_BP).cls_BD
        return cls_BD

    def _tokens(self, signal_BPT: Tensor) -> Tensor:
        return self.model.tokens(signal_BPT, self._nothing(), self.observed_BP)[1]

    def _decoded(self, signal_BPT: Tensor) -> Tensor:
        decoded_BPT: Tensor = self.model(signal_BPT, self._nothing(), self.observed_BP).prediction_BPT
        return decoded_BPT

    def _decoded_hidden(self, signal_BPT: Tensor) -> Tensor:
        frames = signal_BPT.shape[2] // self.model.num_patches
        decoded_BPT = torch.zeros_like(signal_BPT)
        for half in range(HALVES):
            hidden_BPN = (self._half_BPN == half) & self.observed_BP[:, :, None]
            prediction_BPT = self.model(signal_BPT, hidden_BPN, self.observed_BP).prediction_BPT
            decoded_BPT = decoded_BPT + prediction_BPT.where(hidden_BPN.repeat_interleave(frames, dim=2), 0)
        return decoded_BPT


def same_keys(observed_BP: Tensor) -> Tensor:
    """One key of masks for all windows, int64 (B,): two windows of a pair are hidden alike."""
    return torch.zeros(len(observed_BP), dtype=torch.int64, device=observed_BP.device)


def parcel_mean(value_BP: Tensor, observed_BP: Tensor) -> Tensor:
    """Mean over the observed parcels, (B,); 0 where there are none."""
    return (value_BP * observed_BP).sum(1) / observed_BP.sum(1).clamp(min=1)
