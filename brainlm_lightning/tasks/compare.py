"""The best there can be, where a cohort was simulated and its truth lies in its store."""

import numpy as np

from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.simulation.optimum import Optimum
from brainlm_lightning.simulation.state_space import load_truth


def known_optimum(datamodule: CohortDataModule, rows: np.ndarray) -> Optimum | None:
    """The Kalman smoother of recordings of one cohort, which knows their scaling, too; None where no truth is known.

    Args:
        datamodule: after its setup.
        rows: of its table of recordings.
    """
    table, dataset = datamodule.recordings.table.iloc[rows], datamodule.dataset
    assert dataset is not None
    if not len(table):
        return None
    store = datamodule.stores[table["store"].iloc[0]]
    if not (store.folder / "truth.npz").is_file():
        return None
    stored_centre_RP, scale_RP = dataset.scaling(rows)
    mean_RP = np.stack([store.mean(row) for row in table["row"]])
    names = list(table["recording_id"])
    truth = load_truth(store.folder / "truth.npz")
    return Optimum(
        {name: truth[name] for name in names},
        dict(zip(names, stored_centre_RP + mean_RP, strict=True)),
        dict(zip(names, np.where(dataset.observed(rows), scale_RP, np.nan), strict=True)),
    )
