"""Projects real CC400 series to the 424 parcels of A424: the paper's shape, though no native extraction.

    BRAINLM_REAL_DATA=… python -m benchmarks.abide_a424 OUTPUT --every 6

writes OUTPUT/timeseries.npz, recordings.tsv and parcels.tsv, which `data_manifests/abide_a424.yaml` prepares. A parcel
of A424 is the mean of the CC400 parcels that it overlaps, weighted by shares of voxels
(`atlases/cc400_to_a424_weights.csv`); one of them overlaps none and stays 0. A parcel of which a recording lacks a part
(constant in CC400) is set to 0, too.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd

NUM_PARCELS, NUM_SOURCES = 424, 392


def weights(table: pd.DataFrame) -> np.ndarray:
    """Weights of the parcels of CC400 in those of A424, (424, 392)."""
    found = np.zeros((NUM_PARCELS, NUM_SOURCES), np.float32)
    found[table["a424_index"] - 1, table["cc400_column"]] = table["weight"]
    return found


def projected(series: np.ndarray, weights_qp: np.ndarray) -> np.ndarray:
    """Series of CC400, (frames, 392), as series of A424, (frames, 424)."""
    series = series.astype(np.float32)
    dead = series.std(axis=0) == 0
    whole = weights_qp @ dead.astype(np.float32) == 0
    return np.where(whole, series @ weights_qp.T, 0).astype(np.float32)


def main() -> None:
    """Writes the projected recordings, their tables and the parcels to the folder that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--every", type=int, default=1, help="takes every so many-th recording (default: all)")
    args = parser.parse_args()
    data = Path(os.environ["BRAINLM_REAL_DATA"])
    weights_qp = weights(pd.read_csv(data / "atlases" / "cc400_to_a424_weights.csv"))
    recordings = pd.read_csv(data / "abide_cc400" / "recordings.tsv", sep="\t").iloc[:: args.every]
    args.output.mkdir(parents=True)
    with np.load(data / "abide_cc400" / "timeseries.npz") as archive:
        series = {name: projected(archive[name], weights_qp) for name in recordings["recording"]}
    np.savez(args.output / "timeseries.npz", **series)
    recordings.to_csv(args.output / "recordings.tsv", sep="\t", index=False)
    parcels = pd.read_csv(data / "atlases" / "A424_parcels.tsv", sep="\t")
    parcels.to_csv(args.output / "parcels.tsv", sep="\t", index=False)


if __name__ == "__main__":
    main()
