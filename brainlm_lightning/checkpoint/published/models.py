"""The four published checkpoints, and how the family of a set of tensors is recognised."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Family = Literal["brainlm", "vitmae"]


@dataclass(frozen=True)
class PublishedModel:
    """A published checkpoint.

    Attributes:
        family: `brainlm` (a token is 20 frames of a parcel) or `vitmae` (the recording as an image).
        embed_dim: width of the encoder, by which a checkpoint without a config.json is recognised.
        depth: encoder blocks.
        decoder_depth: decoder blocks.
        num_tensors: in its file.
    """

    family: Family
    embed_dim: int
    depth: int
    decoder_depth: int
    num_tensors: int


PUBLISHED = {
    "checkpoint-1400": PublishedModel("brainlm", 256, 4, 2, 124),
    "old_13M": PublishedModel("brainlm", 512, 4, 2, 124),
    "vitmae_111M": PublishedModel("vitmae", 768, 12, 8, 334),
    "vitmae_650M": PublishedModel("vitmae", 1280, 32, 8, 654),
}
SIGN_OF: dict[Family, str] = {
    "brainlm": "vit.embeddings.signal_embedding_projection.weight",
    "vitmae": "vit.embeddings.patch_embeddings.projection.weight",
}
FINE_TUNED = "mlp_pred_head."  # of the published fine-tuned models


def family_of(names: Collection[str], source: str) -> Family:
    """Returns the family that tensors belong to.

    Raises:
        ValueError: they are those of neither, or of a fine-tuned model.
    """
    if any(name.startswith(FINE_TUNED) for name in names):
        raise ValueError(
            f"{source} is a fine-tuned model: it has a prediction head ({FINE_TUNED}*) and no decoder; expected a "
            f"pretrained one: {', '.join(PUBLISHED)}"
        )
    found: list[Family] = [family for family, sign in SIGN_OF.items() if sign in names]
    if len(found) != 1:
        raise ValueError(
            f"{source} holds no published BrainLM: got {len(names)} tensors, first {sorted(names)[:3]}; expected one "
            f"with {' or '.join(repr(sign) for sign in SIGN_OF.values())}"
        )
    return found[0]


def check_named(name: str, family: Family, embed_dim: int, source: str) -> None:
    """Checks that a folder named after a published model holds that model.

    Raises:
        ValueError: it holds another one.
    """
    expected = PUBLISHED.get(name)
    if expected and (expected.family, expected.embed_dim) != (family, embed_dim):
        raise ValueError(
            f"{source}: {name} is of the family {expected.family!r} and {expected.embed_dim} wide, the file holds a "
            f"{family!r} of width {embed_dim}; take the file of the right subfolder"
        )


def published_depths(family: Family, embed_dim: int, source: str) -> tuple[int, int]:
    """Encoder and decoder blocks of the published model of a width, for files without a config.json.

    Raises:
        ValueError: no published model has this width.
    """
    for model in PUBLISHED.values():
        if (model.family, model.embed_dim) == (family, embed_dim):
            return model.depth, model.decoder_depth
    raise ValueError(
        f"{source}: no published {family} model is {embed_dim} wide, so its depth is unknown; put its config.json "
        "beside the weights"
    )
