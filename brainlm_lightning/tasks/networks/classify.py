"""Classifies the parcels of one recording into networks by several methods, on the same divisions.

Shapes: P parcels, p observed ones, n labelled ones, F features, Q networks, R recordings, M metrics.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from brainlm_lightning.tasks.networks.neighbours import (
    UNKNOWN,
    Ints,
    NeighbourPlan,
    classify,
    distances,
    divisions,
    most_frequent,
    pair_distances,
    ranked,
)

Floats = NDArray[np.floating]

CHANCE = "most_frequent"  # majority-class baseline
YEO7 = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default")  # the usual order (Yeo et al. 2011)


@dataclass(frozen=True)
class Networks:
    """The networks of an atlas.

    Attributes:
        names: (Q,) in Yeo's order if they are Yeo's seven, else sorted.
        number_P: number of each parcel's network, from 0; `UNKNOWN` for parcels without one.
    """

    names: tuple[str, ...]
    number_P: Ints

    @classmethod
    def of(cls, atlas: str, network_P: Sequence[str], none: str, plan: NeighbourPlan) -> "Networks":
        """Numbers the networks of an atlas.

        Args:
            atlas: its name, for the message.
            network_P: name of each parcel's network.
            none: label of parcels without a network.
            plan: of the divisions; says how many parcels each network needs.

        Raises:
            ValueError: there are fewer than two networks, or one has too few parcels.
        """
        found = {str(name) for name in network_P} - {none}
        if len(found) < 2:
            raise ValueError(
                f"atlas {atlas!r} names {len(found)} networks, expected at least 2; give the manifest's atlas a table "
                "with a network column (`network: yeo7`) and prepare the cohort again"
            )
        names = tuple(YEO7 if found == set(YEO7) else sorted(found))
        number_P = np.array([names.index(name) if name in found else UNKNOWN for name in network_P])
        counts = dict(zip(names, np.bincount(number_P[number_P >= 0]).tolist(), strict=True))
        small = {name: count for name, count in counts.items() if count < plan.fewest}
        if small:
            raise ValueError(
                f"networks of atlas {atlas!r} are too small to divide: {small} parcels, expected at least "
                f"{plan.fewest} of each for one to test and one a fold; lower neighbours.folds or use a finer atlas"
            )
        return cls(names, number_P)


@dataclass(frozen=True)
class Votes:
    """One method's classification of one recording, over all divisions.

    Attributes:
        votes_PQ: how often a tested parcel was assigned to each network.
        choices: metric and k of each division.
    """

    votes_PQ: Ints
    choices: tuple[tuple[str, int], ...] = ()


def classify_recording(
    features: Mapping[str, Floats],
    relational: Collection[str],
    observed_P: NDArray[np.bool_],
    networks: Networks,
    plan: NeighbourPlan,
    seed: int,
) -> dict[str, Votes] | None:
    """Classifies the test parcels of every division by every method, and by `CHANCE`.

    Args:
        features: method -> a row for each parcel, (P, F).
        relational: methods whose feature f is the relation to parcel f, compared by `pair_distances`.
        observed_P: False for parcels without data, which play no part.
        networks: of the atlas.
        plan: of the divisions.
        seed: of the divisions and folds.

    Returns:
        None where the observed parcels of a network are too few to divide.
    """
    labelled_P = observed_P & (networks.number_P != UNKNOWN)
    label_n = networks.number_P[labelled_P]
    if np.bincount(label_n, minlength=len(networks.names)).min() < plan.fewest:
        return None
    orders = {
        name: _orders(values_PF[observed_P], labelled_P[observed_P], name in relational, observed_P, plan)
        for name, values_PF in features.items()
    }
    parcel_n = np.flatnonzero(labelled_P)
    votes = {name: np.zeros((len(observed_P), len(networks.names)), np.int64) for name in (*features, CHANCE)}
    choices: dict[str, list[tuple[str, int]]] = {name: [] for name in votes}
    for number, (train, test) in enumerate(divisions(label_n, plan, seed)):
        known_n = np.full_like(label_n, UNKNOWN)
        known_n[train] = label_n[train]
        for name, order in orders.items():
            network, choice = classify(order, known_n, test, plan, seed + number)
            votes[name][parcel_n[test], network] += 1
            choices[name].append(choice)
        votes[CHANCE][parcel_n[test], most_frequent(known_n, test)] += 1
    return {name: Votes(votes[name], tuple(choices[name])) for name in votes}


def _orders(
    values_pF: Floats,
    labelled_p: NDArray[np.bool_],
    relational: bool,
    observed_P: NDArray[np.bool_],
    plan: NeighbourPlan,
) -> dict[str, Ints]:
    """Metric -> each labelled parcel's labelled parcels from near to far."""
    if relational:
        values_pp = values_pF[:, observed_P]
        found = {metric: pair_distances(values_pp, metric)[labelled_p][:, labelled_p] for metric in plan.metrics}
    else:
        found = {metric: distances(values_pF[labelled_p], metric) for metric in plan.metrics}
    return {metric: ranked(distances_nn) for metric, distances_nn in found.items()}


@dataclass
class Tally:
    """The classifications of all recordings of a cohort.

    Attributes:
        networks: of the atlas.
        rows: the recordings that were classified, in order.
        left_out: how many were not, because too few parcels were observed.
        confusions: method -> (Q, Q) counts of each recording, true network in rows.
        votes_PQ: method -> counts over all recordings.
        choices: method -> metric and k of every division of every recording.
    """

    networks: Networks
    rows: list[int] = field(default_factory=list)
    left_out: int = 0
    confusions: dict[str, list[Ints]] = field(default_factory=dict)
    votes_PQ: dict[str, Ints] = field(default_factory=dict)
    choices: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    def add(self, row: int, found: Mapping[str, Votes] | None) -> None:
        """Adds a recording."""
        if found is None:
            self.left_out += 1
            return
        self.rows.append(row)
        known_P, count = self.networks.number_P, len(self.networks.names)
        for name, votes_of in found.items():
            confusion_QQ = np.zeros((count, count), np.int64)
            np.add.at(confusion_QQ, known_P[known_P >= 0], votes_of.votes_PQ[known_P >= 0])
            self.confusions.setdefault(name, []).append(confusion_QQ)
            self.votes_PQ[name] = self.votes_PQ.get(name, 0) + votes_of.votes_PQ
            self.choices.setdefault(name, []).extend(votes_of.choices)

    def chosen(self, name: str, metrics: Iterable[str], ks: Iterable[int]) -> Ints:
        """How often each metric and number of neighbours was chosen, (metrics, numbers)."""
        given = self.choices[name]
        return np.array([[given.count((metric, k)) for k in ks] for metric in metrics])
