"""What the training recordings of a model look like, kept in its description.

Shapes: P parcels, F frames of a recording.
"""

from typing import Any

import numpy as np

from brainlm_lightning.checkpoint.description import Description
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.likeness import Reference

REFERENCE = "reference"  # entry of a description
MOST_RECORDINGS = 100  # enough for the range of their numbers


def training_reference(data: CohortDataModule) -> dict[str, Any]:
    """The numbers of the training recordings, evenly spaced ones where there are many, as plain values.

    Args:
        data: after its setup.
    """
    rows = data.train_rows
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_RECORDINGS)).round().astype(int))]
    return Reference.of(data.scaled_recordings(rows), data.stores[0].tr_s, data.window_frames).to_json()


def reference_of(about: Description) -> Reference | None:
    """The reference in a description; None in those of imported models, and of versions that kept none."""
    if REFERENCE not in about:
        return None
    return Reference.from_json(about[REFERENCE], about["tr_s"], about["window_frames"])
