"""The tensors of the published 5M and 13M checkpoints, and their places in `model.published.brainlm.BrainLM`."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from brainlm_lightning.checkpoint.published.models import published_depths
from brainlm_lightning.checkpoint.published.shapes import Shapes, check_config, linear, norm, width_of
from brainlm_lightning.model.published.brainlm import NORM_EPSILON, BrainLMConfig

POSITIONS = 5000  # rows of the published table of sines; a window uses one for each of its patches
DECODER_PRED = 768  # outputs of a layer that the published decoder inherits and never uses
UNUSED = ("decoder.decoder_pred.weight", "decoder.decoder_pred.bias")
WINDOW_FRAMES = 200
NUM_PARCELS = 424
MM_OF_DM = 100  # the published projection takes millimetres, ours takes decimetres
REQUIRED: dict[str, Any] = {  # of a config.json
    "model_type": "brainlm_mae",
    "hidden_act": "gelu",
    "layer_norm_eps": NORM_EPSILON,
    "use_tanh_decoder": False,
    "num_landmarks": 64,
    "segment_means_seq_len": 64,
    "inv_coeff_init_option": False,
    "num_brain_voxels": NUM_PARCELS,
    "num_timepoints_per_voxel": WINDOW_FRAMES,
}
SIGNAL = "vit.embeddings.signal_embedding_projection"


def config_of(weights: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> BrainLMConfig:
    """The sizes of a published checkpoint, from its tensors; its depths from its config.json, where there is one.

    Raises:
        ValueError: the tensors are not those of such a model, or config.json has another meaning.
    """
    check_config(config, REQUIRED, source)
    first, decoder = "vit.encoder.layer.0", "decoder.decoder_layers.0"
    embed_dim = width_of(weights, f"{SIGNAL}.weight", 0, source)
    depths: tuple[Any, Any] = config.get("num_hidden_layers"), config.get("decoder_num_hidden_layers")
    depth, decoder_depth = depths if None not in depths else published_depths("brainlm", embed_dim, source)
    return BrainLMConfig(
        patch_frames=width_of(weights, f"{SIGNAL}.weight", 1, source),
        embed_dim=embed_dim,
        depth=int(depth),
        num_heads=width_of(weights, f"{first}.attention.self.conv.weight", 0, source),
        decoder_embed_dim=width_of(weights, "decoder.decoder_embed.weight", 0, source),
        decoder_depth=int(decoder_depth),
        decoder_num_heads=width_of(weights, f"{decoder}.attention.self.conv.weight", 0, source),
        mlp_ratio=width_of(weights, f"{first}.intermediate.dense.weight", 0, source) / embed_dim,
        conv_width=width_of(weights, f"{first}.attention.self.conv.weight", 2, source),
    )


def expected_shapes(config: BrainLMConfig) -> Shapes:
    """Every tensor of a published checkpoint of these sizes."""
    width, decoder_width = config.embed_dim, config.decoder_embed_dim
    shapes: Shapes = {
        "vit.embeddings.cls_token": (1, 1, width),
        **linear(SIGNAL, config.patch_frames, width),
        **linear("vit.embeddings.xyz_embedding_projection", 3, width),
        "vit.embeddings.pos_embedding.pe": (POSITIONS, width),
        **norm("vit.layernorm", width),
        "decoder.mask_token": (1, 1, decoder_width),
        **linear("decoder.decoder_embed", width, decoder_width),
        **norm("decoder.decoder_norm", decoder_width),
        **linear("decoder.decoder_pred", decoder_width, DECODER_PRED),
        **linear("decoder.decoder_xyz_projection", 3, decoder_width),
        "decoder.pos_embedding.pe": (POSITIONS, decoder_width),
        **linear("decoder.decoder_pred1", decoder_width, decoder_width // 2),
        **linear("decoder.decoder_pred2", decoder_width // 2, config.patch_frames),
    }
    for _, theirs, in_decoder in _blocks(config):
        size = (decoder_width, config.decoder_num_heads) if in_decoder else (width, config.num_heads)
        shapes |= _block_shapes(theirs, *size, config)
    return shapes


def translate(weights: Mapping[str, Tensor], config: BrainLMConfig, xyz_mm: Tensor) -> dict[str, Tensor]:
    """Our state dict from the published one, whose names and shapes have been checked.

    Args:
        weights: published name -> tensor.
        config: sizes.
        xyz_mm: centroids of the parcels, (P, 3), for the buffers of the positions.
    """
    renamed = dict(_renamed(config))
    ours = {name: weights[theirs].float() for name, theirs in renamed.items()}
    ours["cls_D"] = weights["vit.embeddings.cls_token"].float().flatten()
    ours["mask_token_D"] = weights["decoder.mask_token"].float().flatten()
    num_patches = WINDOW_FRAMES // config.patch_frames
    for name, part in (("position", "vit.embeddings"), ("decoder_position", "decoder")):
        ours[f"{name}.xyz_projection.weight"] = ours[f"{name}.xyz_projection.weight"] * MM_OF_DM
        ours[f"{name}.xyz_dm"] = xyz_mm.float() / MM_OF_DM
        ours[f"{name}.temporal_ND"] = weights[f"{part}.pos_embedding.pe"][:num_patches].float()
    for block, theirs, _ in _blocks(config):
        for kind in ("weight", "bias"):
            parts = [weights[f"{theirs}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            ours[f"{block}.attention.qkv.{kind}"] = torch.cat(parts).float()
        ours[f"{block}.attention.conv.weight"] = weights[f"{theirs}.attention.self.conv.weight"].float()
    return ours


def _blocks(config: BrainLMConfig) -> Iterator[tuple[str, str, bool]]:
    """Our name and the published name of every block, and whether it is one of the decoder."""
    for number in range(config.depth):
        yield f"encoder.blocks.{number}", f"vit.encoder.layer.{number}", False
    for number in range(config.decoder_depth):
        yield f"decoder.blocks.{number}", f"decoder.decoder_layers.{number}", True


def _block_shapes(name: str, width: int, num_heads: int, config: BrainLMConfig) -> Shapes:
    hidden = round(width * config.mlp_ratio)
    shapes: Shapes = {f"{name}.attention.self.conv.weight": (num_heads, 1, config.conv_width, 1)}
    for part in ("self.query", "self.key", "self.value", "output.dense"):
        shapes |= linear(f"{name}.attention.{part}", width, width)
    return {
        **shapes,
        **norm(f"{name}.attention.output.LayerNorm", width),
        **linear(f"{name}.intermediate.dense", width, hidden),
        **linear(f"{name}.output.dense", hidden, width),
        **norm(f"{name}.output.LayerNorm", width),
    }


def _renamed(config: BrainLMConfig) -> Iterator[tuple[str, str]]:
    """Our name and the published name of tensors that are the same in both."""
    layers = {
        "patch_projection": SIGNAL,
        "position.xyz_projection": "vit.embeddings.xyz_embedding_projection",
        "encoder.norm": "vit.layernorm",
        "decoder_projection": "decoder.decoder_embed",
        "decoder_position.xyz_projection": "decoder.decoder_xyz_projection",
        "decoder.norm": "decoder.decoder_norm",
        "head.hidden": "decoder.decoder_pred1",
        "head": "decoder.decoder_pred2",
    }
    for block, theirs, _ in _blocks(config):
        layers |= {
            f"{block}.attention.output": f"{theirs}.attention.output.dense",
            f"{block}.norm_1": f"{theirs}.attention.output.LayerNorm",
            f"{block}.mlp_input": f"{theirs}.intermediate.dense",
            f"{block}.mlp_output": f"{theirs}.output.dense",
            f"{block}.norm_2": f"{theirs}.output.LayerNorm",
        }
    for ours, published in layers.items():
        yield f"{ours}.weight", f"{published}.weight"
        yield f"{ours}.bias", f"{published}.bias"
