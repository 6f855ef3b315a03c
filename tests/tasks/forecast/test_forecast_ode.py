"""Solvers against closed forms, their failures, and the recurrent forecasters against naive loops."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.tasks.forecast.latent_ode import LatentODE, LatentODEConfig
from brainlm_lightning.tasks.forecast.lstm import LSTM, LSTMConfig
from brainlm_lightning.tasks.forecast.net import ForecastSetting, cut, forecast_loss
from brainlm_lightning.tasks.forecast.neural_ode import NeuralODE
from brainlm_lightning.tasks.forecast.ode import SolverConfig, VectorField, integrate

SETTING = ForecastSetting(Geometry(torch.randn(4, 3), 20), 6)


class Linear(nn.Module):
    """dx/dt = A x."""

    def __init__(self):
        super().__init__()
        self.rate_DD = nn.Parameter(torch.tensor([[-0.5, 2.0], [-2.0, -0.5]]))

    def forward(self, time, state_BD):
        return state_BD @ self.rate_DD.T


def window(seed=0):
    signal = torch.randn(3, 4, 20, generator=torch.Generator().manual_seed(seed))
    return cut(signal, torch.ones(3, 4), torch.ones(3, 4, dtype=torch.bool), 6, "training")


@pytest.mark.parametrize("solver", [SolverConfig(rtol=1e-6, atol=1e-8), SolverConfig("rk4"), SolverConfig("euler")])
def test_a_linear_field_is_followed_as_its_exponential_says(solver):
    start, field = torch.randn(3, 2), Linear()
    states = integrate(field, start, 10, solver)
    for frame in range(10):
        expected = start @ torch.linalg.matrix_exp(field.rate_DD * (frame + 1) / 10).T
        near = 0.3 if solver.method == "euler" else 1e-3
        torch.testing.assert_close(states[frame], expected, atol=near, rtol=near)


def test_the_adjoint_has_the_gradient_of_the_steps():
    start, gradients = torch.randn(3, 2), []
    for adjoint in (False, True):
        field = Linear()
        integrate(field, start, 5, SolverConfig(rtol=1e-6, atol=1e-8, adjoint=adjoint)).square().sum().backward()
        gradients.append(field.rate_DD.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


class Runaway(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, time, state_BD):
        return self.factor * state_BD.square()


@pytest.mark.parametrize(
    ("solver", "factor", "message"),
    [
        (SolverConfig(), 100.0, "dopri5 stopped: (underflow in dt|max_num_steps)"),
        (SolverConfig(max_steps=1), 2.0, "dopri5 stopped: max_num_steps"),
        (SolverConfig(), float("nan"), "dopri5"),
        (SolverConfig("rk4"), 1e9, "rk4 gave values that are not finite"),
    ],
)
def test_a_solver_that_fails_says_so(solver, factor, message):
    with pytest.raises(ArithmeticError, match=message):
        integrate(Runaway(factor), torch.ones(2, 3), 5, solver)


def test_an_untrained_field_does_not_move_and_a_neural_ode_starts_from_nothing():
    given = window()
    assert torch.equal(integrate(VectorField(3, 8), torch.ones(2, 3), 4, SolverConfig()), torch.ones(4, 2, 3))
    forecast = NeuralODE(SETTING)(given.context_BPC, given.observed_BP)
    assert (forecast == 0).all()


def test_an_lstm_goes_on_from_its_own_forecasts():
    net, given = LSTM(SETTING, LSTMConfig(hidden=5)), window()
    cell = nn.LSTMCell(4, 5)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in net.recurrent.state_dict().items()})
    forecast = net(given.context_BPC, given.observed_BP)
    frames, state = list(given.context_BPC.unbind(2)), None
    for t in range(14 + 5):
        state = cell(frames[t], state)
        if t >= 13:
            frames.append(net.next_frame(state[0]))
    torch.testing.assert_close(forecast, torch.stack(frames[14:], dim=2))


def test_a_latent_ode_pays_for_its_distance_from_the_prior():
    net, given = LatentODE(SETTING, LatentODEConfig(latent=3, recurrent=5, kl_weight=0.7)), window()
    mean, log_variance = net._posterior(given.context_BPC)
    kl = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1).mean()
    torch.manual_seed(3)
    drawn = mean + torch.randn_like(mean) * (log_variance / 2).exp()
    torch.manual_seed(3)
    expected = forecast_loss(net._emit(drawn), given) + 0.7 * 2 * kl / (4 * 6)
    torch.testing.assert_close(net.training_loss(given), expected)
    assert torch.equal(net(given.context_BPC, given.observed_BP), net(given.context_BPC, given.observed_BP))
