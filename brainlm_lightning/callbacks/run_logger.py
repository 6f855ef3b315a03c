"""What a run shows in TensorBoard: few curves in groups, one chart for what belongs together, results as text.

Curves have the names of `metrics.json`, but for those that TensorBoard would show before the losses. Numbers of a test
are no curves: they stand as tables under Text. See docs/tensorboard.md.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard.summary import hparams

from brainlm_lightning.run_folder import next_version_folder, remove_if_empty

LEARNING_RATE = re.compile(r"lr-\w+(?:/(?:pg)?(\w+))?")
# Charts of several curves, under Custom scalars: group -> title -> curves.
LAYOUT = {
    "learning": {
        "loss": ["Multiline", ["train/loss", "val/loss"]],
        "R²": ["Multiline", ["train/r2", "val/r2"]],
    },
    "optimiser": {
        "gradient norm": ["Multiline", ["train/gradient_norm"]],
        "learning rate": ["Multiline", ["train/learning_rate.*"]],
    },
    "work": {
        "windows per second": ["Multiline", ["work/windows_per_second"]],
        "share of time waiting for data": ["Multiline", ["work/data_wait_share"]],
    },
}
COMPARED = ("val/r2", "val/loss")  # metrics beside the settings, in the table of runs


def tag(name: str) -> str | None:
    """The name of a metric's curve; None where it has none.

    TensorBoard sorts groups by name: `train` comes first, then `val`, then `work`.
    """
    if name == "epoch" or name.startswith("test/"):
        return None
    if found := LEARNING_RATE.fullmatch(name):
        return "train/learning_rate" + (f"_group{found[1]}" if found[1] else "")
    return name.replace("speed/", "work/", 1) if name.startswith("speed/") else name


class RunLogger(TensorBoardLogger):
    """A TensorBoard logger that removes its folder if the run fails before anything was written to it.

    Lightning asks loggers for their folder, and opens them, before it sets up data and model.
    """

    @property
    def version(self) -> str:
        """``version_<k>``. The folder is created on first access, so that two runs never share one.

        Only the first rank creates it; Lightning broadcasts paths built from it to the other ranks.
        """
        if self._version is None:
            is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
            self._version = next_version_folder(self.root_dir).name if is_first else "version_of_the_first_rank"
        return str(self._version)

    @property
    def experiment(self) -> Any:
        """TensorBoard's writer; its file is opened when the first value is written."""
        return _LazyWriter(self) if self._experiment is None else super().experiment

    def open(self) -> Any:
        """Opens the event file and returns the writer."""
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes the metrics that have a curve."""
        curves = {of: value for name, value in metrics.items() if (of := tag(name)) is not None}
        if curves:
            super().log_metrics(curves, step)

    @rank_zero_only
    def log_layout(self) -> None:
        """Writes which curves share a chart."""
        self.experiment.add_custom_scalars(LAYOUT)

    @rank_zero_only
    def log_settings(self, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Writes a line of the table of runs: settings, and the metrics that are curves already.

        Args:
            settings: name -> a plain value.
            metrics: of the run.
        """
        shown = {name: metrics[name] for name in COMPARED if name in metrics}
        self.log_hyperparams(dict(settings))
        if shown:  # Lightning's own way writes each of these a second time, as a chart of one point
            for summary in hparams(dict(settings), shown):  # type: ignore[no-untyped-call]
                self.experiment._get_file_writer().add_summary(summary)

    def save(self) -> None:
        """Flushes what was written."""
        if self._experiment is not None:
            super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Closes the writer; removes the folder of a run that failed before writing a file."""
        super().finalize(status)
        if status != "success":
            remove_if_empty(Path(self.log_dir), Path(self.save_dir))


class _LazyWriter:
    """The writer of a logger that has written nothing yet: opens the event file when it is used."""

    def __init__(self, logger: RunLogger) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger.open(), name)
