"""Windows cut into context and future, and forecasters that know nothing of the future."""

from dataclasses import replace

import pytest
import torch

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.tasks.forecast.baselines import AR, VAR, Persistence, ZeroForecast
from brainlm_lightning.tasks.forecast.latent_ode import LatentODE, LatentODEConfig
from brainlm_lightning.tasks.forecast.lstm import LSTM, LSTMConfig
from brainlm_lightning.tasks.forecast.methods import ForecastLearning, Past
from brainlm_lightning.tasks.forecast.net import ForecastSetting, MAEForecaster, MAEForecasterConfig, cut
from brainlm_lightning.tasks.forecast.neural_ode import NeuralODE, NeuralODEConfig

PARCELS, FRAMES, HORIZON = 5, 40, 10
SETTING = ForecastSetting(Geometry(torch.randn(PARCELS, 3), FRAMES), HORIZON)
SMALL = {"patch_frames": 5, "embed_dim": 16, "depth": 1, "num_heads": 2, "decoder_embed_dim": 16, "decoder_depth": 1}
LEARNT = {
    "mae": lambda: MAEForecaster(SETTING, MAEForecasterConfig(**SMALL, decoder_num_heads=2)),
    "lstm": lambda: LSTM(SETTING, LSTMConfig(hidden=8, layers=2)),
    "neural_ode": lambda: NeuralODE(SETTING, NeuralODEConfig(hidden=8, extra=3)),
    "latent_ode": lambda: LatentODE(SETTING, LatentODEConfig(latent=4, recurrent=8, hidden=8)),
}
LINEAR = {"zero": ZeroForecast, "persistence": Persistence, "ar": lambda: AR((1, 3)), "var": lambda: VAR((1, 3))}


def raw_signal(seed=0, batch=2, frames=60):
    """(B, P, frames) float64 at a level of 100, each parcel with a unit of its own."""
    g = torch.Generator().manual_seed(seed)
    steps = torch.randn(batch, PARCELS, frames, generator=g, dtype=torch.float64)
    return 100 + torch.arange(1, PARCELS + 1)[:, None] * steps.cumsum(2)


def zscored_window(raw):
    """As `recording_zscore` gives it: the first 40 frames, scaled by the whole recording."""
    sd = raw.std(2, correction=0)
    return ((raw - raw.mean(2, keepdim=True)) / sd[:, :, None])[:, :, :FRAMES], sd


def cut_raw(raw, standardise="context"):
    signal, sd = zscored_window(raw)
    return cut(signal, sd, torch.ones(raw.shape[:2], dtype=torch.bool), HORIZON, standardise)


def method(name):
    if name in LEARNT:
        torch.manual_seed(0)
        net = LEARNT[name]().double().eval()
        for parameter in net.parameters():  # fields start at 0, where nothing depends on anything
            torch.nn.init.normal_(parameter, std=0.3)
        return net
    baseline = LINEAR[name]()
    windows = [cut_raw(raw_signal(seed)) for seed in range(5)]
    baseline.fit(ForecastLearning(lambda name: iter(windows[:4]), windows[4:]))
    return lambda context, observed: baseline.forecast(
        Past(context, observed, HORIZON, context, [], torch.zeros(0), lambda scaled: scaled)
    )


@pytest.mark.parametrize("name", [*LEARNT, *LINEAR])
def test_no_forecast_depends_on_the_future_even_where_scaling_saw_it(name):
    raw = raw_signal(7).requires_grad_()
    window, forecast = cut_raw(raw), method(name)
    output = forecast(window.context_BPC, window.observed_BP)
    assert output.shape == (2, PARCELS, HORIZON)
    if name == "zero":
        assert (output == 0).all()
        return
    (gradient,) = torch.autograd.grad(output.square().sum(), raw)
    seen, after = gradient[:, :, : FRAMES - HORIZON].abs(), gradient[:, :, FRAMES - HORIZON :].abs()
    assert after.max() < 1e-12 * seen.max()
    assert seen.max() > 0


