"""The report's HTML templates. Every value is escaped unless the package itself made it as markup."""

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

PACKAGE, FOLDER = "brainlm_lightning.report", "templates"


@cache
def _environment() -> Environment:
    loader = PackageLoader(PACKAGE, FOLDER)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def rendered(name: str, **values: Any) -> str:
    """A template filled in; a value that it names and is not given is an error."""
    return _environment().get_template(name).render(**values) + "\n"


def read(name: str) -> str:
    """The text of a file beside the templates."""
    return (files(PACKAGE) / FOLDER / name).read_text(encoding="utf-8")
