"""The tensors of the published 111M and 650M checkpoints, and their places in `model.published.vitmae.VitMAE`."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from brainlm_lightning.checkpoint.published.models import published_depths
from brainlm_lightning.checkpoint.published.shapes import Shapes, check_config, linear, norm, width_of
from brainlm_lightning.model.published.image import CHANNELS
from brainlm_lightning.model.published.vitmae import NORM_EPSILON, VitMAEConfig

UNUSED: tuple[str, ...] = ()
WINDOW_FRAMES = 200
NUM_PARCELS = 424
HEADS = {768: 12, 1280: 16}  # of the encoder, by its width: ViT base and huge
DECODER_HEADS = 16
PROJECTION = "vit.embeddings.patch_embeddings.projection"
POSITIONS = "vit.embeddings.position_embeddings"
REQUIRED: dict[str, Any] = {  # of a config.json
    "model_type": "vit_mae",
    "hidden_act": "gelu",
    "layer_norm_eps": NORM_EPSILON,
    "num_channels": CHANNELS,
    "decoder_num_attention_heads": DECODER_HEADS,
}


def config_of(weights: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> VitMAEConfig:
    """The sizes of a published checkpoint, from its tensors; its depths from its config.json, where there is one.

    Raises:
        ValueError: the tensors are not those of such a model, or config.json has another meaning.
    """
    check_config(config, REQUIRED, source)
    embed_dim = width_of(weights, f"{PROJECTION}.weight", 0, source)
    depths: tuple[Any, Any] = config.get("num_hidden_layers"), config.get("decoder_num_hidden_layers")
    depth, decoder_depth = depths if None not in depths else published_depths("vitmae", embed_dim, source)
    heads = config.get("num_attention_heads") or HEADS.get(embed_dim)
    if heads is None:
        raise ValueError(f"{source}: the number of heads of a vitmae {embed_dim} wide is unknown; add its config.json")
    patch = width_of(weights, f"{PROJECTION}.weight", 2, source)
    across = math.isqrt(width_of(weights, POSITIONS, 1, source) - 1)
    hidden = width_of(weights, "vit.encoder.layer.0.intermediate.dense.weight", 0, source)
    return VitMAEConfig(
        image_side=across * patch,
        image_patch=patch,
        embed_dim=embed_dim,
        depth=int(depth),
        num_heads=int(heads),
        mlp_ratio=hidden / embed_dim,
        decoder_embed_dim=width_of(weights, "decoder.decoder_embed.weight", 0, source),
        decoder_depth=int(decoder_depth),
        decoder_num_heads=DECODER_HEADS,
    )


def expected_shapes(config: VitMAEConfig) -> Shapes:
    """Every tensor of a published checkpoint of these sizes."""
    width, decoder_width, patch = config.embed_dim, config.decoder_embed_dim, config.image_patch
    tokens = 1 + (config.image_side // patch) ** 2
    shapes: Shapes = {
        "vit.embeddings.cls_token": (1, 1, width),
        POSITIONS: (1, tokens, width),
        f"{PROJECTION}.weight": (width, CHANNELS, patch, patch),
        f"{PROJECTION}.bias": (width,),
        **norm("vit.layernorm", width),
        "decoder.mask_token": (1, 1, decoder_width),
        "decoder.decoder_pos_embed": (1, tokens, decoder_width),
        **linear("decoder.decoder_embed", width, decoder_width),
        **norm("decoder.decoder_norm", decoder_width),
        **linear("decoder.decoder_pred", decoder_width, CHANNELS * patch**2),
    }
    for _, theirs, in_decoder in _blocks(config):
        shapes |= _block_shapes(theirs, decoder_width if in_decoder else width, config.mlp_ratio)
    return shapes


def translate(weights: Mapping[str, Tensor], config: VitMAEConfig, xyz_mm: Tensor) -> dict[str, Tensor]:
    """Our state dict from the published one, whose names and shapes have been checked.

    Args:
        weights: published name -> tensor.
        config: sizes.
        xyz_mm: not used: coordinates enter through the order of the rows alone.
    """
    ours = {name: weights[theirs].float() for name, theirs in _renamed(config)}
    ours["patch_projection.weight"] = weights[f"{PROJECTION}.weight"].float().flatten(1)
    ours["cls_D"] = weights["vit.embeddings.cls_token"].float().flatten()
    ours["mask_token_D"] = weights["decoder.mask_token"].float().flatten()
    ours["position_LD"] = weights[POSITIONS].float()[0]
    ours["decoder_position_LD"] = weights["decoder.decoder_pos_embed"].float()[0]
    for block, theirs, _ in _blocks(config):
        for kind in ("weight", "bias"):
            parts = [weights[f"{theirs}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            ours[f"{block}.attention.qkv.{kind}"] = torch.cat(parts).float()
    return ours


def _blocks(config: VitMAEConfig) -> Iterator[tuple[str, str, bool]]:
    """Our name and the published name of every block, and whether it is one of the decoder."""
    for number in range(config.depth):
        yield f"encoder.blocks.{number}", f"vit.encoder.layer.{number}", False
    for number in range(config.decoder_depth):
        yield f"decoder.blocks.{number}", f"decoder.decoder_layers.{number}", True


def _block_shapes(name: str, width: int, mlp_ratio: float) -> Shapes:
    hidden = round(width * mlp_ratio)
    shapes: Shapes = {}
    for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
        shapes |= linear(f"{name}.attention.{part}", width, width)
    shapes |= linear(f"{name}.intermediate.dense", width, hidden) | linear(f"{name}.output.dense", hidden, width)
    return shapes | norm(f"{name}.layernorm_before", width) | norm(f"{name}.layernorm_after", width)


def _renamed(config: VitMAEConfig) -> Iterator[tuple[str, str]]:
    """Our name and the published name of tensors that are the same in both."""
    yield "patch_projection.bias", f"{PROJECTION}.bias"
    layers = {
        "encoder.norm": "vit.layernorm",
        "decoder_projection": "decoder.decoder_embed",
        "decoder.norm": "decoder.decoder_norm",
        "head": "decoder.decoder_pred",
    }
    for block, theirs, _ in _blocks(config):
        layers |= {
            f"{block}.norm_1": f"{theirs}.layernorm_before",
            f"{block}.attention.output": f"{theirs}.attention.output.dense",
            f"{block}.norm_2": f"{theirs}.layernorm_after",
            f"{block}.mlp_input": f"{theirs}.intermediate.dense",
            f"{block}.mlp_output": f"{theirs}.output.dense",
        }
    for ours, published in layers.items():
        yield f"{ours}.weight", f"{published}.weight"
        yield f"{ours}.bias", f"{published}.bias"
