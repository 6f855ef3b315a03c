"""The Gaussian of a group, moved towards a window: its covariance of parcels by steps of EM from what is visible.

    C ← (1 - m) C_group + m EM(C)

m = 1 would be EM itself, 0 the group. From a parcel of which a window shows nothing, no covariance can be learnt: what
EM expects of it follows from the visible parcels by the group's regression.

Shapes: B windows of a batch, P parcels, T frames.
"""

from torch import Tensor

from brainlm_lightning.model.smoother.gradients import Accuracy
from brainlm_lightning.model.smoother.kronecker import KroneckerGaussian, posterior

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
    near_BPT = None
    for _ in range(STEPS):
        found = posterior(model, centred_BPT, visible_BPT, accuracy, near_BPT)
        near_BPT = found.values_BPT
        model = model.with_parcels((1 - mixing) * group_PP + mixing * found.parcels_BPP())
    assert near_BPT is not None
    return model, near_BPT
