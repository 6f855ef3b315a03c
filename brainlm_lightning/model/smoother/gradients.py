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
        tolerance: root of the mean squared error of an unknown, in the norm of the system, as estimated with the
            preconditioner. The system is the inverse covariance of the unknowns and more, so this bounds the error in
            standard deviations of what is not known before anything is visible, however small the noise is.
        max_iterations: more are an error.
    """

    tolerance: float = 1e-3
    max_iterations: int = 5000


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    right: Tensor,
    inner: Inner,
    accuracy: Accuracy,
    begin: Tensor | None = None,
) -> tuple[Tensor, int]:
    """Solves a symmetric positive system for every window of a batch.

    Args:
        product: the system times a batch, (B, …) of three axes.
        precondition: about the inverse of the system, symmetric and positive, times a batch.
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
    preconditioned = precondition(residual)
    direction, error_B = preconditioned, inner(residual, preconditioned)
    unknowns_B = inner(torch.ones_like(right), torch.ones_like(right))
    for iteration in range(accuracy.max_iterations + 1):
        active_B = error_B > accuracy.tolerance**2 * unknowns_B
        if not active_B.any():
            return solution, iteration
        image = product(direction)
        step_B = (error_B / inner(direction, image)).where(active_B, 0)[:, None, None]
        solution, residual = solution + step_B * direction, residual - step_B * image
        preconditioned = precondition(residual)
        before_B, error_B = error_B, inner(residual, preconditioned)
        direction = preconditioned + (error_B / before_B).where(active_B, 0)[:, None, None] * direction
    reached = float((error_B / unknowns_B)[active_B].max().sqrt())
    raise ArithmeticError(
        f"conjugate gradients reached an error of {reached:.2g} in {accuracy.max_iterations} steps; expected "
        f"{accuracy.tolerance:g}. Raise the nugget, the tolerance or max_iterations"
    )
