"""Embeddings of windows, one definition each: from the states of their tokens to a vector.

The mean of the tokens of z-scored series is nearly the same for everybody; what is particular to a person is how
parcels vary together. So the second-order embeddings (`gram` and its kin) take each parcel's states about their own
mean over time, which removes where the parcel lies and leaves what it did.

Shapes: B windows of a batch, P parcels, N patches per parcel, D width, Q networks, E pairs of parcels, F features.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from brainlm_lightning.embedding.extras import Extra, check_extra
from brainlm_lightning.embedding.pairs import (
    below_diagonal,
    check_parcels,
    correlation,
    fisher_z,
    network_means,
    token_correlation,
)
from brainlm_lightning.embedding.states import WindowStates
from brainlm_lightning.model.masked import MaskedModel


class Space(Protocol):
    """Where embeddings of recordings are brought to, among training recordings: a transformer of scikit-learn's."""

    def fit(self, X: NDArray[Any]) -> Self:
        """Learns from the embeddings of training recordings, (n, F)."""
        ...

    def transform(self, X: NDArray[Any]) -> NDArray[Any]:
        """Brings the embeddings of any recordings there."""
        ...


class WindowEmbedding:
    """A vector of each window; a subclass is one definition.

    Attributes:
        needs: what `of` needs beside the states of tokens; see `window_states`.
    """

    needs: ClassVar[tuple[Extra, ...]] = ()

    def of(self, states: WindowStates) -> Tensor:
        """The embedding of each window, (B, F) float32, finite everywhere."""
        raise NotImplementedError

    def space(self) -> Space | None:
        """The space, to be fitted, to which embeddings of recordings are brought; None = they stay as they are."""
        return None


class Cls(WindowEmbedding):
    """The summary token."""

    def of(self, states: WindowStates) -> Tensor:
        """See `WindowEmbedding.of`; F = D."""
        return states.cls_BD


class Mean(WindowEmbedding):
    """The mean over all tokens of observed parcels."""

    def of(self, states: WindowStates) -> Tensor:
        """See `WindowEmbedding.of`; F = D."""
        return moments(states)[0]


class MeanStd(WindowEmbedding):
    """Mean and standard deviation over all tokens of observed parcels: statistics pooling."""

    def of(self, states: WindowStates) -> Tensor:
        """See `WindowEmbedding.of`; F = 2 D."""
        return torch.cat(moments(states), dim=1)


class Parcels(WindowEmbedding):
    """The mean token of every parcel, side by side; 0 for parcels that are not observed."""

    def of(self, states: WindowStates) -> Tensor:
        """See `WindowEmbedding.of`; F = P D."""
        check_parcels(states)
        return states.tokens_BPND.mean(2).flatten(1)


class Gram(WindowEmbedding):
    """Fisher's z of the correlation between parcels of their centred tokens, below the diagonal."""

    def of(self, states: WindowStates) -> Tensor:
        """See `WindowEmbedding.of`; F = E = P (P − 1) / 2."""
        return below_diagonal(fisher_z(token_correlation(states)))


class Covariance(WindowEmbedding):
    """`Gram` as covariance: the correlation of centred tokens, in the tangent space at the mean of training recordings.

    Of windows it is the correlation itself, without Fisher's z: a mean over windows then is a correlation matrix again.
    """

    def of(self, states: WindowStates) -> Tensor:
        """See `WindowEmbedding.of`; F = E; in its space P (P + 1) / 2."""
        return below_diagonal(token_correlation(states))

    def space(self) -> Space:
        """See `WindowEmbedding.space`."""
        from brainlm_lightning.embedding.tangent import TangentSpace  # nilearn takes seconds to import

        space: Space = TangentSpace()
        return space


class NetworkGram(WindowEmbedding):
    """The mean of `Gram` within and between networks.

    Args:
        networks: name of each parcel's network.
        unknown: the name that stands for none; such parcels are left out.
    """

    def __init__(self, networks: Sequence[str], unknown: str) -> None:
        names = [name for name in dict.fromkeys(networks) if name != unknown]
        self.member_QP = torch.tensor([[float(own == name) for own in networks] for name in names])

    def of(self, states: WindowStates) -> Tensor:
        """See `WindowEmbedding.of`; F = Q (Q + 1) / 2."""
        return network_means(self._z(states), self.member_QP, states.observed_BP)

    def _z(self, states: WindowStates) -> Tensor:
        return fisher_z(token_correlation(states))


