import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real recordings; tests that need them are skipped where they are not."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BRAINLM_REAL_DATA") or default)
    if not (folder / "abide_cc400" / "timeseries.npz").is_file():
        pytest.skip(f"no real recordings in {folder}; set BRAINLM_REAL_DATA")
    return folder
