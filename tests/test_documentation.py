"""README.md, CONTRIBUTING.md and docs/: their links lead somewhere, and what they name is there.

Links between pages of docs/ are checked where the site is built (`make docs`); here, those that a reader of the
repository follows, and what no build can see.
"""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.glob("*.md"), REPOSITORY / "experiments" / "README.md"])
LINK = re.compile(r"\]\((?!https?:|hf:)([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MESSAGE = re.compile(r"^\| `([^`]+)`(?: in a table)? \|", re.MULTILINE)


def text_of(page):
    """A page without its blocks of code."""
    return FENCED.sub("", page.read_text())


def anchors(page):
    """The names that GitHub and the site give to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_to_a_file_and_a_heading_of_it(page):
    for link in LINK.findall(text_of(page)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(REPOSITORY), link
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_no_page_of_the_site_links_out_of_it():
    """The site holds docs/ alone."""
    assert [link for page in DOCS.glob("*.md") for link in LINK.findall(text_of(page)) if link.startswith("..")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_test_and_benchmark_that_a_page_names_is_there(page):
    named = re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)`", text_of(page))
    assert [name for name in named if not (REPOSITORY / name).is_file()] == []


def test_every_experiment_stands_in_the_table_of_experiments():
    named = set(re.findall(r"`([\w.]+\.yaml)`", (REPOSITORY / "experiments" / "README.md").read_text()))
    assert named == {path.name for path in (REPOSITORY / "experiments").glob("*.yaml")}


def messages():
    """Every text of the package that may be part of a message, with … for what is filled in."""
    for path in (REPOSITORY / "brainlm_lightning").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                yield "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_message_that_is_explained_is_one_that_the_package_says():
    said = [message.replace("`", "…") for message in messages()]
    explained = MESSAGE.findall((DOCS / "troubleshooting.md").read_text())
    assert len(explained) > 40
    unknown = []
    for message in explained:
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("…")), re.DOTALL)
        if not any(pattern.search(text) for text in said):
            unknown.append(message)
    assert unknown == []


def test_the_build_counts_warnings_as_errors():
    """mkdocs counts what it prints: with `--quiet`, `--strict` sees no warning."""
    build = re.search(r"mkdocs build (.*)", (REPOSITORY / "Makefile").read_text())[1].partition("#")[0].split()
    assert "--strict" in build
    assert not {"-q", "--quiet"} & set(build)
