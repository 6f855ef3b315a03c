"""Which network does a parcel belong to? Its k nearest parcels vote; k and metric are the training parcels' choice.

The same as scikit-learn's `GridSearchCV(KNeighborsClassifier(), {"metric", "n_neighbors"}, cv=StratifiedKFold)` fitted
anew for each division, but distances are computed and sorted once for each recording and metric (paper, section 4.6).

Shapes: P parcels, F features, n parcels asked about, k neighbours, Q networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

Floats = NDArray[np.floating]
Ints = NDArray[np.intp]

METRICS = ("euclidean", "cosine", "correlation")
ROUNDING = 1e-12  # a share of a sum of squares that says nothing
UNKNOWN = -1  # the network of a parcel whose label may not be looked at


@dataclass(frozen=True)
class NeighbourPlan:
    """How parcels are divided and what may be chosen.

    Attributes:
        ks: numbers of neighbours to choose from.
        metrics: distances to choose from, of `METRICS`.
        test_share: share of the parcels that test (paper: 0.2), the same share of each network.
        repeats: divisions of each recording.
        folds: of the training parcels, in which k and metric are chosen by accuracy.
    """

    ks: tuple[int, ...] = (1, 3, 5, 7, 10, 15, 20)
    metrics: tuple[str, ...] = METRICS
    test_share: float = 0.2
    repeats: int = 10
    folds: int = 3

    def __post_init__(self) -> None:
        """Validate the neighbours, metrics, shares and counts."""
        if not self.ks or min(self.ks) < 1 or list(self.ks) != sorted(self.ks):
            raise ValueError(f"neighbours.ks is {self.ks}; expected numbers of neighbours in rising order, from 1")
        if not self.metrics or set(self.metrics) - set(METRICS):
            raise ValueError(f"neighbours.metrics is {self.metrics}; expected some of {METRICS}")
        if not 0 < self.test_share < 1 or self.repeats < 1 or self.folds < 2:
            raise ValueError(
                f"neighbours has test_share {self.test_share}, repeats {self.repeats} and folds {self.folds}; expected "
                "a share between 0 and 1, at least 1 repeat and at least 2 folds"
            )

    @property
    def fewest(self) -> int:
        """Parcels that each network must have: one to test and one for each fold of the training."""
        return max(self.folds + 1, int(np.ceil(1 / self.test_share)))


def divisions(labels_P: Ints, plan: NeighbourPlan, seed: int) -> list[tuple[Ints, Ints]]:
    """Training and test parcels of each repeat, stratified by network."""
    splitter = StratifiedShuffleSplit(plan.repeats, test_size=plan.test_share, random_state=seed)
    return list(splitter.split(labels_P, labels_P))


def distances(features_PF: Floats, metric: str) -> Floats:
    """Distance of every two parcels, (P, P) float64.

    Args:
        features_PF: a row for each parcel.
        metric: ``euclidean``; ``cosine``, 1 − cos of the angle; ``correlation``, 1 − Pearson's r.
    """
    x_PF = np.asarray(features_PF, dtype=np.float64)
    return _from_sums(metric, x_PF.shape[1], *_sums(x_PF))


def pair_distances(values_PP: Floats, metric: str) -> Floats:
    """Distance of the rows of every two parcels without the two's own columns, (P, P) float64.

    Row p of connectivity or attention says how p stands to each parcel. What p has to itself is not a relation (a
    correlation of 1), and what p has to q would be compared with what q has to itself. So p and q are compared by how
    they stand to all the others.

    Args:
        values_PP: row p, column q: how p stands to q.
        metric: see `distances`.
    """
    x_PP = np.asarray(values_PP, dtype=np.float64)
    own_P = x_PP.diagonal()
    inner, total, total_other, squares, squares_other = _sums(x_PP)
    # columns p and q of row p (`one`) and of row q (`other`), for every pair
    one = (own_P[:, None], x_PP)
    other = (x_PP.T, own_P[None, :])
    for a, b in zip(one, other, strict=True):
        inner, total, total_other = inner - a * b, total - a, total_other - b
        squares, squares_other = squares - a * a, squares_other - b * b
    return _from_sums(metric, x_PP.shape[1] - 2, inner, total, total_other, squares, squares_other)


def _sums(x_PF: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Σ x_p x_q, Σ x_p, Σ x_q, Σ x_p², Σ x_q² of every two rows, each broadcasting to (P, P)."""
    total_P, squares_P = x_PF.sum(1), (x_PF**2).sum(1)
    return x_PF @ x_PF.T, total_P[:, None], total_P[None, :], squares_P[:, None], squares_P[None, :]


