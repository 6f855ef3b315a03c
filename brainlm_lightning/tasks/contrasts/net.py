"""In-silico perturbation: what must change in a recording for the model to take it for another?

Parameters θ of a perturbation G(X, θ) are moved by gradient descent until the model's state of the perturbed window is
that of a target window (paper, sections 3.5 and 4.5, algorithm 1). The model itself stays as it is. Every pair of a
batch has a θ of its own and an optimiser state of its own: the batch is for speed alone.

Shapes: B batch of pairs, P parcels, T frames, N patches per parcel, O rank, I steps of the optimiser.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.tasks.contrasts.states import Match, TargetName, parcel_mean

PerturbationName = Literal["additive_parcel_frame", "additive_parcel", "gain_parcel", "low_rank"]

TINY = 1e-20  # a smaller gradient counts as zero: where the states agree, θ stays 0


@dataclass(frozen=True)
class PerturbationPlan:
    """What is perturbed, towards what, and how θ is found.

    Attributes:
        function: G. ``additive_parcel_frame`` adds a number to every value, ``additive_parcel`` one to each parcel,
            ``gain_parcel`` multiplies each parcel by 1 + θ, ``low_rank`` adds ``rank`` time courses, each spread over
            the parcels.
        target: what is matched, see `Match`: ``cls`` (section 4.5), whose content no training moves; ``tokens`` or
            ``decoded_hidden``, which training does; ``decoded``; or ``recording``, as algorithm 1 writes it.
        rank: O of ``low_rank``.
        steps: of `PairwiseAdam`.
        learning_rate: root mean square of its first step, in units of θ (the scaled signal's; of 1 for a gain).
        l1: weight of the mean |θ| beside the distance.
        l2: weight of the mean θ².
    """

    function: PerturbationName = "additive_parcel_frame"
    target: TargetName = "cls"
    rank: int = 4
    steps: int = 100
    learning_rate: float = 0.02
    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        """Validate rank, steps, learning rate and penalties."""
        if min(self.rank, self.steps) < 1 or self.learning_rate <= 0 or min(self.l1, self.l2) < 0:
            raise ValueError(
                f"rank {self.rank} and steps {self.steps} must be at least 1, learning_rate {self.learning_rate} above "
                f"0, l1 {self.l1} and l2 {self.l2} not below 0"
            )


class Additive(nn.Module):
    """X + θ, θ for every parcel and frame, or one for each parcel (``frames`` = 1)."""

    def __init__(self, pairs: int, parcels: int, frames: int) -> None:
        super().__init__()
        self.theta_BPT = nn.Parameter(torch.zeros(pairs, parcels, frames))

    def forward(self, signal_BPT: Tensor) -> Tensor:
        """G(X, θ)."""
        return signal_BPT + self.theta_BPT

    def theta(self) -> Tensor:
        """θ, (B, P, T) or (B, P, 1)."""
        return self.theta_BPT


class Gain(Additive):
    """(1 + θ) X, θ for each parcel."""

    def forward(self, signal_BPT: Tensor) -> Tensor:
        """G(X, θ)."""
        return signal_BPT * (1 + self.theta_BPT)


class LowRank(nn.Module):
    """X + U V: O time courses V, which start at random, with weights U over the parcels, which start at 0."""

    def __init__(self, pairs: int, parcels: int, frames: int, rank: int) -> None:
        super().__init__()
        self.weight_BPO = nn.Parameter(torch.zeros(pairs, parcels, rank))
        course_OT = torch.randn(rank, frames, generator=torch.Generator().manual_seed(0))
        self.course_BOT = nn.Parameter(course_OT.repeat(pairs, 1, 1))  # the same for every pair, in any batch

    def forward(self, signal_BPT: Tensor) -> Tensor:
        """G(X, θ)."""
        return signal_BPT + self.theta()

    def theta(self) -> Tensor:
        """What is added, (B, P, T)."""
        return self.weight_BPO @ self.course_BOT


def make_perturbation(plan: PerturbationPlan, signal_BPT: Tensor) -> Additive | LowRank:
    """A perturbation of these windows at θ = 0, which changes nothing."""
    pairs, parcels, frames = signal_BPT.shape
    kinds: dict[PerturbationName, Callable[[], Additive | LowRank]] = {
        "additive_parcel_frame": lambda: Additive(pairs, parcels, frames),
        "additive_parcel": lambda: Additive(pairs, parcels, 1),
        "gain_parcel": lambda: Gain(pairs, parcels, 1),
        "low_rank": lambda: LowRank(pairs, parcels, frames, plan.rank),
    }
    return kinds[plan.function]().to(signal_BPT.device)


@dataclass(frozen=True)
class Perturbed:
    """What the optimisation of a batch of pairs gives.

    Attributes:
        size_BP: mean |θ| over frames; NaN where either window has no data of the parcel.
        mean_BP: mean θ over frames, with its sign.
        loss_BI: distance plus penalties before each step, and after the last: I = steps + 1.
        before_B: distance to the target's state before: mean squared difference.
        after_B: the same after.
    """

    size_BP: Tensor
    mean_BP: Tensor
    loss_BI: Tensor
    before_B: Tensor
    after_B: Tensor


@torch.enable_grad()
def perturb(
    model: MaskedModel, plan: PerturbationPlan, source_BPT: Tensor, target_BPT: Tensor, observed_BP: Tensor
) -> Perturbed:
    """Finds θ for every pair by `PairwiseAdam` from θ = 0, which changes nothing.

    Args:
        model: in evaluation mode; its parameters get no gradient and do not change.
        plan: G, the target and the optimiser.
        source_BPT: scaled windows to perturb.
        target_BPT: scaled windows to match, pair by pair.
        observed_BP: True where both windows of a pair have data: nothing else is shown to the model.
    """
    match = Match(model, plan.target, target_BPT, observed_BP)
    change = make_perturbation(plan, source_BPT)
    descent = PairwiseAdam(list(change.parameters()), plan.learning_rate)
    losses, distances = [], []
    for step in range(plan.steps + 1):
        distance_B = match.distance(change(source_BPT))
        loss_B = distance_B + _penalty(plan, change.theta(), observed_BP)
        losses.append(loss_B.detach())
        distances.append(distance_B.detach())
        if step < plan.steps:
            # The gradient goes to θ alone; of a sum over pairs, each pair's θ gets its own pair's.
            descent.step(torch.autograd.grad(loss_B.sum(), descent.parameters))
    theta_BPT = change.theta().detach()
    size_BP, mean_BP = (part.mean(2).where(observed_BP, torch.nan) for part in (theta_BPT.abs(), theta_BPT))
    return Perturbed(size_BP, mean_BP, torch.stack(losses, dim=1), distances[0], distances[-1])


class PairwiseAdam:
    """Adam with one step size for all of a pair's θ: the mean square over all its numbers stands for each one's own.

    Plain Adam gives every number the same first step, however little it matters to the distance, so that |θ| says
    little of where a change counts. With a common step size θ stays a combination of gradients, as in gradient descent.

    Args:
        parameters: each with the pairs as its first axis.
        learning_rate: root mean square of the first step.
        betas: decay of the running mean and of the running mean square.
    """

    def __init__(self, parameters: list[Tensor], learning_rate: float, betas: tuple[float, float] = (0.9, 0.999)):
        self.parameters, self.learning_rate, self.betas, self.steps = parameters, learning_rate, betas, 0
        self.mean = [torch.zeros_like(parameter) for parameter in parameters]
        self.square = [torch.zeros_like(parameter[:, :1, :1]) for parameter in parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step down."""
        self.steps += 1
        decay_1, decay_2 = self.betas
        for parameter, gradient, mean, square in zip(self.parameters, gradients, self.mean, self.square, strict=True):
            mean.lerp_(gradient, 1 - decay_1)
            square.lerp_(gradient.square().mean((1, 2), keepdim=True), 1 - decay_2)
            size = (square / (1 - decay_2**self.steps)).sqrt()
            parameter -= self.learning_rate / (1 - decay_1**self.steps) * mean / size.clamp(min=TINY)


def _penalty(plan: PerturbationPlan, theta_BPT: Tensor, observed_BP: Tensor) -> Tensor:
    """L1 and L2 of θ over observed parcels, (B,)."""
    if not (plan.l1 or plan.l2):
        return theta_BPT.new_zeros(len(theta_BPT))
    each_BPT = plan.l1 * theta_BPT.abs() + plan.l2 * theta_BPT.square()
    return parcel_mean(each_BPT.mean(2), observed_BP)
