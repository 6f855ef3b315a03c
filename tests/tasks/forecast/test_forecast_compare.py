"""What forecasters learn from: windows without a frame that is marked as missing."""

import numpy as np
import torch

from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.tasks.forecast.compare import learning_data
from brainlm_lightning.tasks.forecast.net import ForecastPlan

MISSING = [0, 1, 33]


def test_no_forecaster_learns_from_a_frame_that_is_marked_as_missing(make_tiny_store, tmp_path, monkeypatch):
    def alter(series, table):
        for name in table["recording"]:
            series[name][MISSING] = 0

    make_tiny_store(tmp_path, alter=alter)
    monkeypatch.setenv("BRAINLM_DATA", str(tmp_path))
    data = CohortDataModule("tiny", window_frames=20, num_workers=0)
    data.setup("test")
    plan = ForecastPlan(horizon_frames=5, standardise="training")
    learning = learning_data(plan, data, show=False)
    windows = [torch.cat([of.context_BPC, of.future_BPH], dim=2) for of in learning.training("x")]
    assert [len(of) for of in windows] == [2, 2] * len(data.train_rows)  # 31 frames, then 26: two windows in each
    for row, first, second in zip(data.train_rows, windows[::2], windows[1::2], strict=True):
        whole, _ = data.dataset.scaled_recording(int(row))
        cut = [whole[:, start : start + 20] for start in (2, 13, 34, 40)]
        np.testing.assert_allclose(torch.cat([first, second]).numpy(), np.stack(cut), rtol=1e-6)
