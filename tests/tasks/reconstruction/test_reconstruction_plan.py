"""What a test hides: names of conditions, and what is refused before any long work starts."""

import pytest
import torch

from brainlm_lightning.model.masking import Grid, counter_noise
from brainlm_lightning.tasks.reconstruction.plan import Hiding, MaskingPlan, hidings_of

GRID = Grid(torch.ones(1, 12, dtype=torch.bool), 10, torch.arange(12) % 3)


def test_random_is_named_hidden_and_every_other_strategy_by_its_name():
    hidings = hidings_of((0.2, 0.75), {"parcels": (0.5,), "future": (0.1,)})
    assert [hiding.condition for hiding in hidings] == ["hidden0.2", "hidden0.75", "parcels0.5", "future0.1"]
    assert str(hidings[2].named("abide", "mae")) == "test/abide/parcels0.5/mae"


@pytest.mark.parametrize(
    ("ratios", "strategies", "message"),
    [
        ((0.5, 0.2), {}, "test_ratios is .* rising order"),
        ((0.5,), {"parcels": (0.5, 1.2)}, "test_strategies.parcels is .* shares from 0 to 1"),
        ((0.5,), {"random": (0.5,)}, "whose shares are those of test_ratios"),
    ],
)
def test_shares_that_cannot_be_are_refused(ratios, strategies, message):
    with pytest.raises(ValueError, match=message):
        hidings_of(ratios, strategies)


@pytest.mark.parametrize(("strategy", "ratio"), [("random", 0.0), ("future", 0.04), ("networks", 0.1)])
def test_a_share_that_hides_nothing_is_refused(strategy, ratio):
    with pytest.raises(ValueError, match=rf"a share of {ratio:g} hides nothing of 12 parcels x 10 patches"):
        Hiding(strategy, ratio).check_hides(GRID)


def test_networks_of_an_atlas_without_them_are_refused():
    with pytest.raises(ValueError, match="the atlas table has none"):
        Hiding("networks", 0.5).check_hides(Grid(GRID.observed_BP, 10))


@pytest.mark.parametrize("strategy", ["random", "future", "parcels", "networks"])
def test_shares_that_hide_something_are_let_through(strategy):
    Hiding(strategy, 0.5).check_hides(GRID)


def test_every_step_draws_one_of_several_strategies_as_often_as_it_is_named():
    plan = MaskingPlan(strategy=("random", "random", "parcels", "networks"), ratio=(0.2, 0.9))
    strategies, ratios = zip(*(plan.drawn(step) for step in range(2000)), strict=True)
    for name, share in {"random": 0.5, "parcels": 0.25, "networks": 0.25}.items():
        assert strategies.count(name) / 2000 == pytest.approx(share, abs=0.04)  # four standard deviations
    of_random = [ratio for strategy, ratio in zip(strategies, ratios, strict=True) if strategy == "random"]
    assert 0.2 <= min(ratios) < 0.21 < 0.89 < max(ratios) <= 0.9
    assert sum(of_random) / len(of_random) == pytest.approx(0.55, abs=0.03)  # the share does not depend on the strategy


def test_a_single_strategy_keeps_the_shares_that_it_had():
    """A further number drawn leaves the first as it was: runs of an earlier version go on with the same masks."""
    key = 17
    uniform = counter_noise(torch.tensor([key]), 1).item() / 2**63
    assert MaskingPlan(ratio=(0.2, 0.9)).drawn(key) == ("random", 0.2 + (0.9 - 0.2) * uniform)
    assert MaskingPlan(strategy="parcels").drawn(key) == ("parcels", 0.75)


def test_no_strategy_at_all_is_refused():
    with pytest.raises(ValueError, match="strategy is an empty list"):
        MaskingPlan(strategy=())


def test_training_with_a_strategy_that_hides_nothing_is_refused_before_it_begins():
    MaskingPlan(strategy=("random", "networks"), ratio=(0.2, 0.9)).check_hides(GRID)
    without = Grid(GRID.observed_BP, 10)
    with pytest.raises(ValueError, match=r"the atlas table has none. Leave networks out of masking.strategy"):
        MaskingPlan(strategy=("random", "networks")).check_hides(without)
    with pytest.raises(ValueError, match="a share of 0 hides nothing"):
        MaskingPlan(ratio=0).check_hides(GRID)
    MaskingPlan(ratio=0, loss_on="all").check_hides(GRID)
