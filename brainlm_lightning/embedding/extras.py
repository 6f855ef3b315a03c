"""What some embeddings need of a window beside the states of its tokens, and which models can give it.

Shapes: B windows of a batch, P parcels, T frames.
"""

from typing import Literal

from torch import Tensor

from brainlm_lightning.model.attention_maps import cls_attention
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.masked import MaskedModel

Extra = Literal["completed", "attention"]


def check_extra(extra: Extra, model: MaskedModel) -> None:
    """Checks that a model can give what an embedding needs, before any work.

    Raises:
        ValueError: it cannot; says why.
    """
    if extra == "attention":
        _attending(model)


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
