"""What would it help to know whose window this is?

Whole parcels of a window are hidden. Three Gaussians at one frame say what to expect of them: with the covariance of
the `group` of training subjects; moved, from the window's visible parcels, in the directions in which training subjects
differ (`population`); and moved towards the covariance of the same person's `other` frames. The weights are chosen on
validation subjects, R² is of test subjects: of those who have enough other frames, or another recording.

    BRAINLM_DATA=stores OMP_NUM_THREADS=1 python -m benchmarks.person restpain_mist122 abide_cc400

Shapes: P parcels, T frames of a window, S training subjects, E pairs of parcels, V visible and H hidden parcels.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import save, show
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.evaluation.comparison import compare, with_corrected_p
from brainlm_lightning.evaluation.metrics import r2, scores
from brainlm_lightning.evaluation.tuning import Axis, choose
from brainlm_lightning.experiment import quieten

METHODS = ("group", "population", "other")
SHARES = (0.2, 0.5, 0.75)
GAP, LEAST = 20, 150  # frames between the window and the others, and how many others are needed
RIDGE = 0.05  # share of the mean variance, as for the conditional Gaussian of every test
WEIGHT = Axis("weight", (0.1, 0.3, 0.5), 0.0, 1.0)
PENALTY = Axis("penalty", (10.0, 100.0, 1000.0))
Floats = NDArray[np.float64]
Covariance = Callable[["Person", NDArray[np.intp], float], Floats]


@dataclass(frozen=True)
class Person:
    """A window and all that is known of the same person beside it.

    Attributes:
        subject: name.
        window_PT: scaled.
        other_PP: second moment of the other frames, 0 where a parcel has no data.
        num_other: how many those are.
        used_P: parcels with data in all of the person's recordings.
    """

    subject: str
    window_PT: Floats
    other_PP: Floats
    num_other: int
    used_P: NDArray[np.bool_]


class People:
    """The group's covariance, and how training subjects depart from it.

    Args:
        stretches: scaled frames (P, frames) and parcels with data of the training subjects, by subject.
    """

    def __init__(self, stretches: dict[str, list[tuple[Floats, NDArray[np.bool_]]]]) -> None:
        each = [_moments(own) for own in stretches.values()]
        totals_SPP, counts_SPP = (np.stack(part) for part in zip(*each, strict=True))
        self.group_PP: Floats = totals_SPP.sum(0) / np.maximum(counts_SPP.sum(0), 1)
        self.pairs = np.triu_indices(len(self.group_PP), 1)
        apart_SPP = np.where(counts_SPP > 0, totals_SPP / np.maximum(counts_SPP, 1) - self.group_PP, 0)
        self.apart_SE = apart_SPP[:, *self.pairs].astype(np.float32)

    def group(self, person: Person, visible_V: NDArray[np.intp], _: float) -> Floats:
        """The covariance of the training subjects."""
        return self.group_PP

    def other(self, person: Person, visible_V: NDArray[np.intp], weight: float) -> Floats:
        """Moved towards that of the person's other frames."""
        return (1 - weight) * self.group_PP + weight * person.other_PP

    def population(self, person: Person, visible_V: NDArray[np.intp], penalty: float) -> Floats:
        """Moved by what the window's visible parcels say, in the directions in which training subjects differ.

        The posterior mean of a Gaussian over departures whose covariance is that of the training subjects, each visible
        pair of parcels being measured with noise of variance `penalty`.
        """
        seen_P = np.isin(np.arange(len(self.group_PP)), visible_V)
        seen_E = seen_P[self.pairs[0]] & seen_P[self.pairs[1]]
        own_PP = person.window_PT @ person.window_PT.T / person.window_PT.shape[1]
        seen_SE, own_E = self.apart_SE[:, seen_E], (own_PP - self.group_PP)[self.pairs][seen_E]
        number = len(seen_SE)
        kernel_SS = (seen_SE @ seen_SE.T).astype(np.float64) + penalty * number * np.eye(number)
        moved_PP = np.zeros_like(self.group_PP)
        moved_PP[self.pairs] = np.linalg.solve(kernel_SS, seen_SE @ own_E) @ self.apart_SE
        values, vectors = np.linalg.eigh(self.group_PP + moved_PP + moved_PP.T)
        positive_PP: Floats = (vectors * values.clip(min=0)) @ vectors.T
        return positive_PP


def _moments(stretches: list[tuple[Floats, NDArray[np.bool_]]]) -> tuple[Floats, Floats]:
    """A subject's sums of products of parcels, (P, P), and of how many frames with data of both."""
    totals = [frames @ frames.T for frames, _ in stretches]
    counts = [np.outer(used, used) * float(frames.shape[1]) for frames, used in stretches]
    return np.sum(totals, axis=0), np.sum(counts, axis=0)


