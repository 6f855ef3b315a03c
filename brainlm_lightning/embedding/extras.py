"""What some embeddings need of a window beside the states of its tokens, and which models can give it.

Shapes: B windows of a batch, P parcels, T frames.
"""

from typing import Literal

from torch import Tensor

from brainlm_lightning.model.attention_maps import cls_attention
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.model.prior import PriorAutoencoder
from brainlm_lightning.model.smoother.prior import SmootherPrior
from brainlm_lightning.model.tied_prior import TiedPriorAutoencoder

Extra = Literal["completed", "attention", "expected"]


def check_extra(extra: Extra, model: MaskedModel, parts: int) -> None:
    """Checks that a model can give what an embedding needs, before any work.

    Args:
        extra: what is needed.
        model: that gives it.
        parts: in how many parts a window's tokens are encoded; see `hidden_parts`.

    Raises:
        ValueError: it cannot; says why.
    """
    if extra == "attention":
        _attending(model)
    if extra == "completed" and (parts < 2 or not model.has_tokens):
        raise ValueError(
            f"got a {model.name} and parts={parts}: all of a window is hidden at once, so that it is completed "
            "from nothing; `completed_connectivity` takes a model with tokens and 2 parts or more (4 where the "
            "pretraining hid 75 %); leave it out of `embeddings` otherwise"
        )
    if extra == "expected":
        prior_of(model)
        if parts < 2:
            raise ValueError(
                f"got parts={parts}: all tokens are hidden at once, and a prior that sees nothing expects the group's "
                "mean of every window; the embedding `residual` takes 2 parts or more, 4 where the pretraining hid 75 %"
            )


def attention_of_cls(model: MaskedModel, signal_BPT: Tensor, observed_BP: Tensor) -> Tensor:
    """Attention from CLS to each parcel, nothing hidden: the mean over layers, heads and patches, (B, P).

    Args:
        model: in evaluation mode.
        signal_BPT: scaled signal.
        observed_BP: False where a recording has no data of a parcel; 0 there.

    Raises:
        ValueError: the model has no such attention.
    """
    return cls_attention(_attending(model), signal_BPT, observed_BP).parcels_BlhP.mean((1, 2))


def _attending(model: MaskedModel) -> MaskedAutoencoder:
    if not isinstance(model, MaskedAutoencoder):
        raise ValueError(
            f"a {model.name} has no attention from CLS to single parcels, expected a masked autoencoder; leave the "
            "embedding `attention` out"
        )
    return model


def prior_of(model: MaskedModel) -> SmootherPrior:
    """The smoother that a model has as its prior.

    Raises:
        ValueError: it has none.
    """
    if not isinstance(model, PriorAutoencoder | TiedPriorAutoencoder):
        raise ValueError(
            f"a {model.name} has no prior, expected a {PriorAutoencoder.name} or {TiedPriorAutoencoder.name}; leave "
            "the embedding `residual` out, or pretrain one of these"
        )
    return model.prior
