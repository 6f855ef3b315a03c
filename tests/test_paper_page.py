"""docs/paper.md: what it names is there, and nothing that the paper has is left without a file."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "paper.md").read_text()
FOLDERS = [REPOSITORY / name for name in ("brainlm_lightning", "experiments", "docs", ".")]
SECTIONS = dict(re.findall(r"^## (\d\.\d) .*\n((?:(?!^## ).*\n)*)", PAGE, flags=re.MULTILINE))
FILES = sorted(set(re.findall(r"`([\w./]+\.(?:py|yaml))`", PAGE)))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_the_page_names_is_there(name):
    assert any((folder / name).is_file() for folder in FOLDERS)


@pytest.mark.parametrize("name", re.findall(r"\]\(([\w./]+)(?:#[\w-]+)?\)", PAGE))
def test_a_link_leads_somewhere(name):
    assert (REPOSITORY / "docs" / name).is_file()


def test_names_in_parentheses_are_in_the_file_before_them():
    named = re.findall(r"`([\w./]+\.(?:py|yaml))` \(`([\w: .\[\]]+)`\)", PAGE)
    named += [(path, name) for name, path in re.findall(r"`(\w+)` in `([\w./]+\.py)`", PAGE)]
    assert len(named) > 15
    for path, name in named:
        (file,) = [folder / path for folder in FOLDERS if (folder / path).is_file()]
        assert name in file.read_text(), (path, name)


def test_every_section_of_methods_and_results_is_there_and_every_row_names_a_file():
    assert list(SECTIONS) == ["3.1", "3.2", "3.3", "3.4", "3.5", "4.1", "4.2", "4.3", "4.4", "4.5", "4.6"]
    for number, text in SECTIONS.items():
        rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
        assert len(rows) >= 3, number
        assert all(len(row) == 3 for row in rows), number
        assert all(re.search(r"`[\w./]+\.(py|yaml)`|section 3\.4", row[1]) for row in rows), number


def test_every_experiment_on_the_papers_cohorts_has_its_sentence():
    of_the_paper = {
        path.name
        for path in (REPOSITORY / "experiments").glob("*.yaml")
        if re.search("^  cohorts: ukb", path.read_text(), flags=re.MULTILINE)
    }
    assert of_the_paper <= set(FILES)