def _from_sums(
    metric: str, n: int, inner: Floats, total: Floats, total_other: Floats, squares: Floats, squares_other: Floats
) -> Floats:
    """A distance from sums over n features; infinite where it is undefined (a row of zeros, or a constant one)."""
    if metric == "euclidean":
        return np.sqrt(np.maximum(squares + squares_other - 2 * inner, 0))
    if metric == "correlation":
        inner = inner - total * total_other / n
        squares, squares_other = _about_mean(n, total, squares), _about_mean(n, total_other, squares_other)
    scale = np.sqrt(np.maximum(squares, 0) * np.maximum(squares_other, 0))
    defined = scale > 0
    return np.where(defined, 1 - inner / np.where(defined, scale, 1), np.inf)


def _about_mean(n: int, total: Floats, squares: Floats) -> Floats:
    """Sum of squares about the mean; 0 where that is rounding."""
    spread = squares - total**2 / n
    return np.where(spread > ROUNDING * squares, spread, 0)


def ranked(distances_PP: Floats) -> Ints:
    """Every parcel's parcels from the nearest to the farthest, (P, P)."""
    return np.argsort(distances_PP, axis=1, kind="stable")


def vote(order_PP: Ints, known_P: Ints, rows_n: Ints, ks: tuple[int, ...]) -> Ints:
    """The most frequent network among the k nearest parcels of known network, for each k, (numbers of neighbours, R).

    Of networks with as many votes the first wins, as in scikit-learn.

    Args:
        order_PP: see `ranked`.
        known_P: network of each parcel, from 0, or `UNKNOWN`: that one does not vote.
        rows_n: the parcels to classify, of unknown network themselves.
        ks: numbers of neighbours, rising; none above the number of known parcels.
    """
    order_nP = order_PP[rows_n]
    votes_nP = known_P[order_nP] != UNKNOWN
    nearest_nP = votes_nP & (votes_nP.cumsum(1) <= ks[-1])
    labels_nk = known_P[order_nP[nearest_nP].reshape(len(rows_n), ks[-1])]
    counts_nkQ = np.eye(known_P.max() + 1, dtype=np.int32)[labels_nk].cumsum(1)
    winners: Ints = counts_nkQ[:, np.array(ks) - 1].argmax(-1).T
    return winners


def classify(
    orders: Mapping[str, Ints], known_P: Ints, test: Ints, plan: NeighbourPlan, seed: int
) -> tuple[Ints, tuple[str, int]]:
    """Networks of the test parcels, and the metric and k that the training parcels chose.

    Args:
        orders: metric -> (P, P), see `ranked`.
        known_P: network of each training parcel, `UNKNOWN` for all others.
        test: parcels to classify.
        plan: what may be chosen.
        seed: of the folds.
    """
    train = np.flatnonzero(known_P != UNKNOWN)
    folds = StratifiedKFold(plan.folds, shuffle=True, random_state=seed)
    inner = [(train[fit], train[held]) for fit, held in folds.split(train, known_P[train])]
    ks = tuple(k for k in plan.ks if k <= min(len(fit) for fit, _ in inner)) or (1,)
    scores = {metric: _inner_accuracy(order_PP, known_P, inner, ks) for metric, order_PP in orders.items()}
    metric = max(scores, key=lambda name: scores[name].max())  # the first of equals, as in GridSearchCV
    k = ks[int(scores[metric].argmax())]
    return vote(orders[metric], known_P, test, (k,))[0], (metric, k)


def _inner_accuracy(order_PP: Ints, known_P: Ints, inner: list[tuple[Ints, Ints]], ks: tuple[int, ...]) -> Floats:
    """Mean over folds of the accuracy of each k."""
    accuracy = []
    for fit, held in inner:
        fitted_P = np.full_like(known_P, UNKNOWN)
        fitted_P[fit] = known_P[fit]
        accuracy.append((vote(order_PP, fitted_P, held, ks) == known_P[held]).mean(1))
    mean: Floats = np.mean(accuracy, axis=0).round(9)  # equal accuracies are equal in whatever order they were added
    return mean


def most_frequent(known_P: Ints, test: Ints) -> Ints:
    """The most frequent network of the training parcels, for every test parcel: the majority-class baseline."""
    return np.full(len(test), np.bincount(known_P[known_P != UNKNOWN]).argmax())
