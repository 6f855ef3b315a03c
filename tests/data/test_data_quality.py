import shutil

import numpy as np
import pandas as pd
import pytest

from brainlm_lightning.cli import main
from brainlm_lightning.data.quality import PAGE, measure, outlying, write_page
from brainlm_lightning.data.store import Store
from brainlm_lightning.data.verify import verify


@pytest.fixture
def store(tiny_store, tmp_path):
    shutil.copytree(tiny_store, tmp_path / "tiny")
    return Store(tmp_path / "tiny")


def test_measures_are_numpy_s(store):
    measures, connectivity = measure(store)
    raw = [store.raw(row).astype(np.float64) for row in range(len(store))]
    r = np.array([np.corrcoef(values.T) for values in raw])
    np.testing.assert_allclose(connectivity, r.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(measures["median_sd"], [np.median(values.std(axis=0)) for values in raw], rtol=1e-4)
    off = ~np.eye(16, dtype=bool)
    np.testing.assert_allclose(measures["mean_r"], [matrix[off].mean() for matrix in r], atol=1e-4)


def test_a_recording_in_other_units_is_outlying():
    names = [f"r{number}" for number in range(20)]
    rng = np.random.default_rng(0)
    measures = pd.DataFrame({
        "recording_id": names,
        "median_sd": rng.normal(20, 1, 20),
        "lag1": rng.normal(0.5, 0.02, 20),
        "mean_r": rng.normal(0.2, 0.02, 20),
    })  # fmt: skip
    measures.loc[7, "median_sd"] = 1200.0
    assert outlying(measures)["recording_id"].tolist() == ["r7"]


def test_the_page_is_complete_the_same_each_time_and_escaped(store):
    store.recordings["site"] = ["<script>alert(1)</script>", "B"] * (len(store) // 2)
    text = write_page(store).read_text()
    assert "Phenotypes known, of 24 recordings" in text
    assert "Recordings by split" in text
    assert "<script>" not in text
    assert write_page(store).read_text() == text
    assert verify(store.folder) == []


def test_prepare_writes_a_page_and_verify_writes_it_anew(store, capsys):
    page = store.folder / PAGE
    first = page.read_bytes()
    page.unlink()
    main(["verify", str(store.folder), "--report"])
    assert page.read_bytes() == first
    assert str(page) in capsys.readouterr().out
