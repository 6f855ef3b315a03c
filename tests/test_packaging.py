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


def supported():
    """The versions of Python that the package says it supports."""
    label = "Programming Language :: Python :: 3."
    return [text.removeprefix("Programming Language :: Python :: ") for text in PROJECT["classifiers"] if label in text]


def test_every_supported_python_is_checked():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text())["jobs"]["check"]
    assert workflow["strategy"]["matrix"]["python"] == supported()
    assert PROJECT["requires-python"] == f">={supported()[0]}"
    assert workflow["steps"][-1]["run"].startswith("make check")  # as .ci/run


def test_containers_install_what_the_tests_run_with():
    files = {path.name: path.read_text() for path in (ROOT / "containers").iterdir()}
    assert set(files) == {"Dockerfile", "brainlm.def"}
    for text in files.values():
        (python,) = re.findall(r"^from:? python:([\d.]+)-slim$", text, re.MULTILINE | re.IGNORECASE)
        assert python in supported()
        (installed,) = re.findall(r"pip install .*-c /source/constraints.txt '/source\[(\w+)\]'", text)
        assert installed in PROJECT["optional-dependencies"]


def test_one_version_stands_everywhere():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == PROJECT["version"]
    assert cited["license"] == PROJECT["license"]
    newest = re.search(r"^## (?:Unreleased \()?([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == PROJECT["version"]