def test_scaling_by_the_recording_leaks_where_the_window_is_not_standardised_by_its_context():
    raw = raw_signal(7).requires_grad_()
    (gradient,) = torch.autograd.grad(cut_raw(raw, "training").context_BPC.square().sum(), raw)
    assert gradient[:, :, FRAMES:].abs().max() > 1e-4


def test_the_context_has_mean_0_and_deviation_1_and_the_future_its_units():
    raw = raw_signal(1)
    window = cut_raw(raw)
    torch.testing.assert_close(window.context_BPC.mean(2), torch.zeros(2, PARCELS).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(window.context_BPC.std(2, correction=0), torch.ones(2, PARCELS).double())
    seen, future = raw[:, :, :30], raw[:, :, 30:40]
    expected = (future - seen.mean(2, keepdim=True)) / seen.std(2, correction=0, keepdim=True)
    torch.testing.assert_close(window.future_BPH, expected)
    torch.testing.assert_close(window.standardised(zscored_window(raw)[0])[:, :, 30:], expected)


def test_a_parcel_that_hardly_moves_in_the_context_is_not_observed():
    raw = raw_signal(2)
    raw[0, 1, :30] = 7.0  # constant, and moving in the future
    raw[1, 2] = 100 + 1e-5 * (raw[1, 2] - 100)
    window = cut_raw(raw)
    assert window.observed_BP.logical_not().nonzero().tolist() == [[0, 1], [1, 2]]
    assert (window.context_BPC[0, 1] == 0).all()
    assert (window.future_BPH[1, 2] == 0).all()
    assert window.future_BPH.isfinite().all()


def test_a_horizon_leaves_a_context():
    for wrong in (0, FRAMES):
        with pytest.raises(ValueError, match="from 1 to 39"):
            ForecastSetting(SETTING.geometry, wrong)


def test_the_autoencoder_forecasts_what_it_reconstructs_with_the_last_patches_hidden():
    net = LEARNT["mae"]().eval()
    signal, observed = torch.randn(2, PARCELS, FRAMES), torch.ones(2, PARCELS, dtype=torch.bool)
    observed[1, 3] = False
    hidden = torch.zeros(2, PARCELS, 8, dtype=torch.bool)
    hidden[:, :, 6:] = observed[:, :, None]
    expected = net.autoencoder(signal, hidden, observed).prediction_BPT[:, :, 30:]
    assert torch.equal(net(signal[:, :, :30], observed), expected)


def test_the_autoencoder_forecasts_whole_patches():
    with pytest.raises(ValueError, match="horizon_frames 12 is no whole number of patches of 5"):
        MAEForecaster(ForecastSetting(SETTING.geometry, 12), MAEForecasterConfig(**SMALL, decoder_num_heads=2))


def test_a_frozen_encoder_stays_and_the_sizes_are_the_pretrained_ones():
    pretrained = MaskedAutoencoder(SETTING.geometry, MAEConfig(**{**SMALL, "embed_dim": 24}, decoder_num_heads=2))
    before = {name: value.clone() for name, value in pretrained.state_dict().items()}
    net = MAEForecaster(replace(SETTING, autoencoder=pretrained), MAEForecasterConfig(encoder="frozen"))
    optimizer = torch.optim.SGD([each for each in net.parameters() if each.requires_grad], lr=1.0)
    signal, observed = torch.randn(2, PARCELS, FRAMES), torch.ones(2, PARCELS, dtype=torch.bool)
    net.training_loss(cut(signal, torch.ones(2, PARCELS), observed, HORIZON, "training")).backward()
    optimizer.step()
    moved = {name for name, value in net.autoencoder.state_dict().items() if not torch.equal(value, before[name])}
    encoding = ("patch_projection", "position.", "encoder.", "cls_D")
    assert moved
    assert not [name for name in moved if name.startswith(encoding)]
    assert (net.config.embed_dim, net.config.encoder) == (24, "frozen")
