"""Two decoders of the masked autoencoder, with the same parameters: what the tokens that are predicted may ask.

- *joint* (paper): all tokens, hidden and visible, attend to each other. In the last block only tokens that are wanted
  ask, since nothing reads the others any more.
- *cross* (Fu et al. 2024): wanted tokens ask the encoder's visible tokens, never each other, so that any share of the
  hidden tokens can be decoded alone, and each is predicted alike whatever others are.

Shapes: B batch, L tokens (parcel-major), V visible tokens, W wanted tokens, D width.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from brainlm_lightning.model.embedding import PositionEmbedding
from brainlm_lightning.model.transformer import Transformer

DecoderName = Literal["joint", "cross"]


@dataclass(frozen=True)
class Encoding:
    """The encoder's output.

    Attributes:
        cls_BD: the CLS token.
        tokens_BVD: the visible tokens, in natural (parcel-major) order.
        index_BV: index of each among the L tokens.
        valid_BV: False for padding, in windows with fewer than V visible tokens.
    """

    cls_BD: Tensor
    tokens_BVD: Tensor
    index_BV: Tensor
    valid_BV: Tensor


class Parts(Protocol):
    """The parts of a masked autoencoder that decode."""

    decoder_projection: nn.Linear
    decoder_position: PositionEmbedding
    mask_token_D: nn.Parameter
    decoder: Transformer


def index_of(chosen_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of each window's chosen tokens in natural order, padded to the longest, and False where padded."""
    longest = int(chosen_BL.sum(dim=1).max())
    index_BV = (~chosen_BL).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    return index_BV, chosen_BL.gather(1, index_BV)


def with_cls(tokens_BLD: Tensor, cls_D: Tensor, key_BL: Tensor) -> tuple[Tensor, Tensor | None]:
    """Prepends CLS; the key mask is None where every token can be attended to, which allows the fast kernels."""
    cls_B1D = cls_D.expand(len(tokens_BLD), 1, -1)
    tokens_BLD = torch.cat([cls_B1D.to(tokens_BLD.dtype), tokens_BLD], dim=1)
    return tokens_BLD, None if bool(key_BL.all()) else nn.functional.pad(key_BL, (1, 0), value=True)


def joint(parts: Parts, encoding: Encoding, key_BL: Tensor, wanted_BW: Tensor | None) -> Tensor:
    """Decodes by attention among all tokens.

    Args:
        parts: of the model.
        encoding: of the visible tokens.
        key_BL: False for tokens of parcels without data.
        wanted_BW: indices of tokens to decode; None = all.

    Returns:
        The decoded tokens, (B, W, D).
    """
    tokens_BVD = parts.decoder_projection(encoding.tokens_BVD)
    mask_token_D = parts.mask_token_D.to(tokens_BVD.dtype)
    tokens_BVD = torch.where(encoding.valid_BV[:, :, None], tokens_BVD, mask_token_D)
    position_LD = parts.decoder_position().flatten(0, 1)
    full_BLD = mask_token_D.expand(len(tokens_BVD), len(position_LD), -1)
    index_BVD = encoding.index_BV[:, :, None].expand_as(tokens_BVD)
    full_BLD = full_BLD.scatter(1, index_BVD, tokens_BVD) + position_LD
    cls_B1D = parts.decoder_projection(encoding.cls_BD)[:, None]
    if wanted_BW is not None:
        full_BLD, key_BL, wanted_BW = _present(full_BLD, key_BL, wanted_BW)
    full_BLD, keys = with_cls(full_BLD, cls_B1D, key_BL)
    if wanted_BW is None:
        output_BLD: Tensor = parts.decoder(full_BLD, keys)[:, 1:]
        return output_BLD
    wanted_BWD: Tensor = parts.decoder.some(full_BLD, wanted_BW + 1, keys)  # CLS is the first
    return wanted_BWD


def _present(full_BLD: Tensor, key_BL: Tensor, wanted_BW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Leaves out tokens that no window of a batch has, as those of other atlases; nothing attends to them."""
    present_L = key_BL.any(dim=0)
    if bool(present_L.all()):
        return full_BLD, key_BL, wanted_BW
    place_L = (present_L.cumsum(0) - 1).clamp(min=0)  # padding may point anywhere
    return full_BLD[:, present_L], key_BL[:, present_L], place_L[wanted_BW]


def cross(parts: Parts, encoding: Encoding, wanted_BW: Tensor | None) -> Tensor:
    """Decodes by attention from wanted tokens to the visible ones and CLS; see `joint`.

    A wanted token knows its place alone, a visible one its place and what the encoder made of it.
    """
    position_LD = parts.decoder_position().flatten(0, 1)
    visible_BVD = parts.decoder_projection(encoding.tokens_BVD) + position_LD[encoding.index_BV]
    visible_BVD = visible_BVD.where(encoding.valid_BV[:, :, None], 0)
    cls_B1D = parts.decoder_projection(encoding.cls_BD)[:, None]
    memory_BMD, keys = with_cls(visible_BVD, cls_B1D, encoding.valid_BV)
    places_BWD = position_LD.expand(len(memory_BMD), -1, -1) if wanted_BW is None else position_LD[wanted_BW]
    asked_BWD: Tensor = parts.decoder((places_BWD + parts.mask_token_D).to(memory_BMD.dtype), keys, memory_BMD)
    return asked_BWD