class NetworkConnectivity(NetworkGram):
    """The mean of `Connectivity` within and between networks."""

    def _z(self, states: WindowStates) -> Tensor:
        return fisher_z(correlation(states.signal_BPT, states.observed_BP))


class Connectivity(WindowEmbedding):
    """Fisher's z of the correlation between parcels of the signal itself: what every embedding stands beside."""

    def of(self, states: WindowStates) -> Tensor:
        """See `WindowEmbedding.of`; F = E."""
        return below_diagonal(fisher_z(correlation(states.signal_BPT, states.observed_BP)))


class CompletedConnectivity(WindowEmbedding):
    """`Connectivity` of the window as the model completes it, each token predicted while it is hidden."""

    needs = ("completed",)

    def of(self, states: WindowStates) -> Tensor:
        """See `WindowEmbedding.of`; F = E."""
        assert states.completed_BPT is not None
        return below_diagonal(fisher_z(correlation(states.completed_BPT, states.observed_BP)))


class Attention(WindowEmbedding):
    """Where CLS looks: its attention to each parcel with nothing hidden, over layers, heads and patches."""

    needs = ("attention",)

    def of(self, states: WindowStates) -> Tensor:
        """See `WindowEmbedding.of`; F = P; 0 for parcels that are not observed."""
        assert states.attention_BP is not None
        return states.attention_BP


class Residual(WindowEmbedding):
    """`Connectivity` of what a model's prior does not explain: the window minus what it expects of hidden tokens."""

    needs = ("expected",)

    def of(self, states: WindowStates) -> Tensor:
        """See `WindowEmbedding.of`; F = E."""
        assert states.expected_BPT is not None
        return below_diagonal(fisher_z(correlation(states.signal_BPT - states.expected_BPT, states.observed_BP)))


def check_model(embeddings: Iterable[WindowEmbedding], model: MaskedModel, parts: int) -> None:
    """Checks that a model can have embeddings, before any work.

    Args:
        embeddings: that are wanted.
        model: that is to have them.
        parts: in how many parts a window's tokens are encoded; see `hidden_parts`.

    Raises:
        ValueError: it lacks what one of them needs.
    """
    for embedding in embeddings:
        for extra in embedding.needs:
            check_extra(extra, model, parts)


def moments(states: WindowStates) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the tokens of observed parcels, each (B, D)."""
    count_B1 = (states.observed_BP.sum(1, keepdim=True) * states.tokens_BPND.shape[2]).clamp(min=1)
    mean_BD = states.tokens_BPND.sum((1, 2)) / count_B1
    apart_BPND = (states.tokens_BPND - mean_BD[:, None, None]) * states.observed_BP[:, :, None, None]
    return mean_BD, (apart_BPND.square().sum((1, 2)) / count_B1).sqrt()


def default_embeddings(networks: Sequence[str], unknown: str) -> Mapping[str, WindowEmbedding]:
    """The embeddings that are taken where none is named; those of networks only where the atlas names some.

    Args:
        networks: name of each parcel's network.
        unknown: the name that stands for none.
    """
    named: dict[str, WindowEmbedding] = {
        "cls": Cls(),
        "mean": Mean(),
        "mean_std": MeanStd(),
        "parcels": Parcels(),
        "gram": Gram(),
        "connectivity": Connectivity(),
        "completed_connectivity": CompletedConnectivity(),
    }
    if set(networks) - {unknown}:
        named["network_gram"] = NetworkGram(networks, unknown)
        named["network_connectivity"] = NetworkConnectivity(networks, unknown)
    return named


def named_embeddings(networks: Sequence[str], unknown: str) -> Mapping[str, WindowEmbedding]:
    """Every embedding by name: the default ones, and those that cost much more or that few models have.

    Args:
        networks: name of each parcel's network.
        unknown: the name that stands for none.
    """
    more = {"covariance": Covariance(), "attention": Attention(), "residual": Residual()}
    return {**default_embeddings(networks, unknown), **more}
