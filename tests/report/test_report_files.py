"""Files of a run: written under any name, and one that fails loses none of the others."""

import logging

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.report import files
from brainlm_lightning.report.files import write_files, write_files_of_run
from brainlm_lightning.report.page import Page, ReportFile
from brainlm_lightning.run_folder import file_name, write_arrays, write_json


def page_of(*given):
    class Given(Page):
        def tables(self, metrics):
            return []

        def files(self, metrics, arrays):
            for item in given:
                if isinstance(item, Exception):
                    raise item
                yield item

    return Given()


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Writes the files of pages; returns the names of the figures, and every path in the folder."""

    def write(*pages):
        monkeypatch.setattr(files, "found_pages", lambda: pages)
        figures = [name for name, _ in write_files(tmp_path, {}, {})]
        return figures, sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())

    return write


def failing():
    raise ValueError("nothing to draw")


def test_figures_pages_and_tables_have_a_folder_each(write, tmp_path):
    table = pd.DataFrame({"label": ["a"], "z": [1.5]})
    made = {"figure": Figure, "page": lambda: "<html>ü", "table": lambda: table}
    figures, paths = write(page_of(*(ReportFile("task/map", make) for make in made.values())))
    assert figures == ["task/map"]
    assert paths == ["figures/task_map.png", "pages/task_map.html", "tables/task_map.csv"]
    assert (tmp_path / "pages/task_map.html").read_text(encoding="utf-8") == "<html>ü"
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "tables/task_map.csv"), table)


def test_a_figure_that_fails_is_named_and_loses_none_of_the_others(write, caplog):
    first = page_of(ReportFile("first", Figure), ReportFile("a b/$c", failing), ReportFile("third", Figure))
    figures, paths = write(first, page_of(ReportFile("fourth", Figure)))
    assert figures == ["first", "third", "fourth"]
    assert paths == ["figures/first.png", "figures/fourth.png", "figures/third.png"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "the file 'a b/$c' failed and is left out of the report: ValueError: nothing to draw"
    )  # fmt: skip


def test_a_figure_that_fails_while_it_is_saved_is_left_out_too(write, caplog):
    broken = Figure()
    broken.text(0, 0, "$_{$")
    figures, _ = write(page_of(ReportFile("broken", lambda: broken), ReportFile("other", Figure)))
    assert figures == ["other"]
    assert "the file 'broken' failed" in caplog.text


def test_a_page_that_cannot_list_its_files_keeps_those_before_and_those_of_others(write, caplog):
    figures, _ = write(page_of(ReportFile("before", Figure), KeyError("z_P")), page_of(ReportFile("other", Figure)))
    assert figures == ["before", "other"]
    assert "the list of files of Given failed" in caplog.text
    assert "z_P" in caplog.text


def test_what_cannot_be_written_is_said(write, caplog):
    assert write(page_of(ReportFile("odd", lambda: 3))) == ([], [])
    assert "got a int; expected a matplotlib Figure" in caplog.text


def test_labels_that_become_the_same_name_do_not_overwrite_each_other(write):
    _, paths = write(page_of(*(ReportFile(name, Figure) for name in ("a/b", "a b", "A b"))))
    assert paths == ["figures/A_b_3.png", "figures/a_b.png", "figures/a_b_2.png"]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/root", "a\\b:c", "Hand/SM $_{$", "ß" * 300, "日本" * 90, "\0\n"]
)
def test_every_label_is_a_file_inside_the_folder(write, name):
    _, paths = write(page_of(ReportFile(name, Figure), ReportFile(name, lambda: "page")))
    assert [path.split("/")[0] for path in paths] == ["figures", "pages"]
    assert all(path.count("/") == 1 for path in paths)
    assert "/" not in file_name(name)


PHENOTYPE = MetricName("abide", "IQ / $full$ scale")


def run_of_an_odd_phenotype(folder):
    method = PHENOTYPE.by("svm / $_{$")
    metrics = {method.of("mse_scaled"): 0.5, PHENOTYPE.of("num_tested"): 20.0}
    write_json(folder / "metrics.json", metrics)
    write_arrays(
        folder / "arrays.npz", {PHENOTYPE.of("truth"): np.arange(20.0), method.of("predicted"): np.arange(20.0)}
    )


def test_a_run_folder_with_odd_labels_has_its_figure(tmp_path):
    run_of_an_odd_phenotype(tmp_path)
    (name, _), *others = write_files_of_run(tmp_path / "made", tmp_path)
    assert name == "IQ / $full$ scale_predicted"
    assert others == []
    assert [path.name for path in (tmp_path / "made" / "figures").iterdir()] == ["IQ____full__scale_predicted.png"]


def test_a_run_without_arrays_has_no_files(tmp_path):
    write_json(tmp_path / "metrics.json", {"val/loss": 1.0})
    assert list(write_files_of_run(tmp_path, tmp_path)) == []
