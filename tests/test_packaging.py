import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"pytorch": "torch"}


def requirement(text):
    """Name and bounds of a requirement, without its extras."""
    name, bounds = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?\s*(\S*)", text).groups()
    return CONDA_NAMES.get(name, name), bounds


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_conda_has_the_packages_and_bounds_of_pyproject():
    conda = dict(map(requirement, yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]))
    expected = dict(map(requirement, PROJECT["dependencies"])) | {"python": PROJECT["requires-python"]}
    only_conda = {"pip": "", "docstring_parser": "", "typeshed_client": ""}  # what pip takes by jsonargparse's extras
    assert conda == expected | only_conda


def test_every_direct_dependency_is_pinned_and_installed_as_pinned():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    direct = {requirement(line)[0] for group in groups for line in group} - {"brainlm-lightning"}
    assert direct == set(pins())
    assert {name: version(name).split("+")[0] for name in pins()} == pins()
