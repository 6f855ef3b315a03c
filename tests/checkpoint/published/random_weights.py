"""Random tensors of the published names and shapes, and an atlas of 424 parcels to import them with."""

import json

import numpy as np
import pandas as pd
import torch
from reference_brainlm import ReferenceBrainLM
from safetensors.torch import save_file

from brainlm_lightning.data.atlas import Atlas

SIZES = {
    "checkpoint-1400": {"width": 256, "heads": 4, "intermediate": 1024},
    "old_13M": {"width": 512, "heads": 4, "intermediate": 1024},
}


def atlas_of(parcels=424, seed=0):
    xyz_mm = np.random.default_rng(seed).uniform(-70, 70, (parcels, 3)).round(1)
    table = pd.DataFrame({"index": range(1, parcels + 1), "label": [f"parcel {n}" for n in range(parcels)]})
    table[["x_mm", "y_mm", "z_mm"]] = xyz_mm
    return Atlas("A424", table.assign(network="none"))


def reference_of(name, seed=0, **sizes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ReferenceBrainLM(**{**SIZES[name], **sizes}).eval()


def published_folder(folder, weights, config=None, binary=False):
    """Writes a state dict as it is published."""
    folder.mkdir(parents=True)
    if binary:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder
