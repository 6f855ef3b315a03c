"""Vector fields that are learnt, and their integration, which stops where it fails.

Shapes: B batch, D width of the state, H horizon frames.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

FIXED_STEP = ("euler", "midpoint", "rk4")


@dataclass(frozen=True)
class SolverConfig:
    """How an ordinary differential equation is solved.

    Attributes:
        method: ``dopri5``, which chooses its steps, or one that steps from frame to frame.
        rtol: relative error of a step of ``dopri5``.
        atol: absolute error of it.
        adjoint: True = gradients by solving backwards, in memory that does not grow with the steps, at twice the time.
        max_steps: of ``dopri5`` between two frames; more is a failure.
    """

    method: Literal["dopri5", "rk4", "midpoint", "euler"] = "dopri5"
    rtol: float = 1e-3
    atol: float = 1e-4
    adjoint: bool = False
    max_steps: int = 1000


class VectorField(nn.Module):
    """dx/dt of a state by a perceptron of one hidden layer: 0 at the start, so that the first forecast is a constant.

    tanh keeps it bounded, so that an untrained field cannot run away.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, time: Tensor, state_BD: Tensor) -> Tensor:
        """The change of the state in one unit of time."""
        change_BD: Tensor = self.outer(torch.tanh(self.inner(state_BD)))
        return change_BD


def integrate(field: nn.Module, start_BD: Tensor, num_frames: int, solver: SolverConfig) -> Tensor:
    """Follows a field through the next frames, (H, B, D); time is 1 at the last, so that rates are of order one.

    Raises:
        ArithmeticError: the solver's step underflows, it takes too many, or a value is not finite; says which.
    """
    times = torch.linspace(0, 1, num_frames + 1, dtype=torch.float32, device=start_BD.device)
    options = {} if solver.method in FIXED_STEP else {"max_num_steps": solver.max_steps}
    solve = odeint_adjoint if solver.adjoint else odeint
    with torch.autocast(start_BD.device.type, enabled=False):  # a solver in half precision chokes on its own rounding
        try:
            states: Tensor = solve(
                field, start_BD, times, rtol=solver.rtol, atol=solver.atol, method=solver.method, options=options
            )
        except AssertionError as error:  # so torchdiffeq says that it cannot go on
            raise ArithmeticError(f"{solver.method} stopped: {str(error)[:100]}") from error
    if not bool(states.isfinite().all()):
        raise ArithmeticError(f"{solver.method} gave values that are not finite")
    return states[1:]


def full_precision(values: Tensor) -> Tensor:
    """Values in half precision as float32, others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
