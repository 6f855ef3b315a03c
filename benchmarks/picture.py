"""The picture of the README: one window, what the model was shown of it, and what it filled in.

    python -m benchmarks.picture runs/demo/version_1

Needs a test run of `make demo`; writes docs/reconstruction_example.png.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from brainlm_lightning.run_folder import read_arrays

PICTURE = Path(__file__).parents[1] / "docs" / "reconstruction_example.png"
CONDITION = "test/simulated/hidden0.75/mae"
LIMIT = 2.5  # of the scaled signal, at the ends of the colour scale
HIDDEN_COLOUR = "0.82"


def draw(truth_PT: np.ndarray, prediction_PT: np.ndarray, hidden_PT: np.ndarray, path: Path) -> None:
    """Draws measured, shown and filled-in values as three maps of parcels by frames, and one parcel's course."""
    shown_PT = np.where(hidden_PT, np.nan, truth_PT)
    filled_PT = np.where(hidden_PT, prediction_PT, truth_PT)
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad=HIDDEN_COLOUR)
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplot_mosaic("ABC;DDD", height_ratios=(2, 1))
    titles = ("measured", "shown to the model (grey: hidden)", "filled in by the model")
    for name, title, map_PT in zip("ABC", titles, (truth_PT, shown_PT, filled_PT), strict=True):
        image = axes[name].imshow(map_PT, cmap=colours, vmin=-LIMIT, vmax=LIMIT, aspect="auto", interpolation="nearest")
        axes[name].set(title=title, xlabel="seconds", ylabel="parcel" if name == "A" else None)
    figure.colorbar(image, ax=[axes[name] for name in "ABC"], label="scaled signal", shrink=0.9)
    parcel = typical_parcel(truth_PT, prediction_PT, hidden_PT)
    prediction_T = np.where(hidden_PT[parcel], prediction_PT[parcel], np.nan)
    course = axes["D"]
    course.plot(truth_PT[parcel], color="0.65", linewidth=1, label="measured")
    course.plot(prediction_T, color="#d55e00", label="filled in")
    course.plot(shown_PT[parcel], color="#0072b2", label="shown")
    course.set(xlabel="seconds", ylabel=f"parcel {parcel}", xlim=(0, truth_PT.shape[1] - 1))
    course.margins(y=0.3)
    course.legend(frameon=False, ncols=3, loc="upper right", fontsize="small")
    figure.savefig(path, dpi=110)


def typical_parcel(truth_PT: np.ndarray, prediction_PT: np.ndarray, hidden_PT: np.ndarray) -> int:
    """The parcel with the median squared error over its hidden values: a typical one, not a chosen one."""
    error_P = np.nanmean(np.where(hidden_PT, (truth_PT - prediction_PT) ** 2, np.nan), axis=1)
    return int(np.argsort(error_P)[len(error_P) // 2])


def main() -> None:
    """Draws the first window of the run that is named on the command line."""
    arrays = read_arrays(Path(sys.argv[1]))
    draw(*(arrays[f"{CONDITION}/{name}_BPT"][0] for name in ("truth", "prediction", "hidden")), PICTURE)


if __name__ == "__main__":
    main()
