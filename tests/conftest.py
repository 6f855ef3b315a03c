import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from brainlm_lightning.data.manifest import load_manifest
from brainlm_lightning.data.prepare import prepare
from brainlm_lightning.simulation.simulate import Simulation, simulate

SIMULATED = Path(__file__).resolve().parents[1] / "data_manifests" / "simulated.yaml"


def pytest_addoption(parser: pytest.Parser) -> None:
    """How golden numbers are compared; see `door/test_door_golden.py`."""
    parser.addoption("--golden", choices=("close", "exact", "record"), default="close")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real recordings; tests that need them are skipped where they are not."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BRAINLM_REAL_DATA") or default)
    if not (folder / "abide_cc400" / "timeseries.npz").is_file():
        pytest.skip(f"no real recordings in {folder}; set BRAINLM_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def make_tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that simulates and prepares a small cohort: 24 subjects, 16 parcels, 60 frames.

    It takes the folder of stores, what to override in the manifest of the simulated cohort, a function that may alter
    the recordings (by name) and their table before they are prepared, and fields of `Simulation`; it returns the store.
    """

    def make(
        root: Path,
        *overrides: str,
        alter: Callable[[dict[str, np.ndarray], pd.DataFrame], None] | None = None,
        **simulation: Any,
    ) -> Path:
        sizes = {"name": "tiny", "subjects": 24, "parcels": 16, "frames": 60, "networks": 4} | simulation
        source = simulate(Simulation(**sizes), tmp_path_factory.mktemp("source") / "files")
        if alter is not None:
            table = pd.read_csv(source / "recordings.tsv", sep="\t")
            with np.load(source / "timeseries.npz") as file:
                series = {name: file[name] for name in file.files}
            alter(series, table)
            np.savez(source / "timeseries.npz", **series)
            table.to_csv(source / "recordings.tsv", sep="\t", index=False)
        given = [f"--root={source}", f"--cohort={sizes['name']}", "--min_frames=20", "--policy=mark", "--split.val=0.2"]
        return prepare(load_manifest(SIMULATED, [*given, *overrides]), output=root / sizes["name"])

    return make


@pytest.fixture(scope="session")
def tiny_stores(make_tiny_store: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of stores with the cohort `tiny`; nobody changes it."""
    return make_tiny_store(tmp_path_factory.mktemp("stores")).parent


@pytest.fixture
def tiny_store(tiny_stores: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of the cohort `tiny`, found through `$BRAINLM_DATA`; nobody changes it."""
    monkeypatch.setenv("BRAINLM_DATA", str(tiny_stores))
    return tiny_stores / "tiny"
