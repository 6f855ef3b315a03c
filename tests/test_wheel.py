"""The wheel, installed into an empty folder: no checkout is near, and everything that is needed is in it."""

import os
import subprocess
import sys
import tomllib
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the unpacked wheel, as `pip install --target` leaves it."""
    made, site = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(made)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def run(site, folder, *command):
    """Runs the installed package in a folder that is no checkout."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    environment.pop("BRAINLM_DATA", None)
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_package_is_in_the_wheel(installed):
    package = ROOT / "brainlm_lightning"
    files = {path.relative_to(package) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    in_wheel = {path.relative_to(installed / "brainlm_lightning") for path in installed.rglob("brainlm_lightning/**/*")}
    assert files - in_wheel == set()
    top_level = {path.name.partition("-")[0] for path in installed.iterdir()}
    assert top_level == {"brainlm_lightning"}  # neither tests nor benchmarks


def test_the_wheel_puts_brainlm_on_the_path(installed):
    (scripts,) = installed.glob("*.dist-info/entry_points.txt")
    parser = ConfigParser()
    parser.read(scripts)
    assert dict(parser["console_scripts"]) == {"brainlm": "brainlm_lightning.cli:main"}


def test_the_wheel_goes_from_nothing_to_a_store_outside_of_a_checkout(installed, tmp_path):
    shown = run(installed, tmp_path, "-c", "import brainlm_lightning as b; print(b.__file__, b.__version__)").split()
    assert shown == [str(installed / "brainlm_lightning" / "__init__.py"), VERSION]
    door = ("-m", "brainlm_lightning.cli")
    run(installed, tmp_path, *door, "init")
    assert (tmp_path / "experiments" / "demo.yaml").read_bytes() == (ROOT / "experiments" / "demo.yaml").read_bytes()
    small = ["--subjects=20", "--parcels=16", "--frames=60", "--networks=4"]
    run(installed, tmp_path, *door, "simulate", "stores/simulated_source", *small)
    manifest = "--config=data_manifests/simulated.yaml"
    run(installed, tmp_path, *door, "prepare", manifest, "--jobs=1", "--min_frames=20")
    assert run(installed, tmp_path, *door, "verify", "stores/simulated").strip() == "stores/simulated: sound"
