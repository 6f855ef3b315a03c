"""Pages find themselves, and one that fails takes nothing else with it."""

import logging
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.report import files, page
from brainlm_lightning.report.clinical import ClinicalPage
from brainlm_lightning.report.page import ENTRY_POINTS, Page, found_pages
from brainlm_lightning.report.report_table import ReportTable
from brainlm_lightning.report.tables import report_tables

NAPS = MetricName("abide", "naps", "mae")


class SleepPage(Page):
    def tables(self, metrics):
        if NAPS.of("kappa") in metrics:
            yield ReportTable("Sleep", [["method", "κ"], ["mae", "0.5"]], conditions=(NAPS.by(),))


class BrokenPage(Page):
    def tables(self, metrics):
        yield ReportTable("half", [["method"]], conditions=(NAPS.by(),))
        raise KeyError("num_naps")


@pytest.fixture
def entry(monkeypatch):
    """Registers classes of a package that is installed beside this one."""
    module = ModuleType("sleep_package")
    module.SleepPage, module.BrokenPage = SleepPage, BrokenPage
    monkeypatch.setitem(sys.modules, "sleep_package", module)

    def register(*names):
        found = [EntryPoint(name, f"sleep_package:{name}", ENTRY_POINTS) for name in names]
        monkeypatch.setattr(page, "entry_points", lambda group: found if group == ENTRY_POINTS else [])

    return register


def titles(metrics):
    return [table.title for table in report_tables(metrics)]


def test_every_question_of_the_package_has_one_page():
    names = [type(found).__name__ for found in found_pages()]
    questions = ("Attention", "Clinical", "Forecast", "Identity", "Network", "Perturbation", "Reconstruction")
    assert names == [f"{question}Page" for question in questions]


def test_a_page_that_a_module_imports_is_not_found_twice(monkeypatch):
    monkeypatch.setattr(files, "ClinicalPage", ClinicalPage, raising=False)
    assert [type(found) for found in found_pages()].count(ClinicalPage) == 1


def test_a_page_of_another_package_replaces_the_generic_table(entry):
    metrics = {NAPS.of("kappa"): 0.5, NAPS.by().of("num_naps"): 7.0}
    assert titles(metrics) == ["abide, naps", "abide, naps: numbers of no method"]
    entry("SleepPage")
    assert titles(metrics) == ["Sleep"]


def test_a_page_that_fails_is_named_and_its_results_get_the_generic_table(entry, caplog):
    entry("BrokenPage")
    metrics = {NAPS.of("kappa"): 0.5, "test/abide/hidden0.5/mae/r2_pooled": 0.3}
    assert titles(metrics) == ["Reconstruction, abide", "abide, naps"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "the table of BrokenPage failed and is left out of the report: KeyError: 'num_naps'"


def test_a_page_that_cannot_be_loaded_is_named_and_left_out(entry, caplog):
    entry("NoSuchPage", "SleepPage")
    assert type(found_pages()[-1]) is SleepPage
    assert "'NoSuchPage' (sleep_package:NoSuchPage) failed" in caplog.text
