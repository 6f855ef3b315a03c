"""How parcels vary together: correlations of windows' tokens and of their signal.

Shapes: B windows of a batch, P parcels, T frames, F features of a parcel, Q networks, E pairs of parcels.
"""

import torch
from torch import Tensor

from brainlm_lightning.embedding.states import WindowStates

WITHOUT_PARCELS = ("cls", "mean", "mean_std", "connectivity", "network_connectivity")  # need no state of a parcel
LARGEST_CORRELATION = 0.999999  # arctanh(1) is infinite


def check_parcels(states: WindowStates) -> None:
    """Refuses a comparison of parcels where they share tokens.

    Raises:
        ValueError: no token belongs to a single parcel.
    """
    if not states.has_parcels:
        raise ValueError(
            "this model's tokens hold several parcels each, so there is no embedding of a parcel, nor of how parcels "
            f"vary together; use {', '.join(WITHOUT_PARCELS)}"
        )


def token_correlation(states: WindowStates) -> Tensor:
    """Correlation between parcels of their tokens about each parcel's mean over patches, (B, P, P)."""
    check_parcels(states)
    apart_BPND = states.tokens_BPND - states.tokens_BPND.mean(2, keepdim=True)
    return _cosine(apart_BPND.flatten(2), states.observed_BP)


def correlation(signal_BPT: Tensor, observed_BP: Tensor) -> Tensor:
    """Pearson's correlation between parcels over frames, (B, P, P); 0 with parcels that are constant or unobserved."""
    return _cosine(signal_BPT - signal_BPT.mean(2, keepdim=True), observed_BP)


def _cosine(values_BPF: Tensor, observed_BP: Tensor) -> Tensor:
    unit_BPF = torch.nn.functional.normalize(values_BPF, dim=2) * observed_BP[:, :, None]
    return unit_BPF @ unit_BPF.mT


def network_means(z_BPP: Tensor, member_QP: Tensor, observed_BP: Tensor) -> Tensor:
    """Means over observed pairs of different parcels, within and between networks, (B, Q (Q + 1) / 2)."""
    member_BQP = member_QP.to(z_BPP) * observed_BP[:, None]
    pairs_PP = 1 - torch.eye(z_BPP.shape[1]).to(z_BPP)  # a parcel with itself says nothing
    total_BQQ = member_BQP @ (z_BPP * pairs_PP) @ member_BQP.mT
    count_BQQ = member_BQP @ pairs_PP @ member_BQP.mT
    mean_BQQ = total_BQQ / count_BQQ.clamp(min=1)
    row, column = torch.tril_indices(mean_BQQ.shape[1], mean_BQQ.shape[2])
    return mean_BQQ[:, row, column]


def fisher_z(correlation_BPP: Tensor) -> Tensor:
    """Arctanh of correlations."""
    return correlation_BPP.clamp(-LARGEST_CORRELATION, LARGEST_CORRELATION).atanh()


def below_diagonal(matrix_BPP: Tensor) -> Tensor:
    """The entries below the diagonal, (B, E), row by row."""
    row, column = torch.tril_indices(matrix_BPP.shape[1], matrix_BPP.shape[2], offset=-1)
    return matrix_BPP[:, row, column]
