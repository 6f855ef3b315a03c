"""Writes the page of a report: one file that opens from disk, without a server or a network."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from brainlm_lightning.report.html.cohorts import cohorts
from brainlm_lightning.report.html.methods import methods, references
from brainlm_lightning.report.html.missing import missing
from brainlm_lightning.report.html.origins import origins, packages
from brainlm_lightning.report.html.pictures import markup
from brainlm_lightning.report.html.runs import Runs, find_runs
from brainlm_lightning.report.html.sections import Section, other_tables, sections
from brainlm_lightning.report.html.summary import SIGNS, lines, number, plain, short, tally
from brainlm_lightning.report.html.warnings import warnings
from brainlm_lightning.report.page import found_pages
from brainlm_lightning.report.scene import drawing
from brainlm_lightning.report.template import read, rendered
from brainlm_lightning.run_folder import write_text

PAGE, BIBLIOGRAPHY = "index.html", "references.bib"


def write_report(out: Path, places: Sequence[Path]) -> Path:
    """Writes `index.html` (self-contained) and `references.bib`.

    Args:
        out: folder, created if missing.
        places: run folders, folders of an experiment, or the folder of all experiments.

    Returns:
        The page.
    """
    runs = find_runs(list(places))
    values = contents(runs, list(places))
    page = out / PAGE
    write_text(page, rendered("report.html.j2", **values))
    write_text(out / BIBLIOGRAPHY, values["bibliography"])
    return page


def contents(runs: Runs, places: list[Path]) -> dict[str, Any]:
    """Everything that the template shows, in plain values."""
    pages = found_pages()
    found = sections(runs, pages)
    listed, paragraph = lines(found), methods(runs)
    bibliography = references(paragraph)
    brains = any(picture.kind == "brain" for section in found for each in section.answers for picture in each.pictures)
    return {
        "runs": runs,
        "sections": found,
        "lines": listed,
        "tally": tally(listed),
        "others": _others(runs, found),
        "truths": [truth for section in found for each in section.answers for truth in each.truths],
        "cohorts": cohorts(runs),
        "warnings": warnings(runs),
        "origins": origins(runs),
        "packages": packages(runs),
        "missing": missing(runs, pages, places),  # last: reading arrays may have found further problems
        "methods": paragraph,
        "bibliography": bibliography,
        "bibliography_address": f"data:text/plain;base64,{base64.b64encode(bibliography.encode()).decode()}",
        "signs": {verdict.name: sign for verdict, (sign, _) in SIGNS.items()},
        "number": number,
        "short": short,
        "plain": plain,
        "markup": markup,
        "has_brains": brains,
        "drawing": drawing() | {"style": markup(read("report.css"))},
    }


def _others(runs: Runs, found: list[Section]) -> list[tuple[str, list[Any]]]:
    """Per run, the tables of results that no section shows."""
    others = []
    for run in runs.tests:
        shown = {
            condition
            for section in found
            for each in section.answers
            if each.run is run
            for table in each.tables
            for condition in table.conditions
        }
        tables = other_tables(run, shown)
        if tables:
            others.append((run.name, tables))
    return others
