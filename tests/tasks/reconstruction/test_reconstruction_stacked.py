"""The weighted mean of a network and a smoother: its weight is that of least squares, and nothing hidden is seen."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainlm_lightning.tasks.reconstruction.baselines import ZeroReconstruction
from brainlm_lightning.tasks.reconstruction.methods import MaskedWindows, NetworkReconstruction
from brainlm_lightning.tasks.reconstruction.stacked import Stacked, stacked
from brainlm_lightning.tasks.reconstruction.tuned import TunedSmoother

PARCELS, FRAMES, PATCH = 4, 40, 10


class Constant(torch.nn.Module):
    """Predicts one number everywhere; notes whether it was shown anything hidden."""

    def __init__(self, value):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value))
        self.leaks = False

    def forward(self, signal_BPT, hidden_BPN, observed_BP):
        hidden_BPT = hidden_BPN.repeat_interleave(PATCH, dim=2)
        self.leaks |= bool(signal_BPT[hidden_BPT].any())
        return SimpleNamespace(prediction_BPT=torch.zeros_like(signal_BPT) + self.value)


class Level(TunedSmoother):
    """Expects one number everywhere."""

    def __init__(self, value):
        super().__init__([], PATCH, 4, None)
        self.value, self.setting = value, {}

    def expected(self, signal_BPT, visible_BPT, setting, accuracy):
        return torch.full_like(signal_BPT.double(), self.value)


def learning(level, noise=0.0):
    """Validation recordings around a level."""
    random = np.random.default_rng(0)
    series = level + noise * random.standard_normal((6, PARCELS, 90))
    found = [(values.astype(np.float32), np.ones(PARCELS, bool)) for values in series]
    return SimpleNamespace(recordings=lambda split: iter(found), data=SimpleNamespace(window_frames=FRAMES))


@pytest.mark.parametrize(("level", "weight"), [(1.6, 0.3), (1.0, 0.0), (0.5, 0.0), (3.0, 1.0), (9.0, 1.0)])
def test_the_weight_is_that_of_least_squares_between_the_two(level, weight):
    network = Constant(3.0)
    both = Stacked(NetworkReconstruction(network), Level(1.0))
    assert both.fit(learning(level)) == {"weight": pytest.approx(weight, abs=1e-6)}
    assert not network.leaks


def test_it_predicts_the_weighted_mean():
    both = Stacked(NetworkReconstruction(Constant(3.0)), Level(1.0))
    both.fit(learning(1.6, noise=0.1))
    hidden_BPN = torch.zeros(2, PARCELS, FRAMES // PATCH, dtype=torch.bool)
    hidden_BPN[:, 1] = True
    shown = torch.zeros(2, PARCELS, FRAMES)
    windows = MaskedWindows.of(shown, hidden_BPN, torch.ones(2, PARCELS, dtype=torch.bool), ["a", "b"], torch.zeros(2))
    expected = both.weight * 3 + (1 - both.weight) * 1
    assert 0.25 < both.weight < 0.35
    torch.testing.assert_close(both.reconstruct(windows)[:, 1], torch.full((2, FRAMES), expected))


def test_two_that_agree_everywhere_need_no_weight():
    both = Stacked(NetworkReconstruction(Constant(1.0)), Level(1.0))
    assert both.fit(learning(2.0)) == {"weight": 0.0}


def test_only_a_smoother_of_the_test_can_be_stacked():
    methods = {"mae": NetworkReconstruction(Constant(1.0)), "zero": ZeroReconstruction(), "level": Level(1.0)}
    assert list(stacked(methods, "mae", "level")) == ["mae_and_level"]
    for name in ("zero", "absent"):
        with pytest.raises(ValueError, match=rf"stack_with is '{name}'; expected one of .*\['level'\]"):
            stacked(methods, "mae", name)
