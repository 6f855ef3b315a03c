"""Everything that plugs in, written outside the package and driven through the real command line from a YAML.

A lab's file lies on the Python path beside the metadata that installing it would leave, which registers its model.
"""

import os
import subprocess
import sys
from importlib import invalidate_caches
from textwrap import dedent

import numpy as np
import pytest
import yaml
from tiny import REPOSITORY, SIZES, newest, run_main

from brainlm_lightning.run_folder import newest_run, read_metrics

LAB = '''
    from dataclasses import dataclass

    import numpy as np
    import torch

    from brainlm_lightning.model.masked import Embedding, MaskedModel, Reconstruction
    from brainlm_lightning.tasks.clinical.methods import ClinicalMethod
    from brainlm_lightning.tasks.forecast.methods import ForecastMethod
    from brainlm_lightning.tasks.forecast.net import Forecaster
    from brainlm_lightning.tasks.networks.methods import ParcelMethod
    from brainlm_lightning.tasks.reconstruction.methods import ReconstructionMethod
    from brainlm_lightning.tasks.task import Task


    @dataclass(frozen=True)
    class MixerConfig:
        patch_frames: int = 10


    class Mixer(MaskedModel):
        """Every parcel is a weighted sum of the visible values of all parcels."""

        name = "mixer"
        config_type = MixerConfig

        def __init__(self, geometry, config: MixerConfig | None = None) -> None:
            super().__init__(geometry, config)
            self.mix = torch.nn.Linear(geometry.num_parcels, geometry.num_parcels)

        def forward(self, signal_BPT, hidden_BPN, observed_BP):
            hidden_BPT = hidden_BPN.repeat_interleave(self.config.patch_frames, dim=2)
            known_BPT = signal_BPT.where(~hidden_BPT & observed_BP[:, :, None], 0)
            return Reconstruction(self.mix(known_BPT.mT).mT, known_BPT.mean(2))

        def embed(self, signal_BPT, observed_BP):
            parcel_BPD = self.mix(signal_BPT.mT).mT.where(observed_BP[:, :, None], torch.nan)
            return Embedding(signal_BPT.mean(2), parcel_BPD)


    @dataclass(frozen=True)
    class DecayConfig:
        rate: float = 0.5


    class Decay(Forecaster):
        """The last frame, fading."""

        name = "decay"
        config_type = DecayConfig

        def __init__(self, setting, config: DecayConfig | None = None) -> None:
            super().__init__()
            self.setting, self.config = setting, config or DecayConfig()
            self.log_rate = torch.nn.Parameter(torch.tensor(self.config.rate).log())

        def forward(self, context_BPC, observed_BP):
            steps_H = torch.arange(1, self.setting.horizon_frames + 1, device=context_BPC.device)
            return context_BPC[:, :, -1:] * (self.log_rate * steps_H).exp()


    class ParcelMean(ReconstructionMethod):
        """The mean of the visible values of a parcel."""

        def reconstruct(self, windows):
            count_BP1 = windows.visible_BPT.sum(2, keepdim=True).clamp(min=1)
            mean_BP1 = windows.signal_BPT.sum(2, keepdim=True) / count_BP1
            return windows.signal_BPT.where(windows.visible_BPT, mean_BP1)


    class ContextMean(ForecastMethod):
        """The mean of the context."""

        def forecast(self, past):
            return past.context_BPC.mean(2, keepdim=True).expand(-1, -1, past.horizon_frames)


    class Median(ClinicalMethod):
        """The median of the training labels."""

        def fit(self, learning):
            self.median = float(np.median(learning.labels_n))
            return {}

        def predict(self, rows):
            return np.full((len(rows), 1), self.median)


    class Amplitude(ParcelMethod):
        """The standard deviation of a parcel."""

        def features(self, batch):
            return batch["signal_BPT"].std(2, keepdim=True).cpu().numpy()


    class CountTask(Task):
        """How many windows are there?"""

        fitted = False

        def on_test_start(self):
            self.count = 0

        def test_step(self, batch, batch_idx, dataloader_idx=0):
            self.count += len(batch["start_B"])

        def on_test_epoch_end(self):
            self.results = {"test/tiny/windows/counter/count": float(self.count)}
'''
METADATA = "Metadata-Version: 2.1\nName: lab-models\nVersion: 1.0\n"
ENTRY_POINTS = '[brainlm_lightning.models]\nmixer = "lab_models:Mixer"\ndecay = "lab_models:Decay"\n'.replace('"', "")


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory):
    """A folder on the Python path with a lab's module and what its installation would leave beside it."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "lab_models.py").write_text(dedent(LAB))
    installed = folder / "lab_models-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(METADATA)
    (installed / "entry_points.txt").write_text(ENTRY_POINTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        invalidate_caches()
        yield folder
    sys.modules.pop("lab_models", None)


@pytest.fixture
def write(tmp_path, runs):
    """Writes an experiment of the tiny cohort; returns its file."""

    def write(name, model, **more):
        nested: dict = {"experiment": name, "runs": str(runs), "model": model, **more}
        for setting, value in SIZES.items():
            section, key = setting.split(".")
            nested.setdefault(section, {}).setdefault(key, yaml.safe_load(str(value)))
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(nested))
        return str(path)

    return write


def run(verb, config, runs):
    run_main([verb, "--config", config])
    return newest(runs)


PRETRAIN = "brainlm_lightning.tasks.reconstruction.task.PretrainTask"
FORECAST = "brainlm_lightning.tasks.forecast.task.ForecastTask"


def own(name, **init_args):
    return {"class_path": f"lab_models.{name}", "init_args": init_args}


def test_a_masked_model_and_a_baseline_of_reconstruction(write, runs, tmp_path, capsys):
    model = {
        "class_path": PRETRAIN,
        "init_args": {
            "model": own("Mixer", config={"patch_frames": 10}),
            "test_ratios": [0.5],
            "baselines": {"parcel_mean": own("ParcelMean"), "linear_interpolation": None},
        },
    }
    config = write("mixer", model)
    run_main(["fit", "--config", config])
    run_main(["test", "--config", config])
    tested = newest_run(runs / "mixer", "arrays.npz")
    methods = {name.split("/")[3] for name in read_metrics(tested) if name.startswith("test/tiny/hidden0.5/")}
    assert {"mixer", "mixer_untrained", "parcel_mean", "zero", "optimum"} <= methods
    assert "linear_interpolation" not in methods
    capsys.readouterr()
    run_main(["report", str(tested), "--markdown"])
    assert "| parcel_mean |" in capsys.readouterr().out
    best = newest_run(runs / "mixer", "checkpoints") / "checkpoints" / "best.ckpt"
    run_main(["export", str(best), str(tmp_path / "mixer.safetensors")])
    assert (tmp_path / "mixer.safetensors").stat().st_size > 0


def test_a_registered_model_is_exported_by_a_process_that_never_imported_it(write, runs, lab, tmp_path, monkeypatch):
    config = write("mixer", {"class_path": PRETRAIN, "init_args": {"model": own("Mixer")}})
    run_main(["fit", "--config", config])
    best = newest_run(runs / "mixer", "checkpoints") / "checkpoints" / "best.ckpt"
    monkeypatch.delitem(sys.modules, "lab_models")
    command = [sys.executable, "-m", "brainlm_lightning.cli", "export", str(best), str(tmp_path / "out.safetensors")]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{lab}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert "loaded 2 of 2 tensors" in done.stderr + done.stdout


def test_a_forecaster_and_a_baseline_of_forecasts(write, runs, tmp_path):
    model = {
        "class_path": FORECAST,
        "init_args": {
            "forecaster": own("Decay"),
            "horizon_frames": 10,
            "baselines": {"context_mean": own("ContextMean")},
        },
    }
    config = write("decay", model)
    run_main(["fit", "--config", config])
    run_main(["test", "--config", config])
    tested = newest_run(runs / "decay", "arrays.npz")
    metrics = read_metrics(tested)
    assert np.isfinite(metrics["test/tiny/horizon10/decay/r2_pooled"])
    assert metrics["test/tiny/horizon10/decay_minus_context_mean/num_subjects"] > 1
    best = newest_run(runs / "decay", "checkpoints") / "checkpoints" / "best.ckpt"
    run_main(["export", str(best), str(tmp_path / "decay.safetensors")])


def test_a_clinical_baseline(write, runs, pretrained):
    args = {
        "pretrained": str(pretrained),
        "target": {"column": "age"},
        "folds": {"number": 2, "test_on": "all", "train_on": "all"},
        "baselines": {"median": own("Median")},
        "default_baselines": False,
    }
    config = write("clinical", {"class_path": "brainlm_lightning.tasks.clinical.task.ClinicalTask", "init_args": args})
    metrics = read_metrics(run("test", config, runs))
    assert metrics["test/tiny/age/median/mse_scaled"] > 0
    assert not [name for name in metrics if "connectivity" in name]


def test_a_task_shows_a_table_although_no_page_knows_it(write, runs, capsys):
    config = write("count", {"class_path": "lab_models.CountTask", "init_args": {}})
    tested = run("test", config, runs)
    assert read_metrics(tested)["test/tiny/windows/counter/count"] > 0
    run_main(["report", str(tested)])
    assert "counter" in capsys.readouterr().out


def test_a_baseline_of_networks(write, make_tiny_store, tmp_path, monkeypatch, runs):
    make_tiny_store(tmp_path / "stores", "--split.test=0.3", parcels=20, networks=3, atlas_seed=1, frames=100)
    monkeypatch.setenv("BRAINLM_DATA", str(tmp_path / "stores"))
    model = {"class_path": PRETRAIN, "init_args": {"model": own("Mixer")}}
    run_main(["fit", "--config", write("mixer", model)])
    mae = {
        "class_path": "brainlm_lightning.model.mae.MaskedAutoencoder",
        "init_args": {
            "config": {
                **{"patch_frames": 10, "embed_dim": 40, "depth": 1, "num_heads": 2},
                **{"decoder_embed_dim": 40, "decoder_depth": 1, "decoder_num_heads": 2},
            }
        },
    }
    run_main(["fit", "--config", write("mae", {"class_path": PRETRAIN, "init_args": {"model": mae}})])
    args = {
        "pretrained": str(runs / "mae"),
        "embeddings": {"mixer": str(runs / "mixer")},
        "neighbours": {"folds": 2, "test_share": 0.25, "repeats": 2},
        "baselines": {"amplitude": own("Amplitude"), "raw_series": None},
    }
    task = {"class_path": "brainlm_lightning.tasks.networks.task.NetworkTask", "init_args": args}
    run_main(["test", "--config", write("networks", task)])
    metrics = read_metrics(newest_run(runs / "networks", "arrays.npz"))
    assert 0 <= metrics["test/tiny/networks/amplitude/accuracy"] <= 1
    assert 0 <= metrics["test/tiny/networks/mixer/accuracy"] <= 1
    assert "test/tiny/networks/raw_series/accuracy" not in metrics