def hidden_sums(person: Person, share: float, covariance: Covariance, weight: float) -> Floats:
    """Six sums over a share of the parcels, hidden for the whole window; see `HiddenSums`. The draw is the person's."""
    used = np.flatnonzero(person.used_P)
    draw = np.random.default_rng(sum(person.subject.encode())).permutation(used)
    hidden, visible = np.split(draw, [round(share * len(used))])
    moved_PP = covariance(person, visible, weight)
    seen_VV = moved_PP[np.ix_(visible, visible)]
    ridge_VV = RIDGE * seen_VV.diagonal().mean() * np.eye(len(visible))
    expected = moved_PP[np.ix_(hidden, visible)] @ np.linalg.solve(seen_VV + ridge_VV, person.window_PT[visible])
    y = person.window_PT[hidden]
    return np.array([part.sum() for part in (np.ones_like(y), y, y * y, expected, expected**2, y * expected)])


def people_of(data: CohortDataModule, rows: NDArray[np.intp]) -> dict[str, list[tuple[Floats, NDArray[np.bool_]]]]:
    """Scaled stretches of recordings, with their parcels with data, by subject."""
    found: dict[str, list[tuple[Floats, NDArray[np.bool_]]]] = {}
    for row in rows:
        subject = str(data.recordings.table["subject_id"].iloc[row])
        for frames, used in data.scaled_recordings(np.array([row])):
            found.setdefault(subject, []).append((np.where(used[:, None], frames, 0).astype(np.float64), used))
    return found


def persons_of(data: CohortDataModule, rows: NDArray[np.intp]) -> list[Person]:
    """Those with a window, their first frames, and enough other ones."""
    found, window = [], data.window_frames
    for subject, stretches in people_of(data, rows).items():
        (first, _), others = stretches[0], [frames for frames, _ in stretches[1:]]
        rest = np.concatenate([first[:, window + GAP :], *others], axis=1)
        if first.shape[1] >= window and rest.shape[1] >= LEAST:
            used_P = np.logical_and.reduce([used for _, used in stretches])
            moment_PP = rest @ rest.T / rest.shape[1]
            found.append(Person(subject, first[:, :window], moment_PP, rest.shape[1], used_P))
    return found


def chosen(people: People, to_choose_by: list[Person], share: float, name: str) -> tuple[Covariance, float]:
    """A method, and the weight with the lowest share of variance unexplained on validation subjects."""
    covariance: Covariance = getattr(people, name)
    if name == "group":
        return covariance, 0.0
    axis = WEIGHT if name == "other" else PENALTY

    def error(setting: dict[str, float]) -> float:
        sums = [hidden_sums(person, share, covariance, setting[axis.name]) for person in to_choose_by]
        return 1 - float(r2(np.sum(sums, axis=0)))

    return covariance, choose(error, [axis]).setting[axis.name]


def measured(cohort: str, window: int) -> list[dict[str, Any]]:
    """One row per share and method, and one of the paired tests."""
    data = CohortDataModule(cohorts=cohort, scaling="recording_zscore", window_frames=window, num_workers=0)
    data.setup("test")
    people = People(people_of(data, data.train_rows))
    to_choose_by, tested = (persons_of(data, rows) for rows in (data.val_rows, data.test_sets[0].rows))
    subjects = np.array([person.subject for person in tested])
    found: dict[str, float] = {}
    rows = []
    for share in SHARES:
        sums = {}
        for name in METHODS:
            covariance, weight = chosen(people, to_choose_by, share, name)
            of_each = map(partial(hidden_sums, share=share, covariance=covariance, weight=weight), tested)
            sums[name] = np.stack(list(of_each))[:, None]
            own = {key: value for key, value in scores(sums[name], subjects).items() if key.startswith("r2_pooled")}
            rows.append({"cohort": cohort, "share": share, "method": name, "weight": weight, "persons": len(tested),
                         "other_frames": float(np.mean([person.num_other for person in tested]))} | own)  # fmt: skip
            print(rows[-1], flush=True)
        for name in ("population", "other"):
            pair = compare({key: sums[key] for key in (name, "group")}, subjects, name)
            found |= {f"{cohort}/{share}/{key}": value for key, value in pair.items()}
    tests = {key: value for key, value in with_corrected_p(found).items() if not key.endswith("num_subjects")}
    return [*rows, {"cohort": cohort, "tests": tests}]


def main() -> None:
    """Measures, shows and saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cohorts", nargs="+")
    parser.add_argument("--window", type=int, default=200, help="frames")
    given = parser.parse_args()
    quieten()
    rows = [row for cohort in given.cohorts for row in measured(cohort, given.window)]
    for cohort in given.cohorts:
        of_cohort = [row for row in rows if row["cohort"] == cohort and "method" in row]
        shown = [
            {"method": name}
            | {
                f"{row['share']:.0%} of parcels": f"{row['r2_pooled']:.3f} "
                f"[{row['r2_pooled_low']:.3f}, {row['r2_pooled_high']:.3f}]"
                for row in of_cohort
                if row["method"] == name
            }
            for name in METHODS
        ]
        show(f"R² of hidden parcels, {cohort}, {of_cohort[0]['persons']} persons", shown)
    save(f"person_{given.window}", {"window_frames": given.window, "rows": rows})


if __name__ == "__main__":
    main()
