"""The Gaussian of a group, moved towards a window: its covariance of parcels by steps of EM from what is visible.

    C ← (1 - m) C_group + m EM(C)

m = 1 would be EM itself, 0 the group. From a parcel of which a window shows nothing, no covariance can be learnt; what
EM expects of it follows from the visible parcels by the group's regression, and is taken from that exactly.

Shapes: B windows of a batch, P parcels, T frames.
"""

import torch
from torch import Tensor

from brainlm_lightning.model.smoother.gradients import Accuracy
from brainlm_lightning.model.smoother.kronecker import KroneckerGaussian, expected_parcels, posterior

STEPS = 2


def adapted(
    model: KroneckerGaussian, centred_BPT: Tensor, visible_BPT: Tensor, mixing: float, accuracy: Accuracy
) -> tuple[KroneckerGaussian, Tensor]:
    """The Gaussian whose covariance of parcels is each window's, (B, P, P), and what it will expect, nearly, (B, P, T).

    That is what the last but one expects. A solution that begins there takes half the steps.

    Args:
        model: of the group.
        centred_BPT: about the mean; what is not visible may be anything.
        visible_BPT: bool.
        mixing: m, 0 to 1.
        accuracy: of the conjugate gradients.

    Raises:
        ArithmeticError: the conjugate gradients did not converge.
    """
    group_PP = model.parcels.covariance
    seen_BP = visible_BPT.any(2)
    near_BPT = None
    for _ in range(STEPS):
        found = posterior(model, centred_BPT, visible_BPT, accuracy, near_BPT)
        near_BPT = model.values(found.white_BPZ)
        own_BPP = expected_parcels(model, found, visible_BPT)
        model = model.with_parcels(_with_unseen((1 - mixing) * group_PP + mixing * own_BPP, group_PP, seen_BP))
    assert near_BPT is not None
    return model, near_BPT


def _with_unseen(covariance_BPP: Tensor, group_PP: Tensor, seen_BP: Tensor) -> Tensor:
    """Replaces rows and columns of parcels that a window never shows by the group's regression on those it shows."""
    complete = [
        covariance_PP if bool(seen_P.all()) else _extended(covariance_PP, group_PP, seen_P)
        for covariance_PP, seen_P in zip(covariance_BPP, seen_BP, strict=True)
    ]
    return torch.stack(complete)


def _extended(covariance_PP: Tensor, group_PP: Tensor, seen_P: Tensor) -> Tensor:
    """The covariance (P, P) whose unseen rows are the group's regression on the seen ones.

    With H the group's, s seen, u unseen and G = H_us H_ss^{-1}: C_us = G C_ss, C_uu = H_uu - G (H_ss - C_ss) G'.
    """
    seen, unseen = seen_P.nonzero()[:, 0], (~seen_P).nonzero()[:, 0]
    own_SS, group_SS = covariance_PP[seen][:, seen], group_PP[seen][:, seen]
    regression_US = torch.cholesky_solve(group_PP[seen][:, unseen], torch.linalg.cholesky(group_SS)).mT
    cross_US = regression_US @ own_SS
    extended_PP = covariance_PP.clone()
    extended_PP[unseen[:, None], seen] = cross_US
    extended_PP[seen[:, None], unseen] = cross_US.mT
    own_UU = group_PP[unseen][:, unseen] - regression_US @ (group_SS - own_SS) @ regression_US.mT
    extended_PP[unseen[:, None], unseen] = own_UU
    return extended_PP
