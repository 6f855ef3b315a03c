"""What is hidden in training and in tests.

Shapes: B windows of a batch, P parcels, N patches per parcel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from brainlm_lightning.data.parcellation import UNKNOWN_NETWORK
from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.model.masking import Grid, MaskingName, counter_noise, draw_mask, draw_share


def check_ratios(name: str, ratios: Sequence[float]) -> None:
    """Checks that shares of tokens to hide are in rising order and from 0 to 1.

    Raises:
        ValueError: they are not.
    """
    if not all(0 <= ratio <= 1 for ratio in ratios) or list(ratios) != sorted(ratios):
        raise ValueError(f"{name} is {list(ratios)}; expected shares from 0 to 1 in rising order")


@dataclass(frozen=True)
class MaskingPlan:
    """What is hidden in training and validation.

    Attributes:
        ratio: share of tokens to hide (paper: 0.75), or a range from which each optimiser step draws its own.
        strategy: ``random`` tokens (paper), ``future`` patches, whole ``parcels`` or whole ``networks``; or several,
            of which each optimiser step draws one.
        loss_on: ``hidden`` patches (paper) or ``all`` observed ones.
        validation_ratio: share hidden in validation, at random.
        decoded_share: share of each window's hidden patches that a training step predicts and scores, drawn anew for
            each window; the decoder leaves out what only other patches need. 1 scores all of them. null: all, and the
            decoder predicts visible patches, too, as in the paper; the loss is that of 1 up to rounding. Tests and
            validation always predict everything.
    """

    ratio: float | tuple[float, float] = 0.75
    strategy: MaskingName | tuple[MaskingName, ...] = "random"
    loss_on: Literal["hidden", "all"] = "hidden"
    validation_ratio: float = 0.75
    decoded_share: float | None = None

    def __post_init__(self) -> None:
        """Refuses ratios that cannot be, before hours of training draw the first of them."""
        ends = (self.ratio,) if isinstance(self.ratio, float | int) else self.ratio
        check_ratios("masking.ratio", ends)
        check_ratios("masking.validation_ratio", (self.validation_ratio,))
        if not self.strategy:
            raise ValueError("masking.strategy is an empty list; expected one strategy or more")
        if self.decoded_share is None:
            return
        given = f"masking.decoded_share is {self.decoded_share}"
        if not 0 < self.decoded_share <= 1:
            raise ValueError(f"{given}; expected a share above 0, up to 1, or null")
        if self.loss_on != "hidden":
            raise ValueError(f"{given} of hidden patches, and masking.loss_on is {self.loss_on}; set one or the other")

    @property
    def strategies(self) -> tuple[MaskingName, ...]:
        """What is drawn from, once for each time that it is named."""
        return (self.strategy,) if isinstance(self.strategy, str) else self.strategy

    def drawn(self, key: int) -> tuple[MaskingName, float]:
        """The strategy and the share hidden of an optimiser step, a function of its key: the same on every rank."""
        first, second = (number / 2**63 for number in counter_noise(torch.tensor([key]), 2)[0].tolist())
        ends = (self.ratio, self.ratio) if isinstance(self.ratio, float | int) else self.ratio
        return self.strategies[int(second * len(self.strategies))], ends[0] + (ends[1] - ends[0]) * first

    def check_hides(self, grid: Grid) -> None:
        """Checks, before training, that each strategy hides anything of a window with all parcels at its highest share.

        Raises:
            ValueError: see `Hiding.check_hides`.
        """
        highest = self.ratio if isinstance(self.ratio, float | int) else self.ratio[1]
        if highest == 0 and self.loss_on == "all":
            return  # on purpose: an autoencoder without masks
        for strategy in self.strategies:
            Hiding(strategy, highest).check_hides(grid)

    def wanted(self, key_B: Tensor, hidden_BPN: Tensor) -> Tensor | None:
        """The patches that a training step decodes and scores, (B, P, N), a function of the keys; None = everything."""
        return None if self.decoded_share is None else draw_share(key_B, hidden_BPN, self.decoded_share)


@dataclass(frozen=True)
class Hiding:
    """One way of hiding that a test scores.

    Attributes:
        strategy: what is hidden together.
        ratio: share hidden.
    """

    strategy: MaskingName
    ratio: float

    @property
    def condition(self) -> str:
        """In names of metrics: `hidden0.75` at random (the paper's), else `parcels0.5`."""
        return f"{'hidden' if self.strategy == 'random' else self.strategy}{self.ratio:g}"

    def named(self, cohort: str, method: str = "") -> MetricName:
        """The name of a method's scores, or of the condition as a whole."""
        return MetricName(cohort, self.condition, method)

    def check_hides(self, grid: Grid) -> None:
        """Checks that it hides anything of a window with all parcels.

        Raises:
            ValueError: it rounds to no token, parcel or network at all, or the atlas has no networks.
        """
        if not draw_mask(self.strategy, torch.zeros(1, dtype=torch.int64), self.ratio, grid).any():
            raise ValueError(
                f"a share of {self.ratio:g} hides nothing of {grid.observed_BP.shape[1]} parcels x {grid.num_patches} "
                f"patches ({self.strategy}): raise it, or leave it out of masking, test_ratios and test_strategies"
            )


def hidings_of(ratios: Sequence[float], strategies: Mapping[MaskingName, Sequence[float]]) -> list[Hiding]:
    """What a test hides, each way once.

    Args:
        ratios: shares hidden at random.
        strategies: further strategies and their shares.

    Raises:
        ValueError: shares are not from 0 to 1 in rising order, or random ones are named twice.
    """
    if "random" in strategies:
        raise ValueError("test_strategies names 'random', whose shares are those of test_ratios")
    given: dict[MaskingName, Sequence[float]] = {"random": ratios, **strategies}
    for name, shares in given.items():
        check_ratios("test_ratios" if name == "random" else f"test_strategies.{name}", shares)
    return [Hiding(name, ratio) for name, shares in given.items() for ratio in shares]


def parcel_networks(networks: list[str]) -> Tensor | None:
    """The parcels' networks as numbers in order of first appearance, (P,) int64; None where the atlas names none.

    A parcel without one has −1: it is hidden with no network.
    """
    names = dict.fromkeys(name for name in networks if name != UNKNOWN_NETWORK)
    if not names:
        return None
    order = {name: number for number, name in enumerate(names)}
    return torch.tensor([order.get(name, -1) for name in networks])
