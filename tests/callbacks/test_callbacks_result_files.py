"""Figures come after the numbers: a run that fails while it draws keeps its results."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from brainlm_lightning.callbacks.result_files import ResultFiles
from brainlm_lightning.report import files
from brainlm_lightning.report.page import Page, ReportFile


class Numbers(pl.Callback):
    """Stands for the callback that writes the results; Lightning calls it after ResultFiles."""

    def __init__(self, path):
        self.path = path

    def on_test_end(self, trainer, pl_module):
        self.path.write_text("{}")


class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.results, self.arrays = {"test/abide/naps/mae/kappa": 0.5}, {"kappa": np.zeros(3)}

    def test_step(self, batch, batch_idx):
        return None

    validation_step = test_step


class NapPage(Page):
    """Two figures, of which the first fails; notes what it was given, and whether the numbers were on disk."""

    def __init__(self, path):
        self.path, self.seen = path, []

    def tables(self, metrics):
        return []

    def files(self, metrics, arrays):
        self.seen.append((dict(metrics), list(arrays), self.path.exists()))
        yield ReportFile("broken", lambda: 1 / 0)
        yield ReportFile("whole", Figure)


@pytest.fixture
def page(monkeypatch, tmp_path):
    page = NapPage(tmp_path / "metrics.json")
    monkeypatch.setattr(files, "found_pages", lambda: [page])
    return page


def run(path, verb, *callbacks):
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "barebones": False, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "enable_checkpointing": False, "default_root_dir": path}
    trainer = pl.Trainer(callbacks=[ResultFiles(), *callbacks], **settings)
    getattr(trainer, verb)(Task(), torch.utils.data.DataLoader([torch.zeros(1)]), verbose=False)
    return trainer


@pytest.mark.filterwarnings("ignore:The 'test_dataloader' does not have many workers")
def test_figures_are_drawn_after_the_numbers_are_written_and_one_that_fails_ends_no_run(page, tmp_path, caplog):
    trainer = run(tmp_path, "test", Numbers(page.path))
    assert trainer.state.finished
    assert page.seen == [({"test/abide/naps/mae/kappa": 0.5}, ["kappa"], True)]
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["whole.png"]
    assert "the file 'broken' failed and is left out of the report: ZeroDivisionError" in caplog.text


@pytest.mark.filterwarnings("ignore:The 'val_dataloader' does not have many workers")
def test_nothing_is_drawn_where_nothing_was_tested(page, tmp_path):
    run(tmp_path, "validate")
    assert page.seen == []
