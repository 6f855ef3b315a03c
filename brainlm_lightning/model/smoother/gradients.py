"""Preconditioned conjugate gradients for whole batches of windows, whatever their unknowns are."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Inner = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Accuracy:
    """When the conjugate gradients end.

    Attributes:
        tolerance: of the error of the solution, relative to the solution, in the norm of the system; as estimated with
            the preconditioner.
        max_iterations: more are an error.
    """

    tolerance: float = 1e-5
    max_iterations: int = 5000


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    inverse: Tensor,
    right: Tensor,
    inner: Inner,
    accuracy: Accuracy,
    begin: Tensor | None = None,
) -> tuple[Tensor, int]:
    """Solves a symmetric positive system for every window of a batch.

    Args:
        product: the system times a batch, (B, …) of three axes.
        inverse: the preconditioner, element by element.
        right: the right-hand side.
        inner: inner products in which the system is symmetric, (B,).
        accuracy: when it ends.
        begin: what the solution may be near; None = 0.

    Returns:
        The solution, and the steps that it took.

    Raises:
        ArithmeticError: the tolerance was not reached.
    """
    solution, residual = (torch.zeros_like(right), right) if begin is None else (begin, right - product(begin))
    preconditioned = inverse * residual
    direction, error_B = preconditioned, inner(residual, preconditioned)
    for iteration in range(accuracy.max_iterations + 1):
        active_B = error_B > accuracy.tolerance**2 * inner(solution, right)
        if not active_B.any():
            return solution, iteration
        image = product(direction)
        step_B = (error_B / inner(direction, image)).where(active_B, 0)[:, None, None]
        solution, residual = solution + step_B * direction, residual - step_B * image
        preconditioned = inverse * residual
        before_B, error_B = error_B, inner(residual, preconditioned)
        direction = preconditioned + (error_B / before_B).where(active_B, 0)[:, None, None] * direction
    reached = float((error_B / inner(solution, right))[active_B].max().sqrt())
    raise ArithmeticError(
        f"conjugate gradients reached a relative error of {reached:.2g} in {accuracy.max_iterations} steps; expected "
        f"{accuracy.tolerance:g}. Raise the nugget, the tolerance or max_iterations"
    )
