import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import brainlm_lightning
from brainlm_lightning.checkpoint.published.importing import save_imported
from brainlm_lightning.cli import main
from brainlm_lightning.data.scaling import CentreScale, ScalingStatistics
from brainlm_lightning.data.store import Store
from brainlm_lightning.embedding.calibration import CalibrationPlan, Windows, best_gain
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.masked import MaskedModel, Reconstruction
from brainlm_lightning.model.published.brainlm import BrainLM, BrainLMConfig

PLAN = CalibrationPlan()
HIDDEN = torch.rand(12, 8, 4, generator=torch.Generator().manual_seed(0)) < 0.5


@dataclass(frozen=True)
class SignConfig:
    patch_frames: int = 10
    input_gain: float = 1.0
    input_offset: float = 0.0


class SignModel(MaskedModel):
    """Knows signals of ±3 alone: predicts 3 times the sign of the mean visible value of the frame, in its own units."""

    name = "sign"
    config_type = SignConfig

    def forward(self, signal_BPT, hidden_BPN, observed_BP):
        own_BPT = signal_BPT * self.config.input_gain + self.config.input_offset
        hidden_BPT = hidden_BPN.repeat_interleave(self.config.patch_frames, dim=2)
        sign_B1T = own_BPT.where(~hidden_BPT, 0).sum(1, keepdim=True).sign()
        predicted_BPT = (3 * sign_B1T.expand_as(own_BPT) - self.config.input_offset) / self.config.input_gain
        return Reconstruction(predicted_BPT, predicted_BPT[:, 0])


def square_waves(amplitude, level=0.0):
    """Windows in which every parcel is ± the amplitude about a level, with a little noise."""
    rng = np.random.default_rng(0)
    sign = np.sign(rng.normal(size=(12, 1, 40)))
    signal = level + amplitude * (sign + 0.1 * rng.normal(size=(12, 8, 40)))
    subjects = tuple(f"s{number // 2}" for number in range(12))
    return Windows(torch.tensor(signal).float(), torch.ones(12, 8, dtype=torch.bool), HIDDEN, subjects)


@pytest.mark.parametrize("planted", [0.4, 1.0, 7.3, 30.0])
def test_a_planted_gain_is_found(planted):
    found = best_gain(SignModel(Geometry(torch.zeros(8, 3), 40)), square_waves(3 / planted), PLAN)
    assert found.gain == pytest.approx(planted, rel=0.02)
    assert found.plateau[0] < found.gain < found.plateau[1]
    assert found.r2 == pytest.approx(1 / 1.01, abs=0.01)  # the noise has a hundredth of the variance
    for gain, value in found.curve:  # 1 − (1 − planted / gain)², but for the noise
        assert value == pytest.approx((1 - (1 - planted / gain) ** 2) / 1.01, rel=0.05, abs=0.06)


def test_a_planted_offset_is_found():
    model = SignModel(Geometry(torch.zeros(8, 3), 40))
    found = best_gain(model, square_waves(1.0, level=-0.3), CalibrationPlan(offset=True))
    # In the model's units the signal is gain · (−0.3 ± 1), so an offset of 0.3 · gain centres it.
    assert found.offset == pytest.approx(0.3 * found.gain, rel=0.05)
    assert found.r2 > dict(found.curve)[found.gain] + 0.05


def test_noise_is_refused():
    noise = torch.randn(12, 8, 40, generator=torch.Generator().manual_seed(3))
    subjects = tuple(f"s{number}" for number in range(12))
    windows = Windows(noise, torch.ones(12, 8, dtype=torch.bool), HIDDEN, subjects)
    with pytest.raises(
        ValueError, match=r"no plateau: R² is highest at gain 128|no gain of 0\.0625 to 128 reconstructs"
    ):
        best_gain(SignModel(Geometry(torch.zeros(8, 3), 40)), windows, PLAN)


def test_a_gain_outside_of_the_grid_is_refused():
    with pytest.raises(ValueError, match=r"no plateau: R² is highest at gain 128, an end of the grid"):
        best_gain(SignModel(Geometry(torch.zeros(8, 3), 40)), square_waves(3 / 1000), PLAN)


def trained_brainlm(store):
    """A small published architecture, trained for a moment on a store's z-scored windows, and its windows."""
    rows = np.flatnonzero(store.recordings["split"] == "train")
    raw = np.stack([store.raw(int(row))[:40] for row in rows])
    level, spread = np.nanmean(raw, axis=1, keepdims=True), np.nanstd(raw, axis=1, keepdims=True)
    signal_BPT = torch.tensor((raw - level) / spread).transpose(1, 2).float()
    config = BrainLMConfig(
        patch_frames=10, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=32, decoder_depth=1,
        decoder_num_heads=2, conv_width=5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = BrainLM(Geometry(torch.tensor(store.atlas.xyz_mm), 40), config)
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        observed_BP = torch.ones(signal_BPT.shape[:2], dtype=torch.bool)
        for _ in range(150):
            hidden_BPN = torch.rand(len(signal_BPT), 16, 4) < 0.3
            error = net(signal_BPT, hidden_BPN, observed_BP).prediction_BPT - signal_BPT
            loss = error[hidden_BPN.repeat_interleave(10, dim=2)].square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval()


def file_of(net, store, path, scale):
    """An imported checkpoint that divides centred data by a number."""
    ones = CentreScale(np.zeros(16), np.full(16, float(scale)))
    statistics = ScalingStatistics(ones, ones, 1, 1)
    parcels = store.atlas.parcels
    about = {
        "format_version": 1,
        "model": {"class_path": f"{BrainLM.__module__}.BrainLM", "config": vars(net.config)},
        "parcels": {
            "atlas": store.atlas.name, "sha256": store.atlas.sha256, "index": parcels["index"].tolist(),
            "label": parcels["label"].tolist(), "xyz_mm": store.atlas.xyz_mm.tolist(),
        },
        "tr_s": 1.0, "window_frames": 40, "subjects": {"train": [], "val": []},
        "scaling": {"recipe": "robust_centred", "statistics": statistics.to_json()},
    }  # fmt: skip
    return save_imported(net, json.loads(json.dumps(about)), path)


def test_data_scaled_by_ten_need_ten_times_the_gain(tiny_store, tmp_path, capsys):
    store = Store(tiny_store)
    net = trained_brainlm(store)
    found = []
    for number, scale in enumerate((1.0, 10.0)):
        path = file_of(net, store, tmp_path / f"{number}.safetensors", scale)
        main(
            [
                "calibrate",
                str(path),
                "--cohort",
                str(tiny_store),
                "--output",
                str(tmp_path / f"out{number}.safetensors"),
            ]
        )
        model = brainlm_lightning.load(tmp_path / f"out{number}.safetensors")
        record = model.about["calibration"]
        assert model.model.config.input_gain == record["gain"]
        assert (record["cohort"], record["recordings"]) == ("tiny", 20)
        assert len(record["curve"]) > 12
        found.append(record["gain"])
    assert found[1] / found[0] == pytest.approx(10, rel=0.05)
    assert "plateau" in capsys.readouterr().out
