"""A folder to share a model: its weights with their description, a configuration, and a model card."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brainlm_lightning.checkpoint.description import Description
from brainlm_lightning.checkpoint.files import read_checkpoint
from brainlm_lightning.checkpoint.pretrained import export
from brainlm_lightning.run_folder import EXPORTED, find_checkpoint, read_json, run_of

CONFIG, CARD = "config.json", "README.md"
# In the weights' header, and long:
LARGE = ("statistics", "index", "label", "xyz_mm", "directions", "train", "val", "pretraining")
UNCERTAIN = "_low"  # ending of the name of a lower bound


def export_folder(source: Path, output: Path) -> Path:
    """Writes a model to a folder that needs nothing else: `model.safetensors`, `config.json` and a model card.

    Args:
        source: run folder, `runs/<experiment>`, or checkpoint.
        output: the folder, which must not exist.

    Raises:
        FileExistsError: the output exists.
        FileNotFoundError: there is no checkpoint.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists; exports are never overwritten, name another folder")
    checkpoint = find_checkpoint(source)
    part = output.with_name(output.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    export(checkpoint, part / EXPORTED)
    about, weights = read_checkpoint(part / EXPORTED)
    count = sum(value.numel() for value in weights.values())
    (part / CONFIG).write_text(json.dumps(short(about), indent=2) + "\n", encoding="utf-8")
    (part / CARD).write_text(model_card(about, count, _metrics_of(checkpoint)), encoding="utf-8")
    part.replace(output)
    return output


def short(about: Mapping[str, Any]) -> dict[str, Any]:
    """The description without its long tables, which the header of the weights has: what config.json holds."""
    return {
        key: short(value) if isinstance(value, Mapping) else value for key, value in about.items() if key not in LARGE
    }


def _metrics_of(checkpoint: Path) -> dict[str, float]:
    """What the run of a checkpoint measured; nothing where it is in no run folder."""
    run = run_of(checkpoint)
    return read_json(run, "metrics.json") if run is not None and (run / "metrics.json").is_file() else {}


def model_card(about: Description, count: int, metrics: Mapping[str, float]) -> str:
    """The text of a model card.

    Args:
        about: description of the model.
        count: values in its tensors.
        metrics: flat name -> number; names ending in ``_low`` and ``_high`` are the ends of intervals.
    """
    parcels, scaling, subjects = about["parcels"], about["scaling"], about["subjects"]
    origin = "imported from published weights" if "imported" in about else "trained with BrainLM-Lightning"
    return f"""---
library_name: brainlm-lightning
tags: [fmri, masked-autoencoder]
license: other
---

# {about["model"]["class_path"].rpartition(".")[2]}, {count:,} values, {origin}

```python
import brainlm_lightning

model = brainlm_lightning.load("this folder")  # takes recordings
embedding = model.embed("sub-01_bold.ptseries.nii", tr_s=0.8)

network = brainlm_lightning.from_pretrained("this folder")  # the same as a torch module
```

## Data

- Parcels: {parcels["atlas"]}, {len(parcels["index"])} of them, sha256 `{parcels["sha256"]}` (indices, labels, centroids
  and their order).
- {about["tr_s"]} s between frames; windows of {about["window_frames"]} frames.
- Scaling: `{scaling["recipe"]}`, with statistics of {scaling["statistics"]["num_subjects"]} training subjects.
{_origin(about)}- Subjects of pretraining: {len(subjects["train"])} training, {len(subjects["val"])} validation.
  The header of the weights has a digest of each, so that nobody is tested whom the model has seen.

## Measured

{_table(metrics)}

## Known limits

- Only recordings in the same parcels, in the same order, resampled to the same time between frames. In another atlas,
  `model.on(atlas)` maps what the model knows of parcels by position: measure what is left.
- Embeddings depend on preprocessing (filters, regressors); compare with connectivity of the same frames.
- No use for the diagnosis of a person has been validated.

## Licence

The exporter states it here: FILL IN. Weights may be bound by the terms of the data that they were trained on.
"""


def _origin(about: Description) -> str:
    """A line on the model that this one started from; none where there is none."""
    if "started_from" not in about:
        return ""
    origin = about["started_from"]
    return f"- Started from a model in {origin['atlas']}, mapping of parcels: {origin['mapping']}.\n"


def _table(metrics: Mapping[str, float]) -> str:
    """Metrics that have an interval, as a Markdown table."""
    means = [name.removesuffix(UNCERTAIN) for name in metrics if name.endswith(UNCERTAIN)]
    rows = [
        f"| {name} | {metrics[name]:.4g} | {metrics[name + UNCERTAIN]:.4g} to {metrics[name + '_high']:.4g} |"
        for name in means
        if name in metrics and f"{name}_high" in metrics
    ]
    if not rows:
        return "Nothing is recorded beside the checkpoint; test it, and write down what it reached."
    return "\n".join(["| metric | value | 95 % interval over subjects |", "|---|---|---|", *rows])
