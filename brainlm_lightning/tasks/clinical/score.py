"""How well a phenotype is predicted out of fold: scores with intervals from resampling subjects.

A constant prediction of each fold's training mean is anti-correlated with the truth once folds are pooled (a fold of
old subjects trains on young ones). So Pearson's r and AUC look within folds: r takes out each fold's means, AUC counts
pairs of one fold; a method that knows nothing has r undefined or 0, and AUC exactly 0.5 where it is constant.

Several repeats: every score is computed in each and averaged; a resampled subject brings its predictions of all
repeats. Repeats share subjects: they lessen the noise of the dealing, not that of having few subjects.

Shapes: n predictions (one for each subject and repeat), U subjects, X folds of all repeats, W repeats, A
draws, Q classes, K sums.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brainlm_lightning.evaluation.metrics import mse, r2
from brainlm_lightning.evaluation.names import pair_name
from brainlm_lightning.evaluation.resampling import (
    bootstrap_p,
    percentile_interval,
    subject_bootstrap,
    subject_weights,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Layout:
    """Subject, fold and repeat of each prediction; the same for every method.

    Attributes:
        subject_n: number of the subject, 0 to U − 1.
        fold_n: number of the fold, 0 to X − 1.
        repeat_X: the repeat of each fold.
        paired: a subject has predictions of every class in a repeat, and AUC counts pairs of one subject.
    """

    subject_n: Ints
    fold_n: Ints
    repeat_X: Ints
    paired: bool = False

    @property
    def num_subjects(self) -> int:
        """U."""
        return int(self.subject_n.max()) + 1

    def by_repeat(self, values_X: Floats) -> Floats:
        """Adds up folds, (..., X) to (..., W)."""
        member_XW = (self.repeat_X[:, None] == np.unique(self.repeat_X)).astype(float)
        by_repeat: Floats = values_X @ member_XW
        return by_repeat

    def spread(self, terms_nK: Floats) -> Floats:
        """The predictions' terms as sums of each subject and fold, (U, X, K)."""
        sums = np.zeros((self.num_subjects, len(self.repeat_X), terms_nK.shape[1]))
        np.add.at(sums, (self.subject_n, self.fold_n), terms_nK)
        return sums

    def by_subject(self, values_n: Floats) -> Floats:
        """The mean over repeats, (U,)."""
        counts = np.bincount(self.subject_n, minlength=self.num_subjects)
        return np.bincount(self.subject_n, weights=values_n, minlength=self.num_subjects) / counts


@dataclass(frozen=True)
class Scores:
    """Scores of one method.

    Attributes:
        estimates: by name.
        draws: by name, (A,) of the same draws of subjects for every method.
    """

    estimates: dict[str, float]
    draws: dict[str, Floats]

    def flat(self, num_subjects: int) -> dict[str, float]:
        """``name``, ``name_low`` and ``name_high``, a 95 % interval."""
        found = dict(self.estimates)
        for name, draws in self.draws.items():
            low, high = percentile_interval(draws, num_subjects)
            found |= {f"{name}_low": float(low), f"{name}_high": float(high)}
        return found


# -- numbers ----------------------------------------------------------------------------------------------------------


def regression_scores(
    layout: Layout,
    truth_n: Floats,
    predicted_n: Floats,
    scaled_n: tuple[Floats, Floats],
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Scores:
    """R², Pearson's r, MAE and MSE of a number.

    Args:
        layout: of the predictions.
        truth_n: in the phenotype's own unit.
        predicted_n: likewise.
        scaled_n: truth and prediction on the scale that models are trained on.
        num_resamples: draws of the subjects.
        seed: of the draws.

    Returns:
        ``r2`` (never clipped), ``pearson_r`` within folds, ``mae`` and ``mse`` in own units, ``mse_scaled`` and
        ``r2_scaled``; without draws ``mse_scaled_fold_mean`` and ``_fold_std`` (n − 1), the paper's MSE mean ± std.
    """
    own, scaled = _terms(truth_n, predicted_n), _terms(*scaled_n)
    errors = np.abs(truth_n - predicted_n)[:, None]
    sums_UXK = layout.spread(np.concatenate([own, scaled, errors], axis=1))
    half = own.shape[1]

    def statistic(sums_AXK: Floats) -> Floats:
        pooled_AKW = layout.by_repeat(np.moveaxis(sums_AXK, -1, 1))
        own_AWK, scaled_AWK = (np.moveaxis(part, 1, -1) for part in np.split(pooled_AKW[:, :-1], 2, axis=1))
        mae_AW = pooled_AKW[:, -1] / own_AWK[..., 0]
        r_AW = _within_folds_r(sums_AXK[..., :half], layout)
        scores = [r2(own_AWK), r_AW, mae_AW, mse(own_AWK), mse(scaled_AWK), r2(scaled_AWK)]
        return np.stack([score.mean(-1) for score in scores], axis=-1)

    names = ("r2", "pearson_r", "mae", "mse", "mse_scaled", "r2_scaled")
    found = _with_draws(names, statistic, sums_UXK, num_resamples, seed)
    return _with_folds(found, "mse_scaled", mse(sums_UXK[..., half:-1].sum(0)))


def _terms(truth_n: Floats, predicted_n: Floats) -> Floats:
    """Terms of the sums of `evaluation.metrics`, (n, 6)."""
    columns = [truth_n, truth_n**2, predicted_n, predicted_n**2, truth_n * predicted_n]
    return np.stack([np.ones(len(truth_n)), *columns], axis=1)


def _within_folds_r(sums_AXK: Floats, layout: Layout) -> Floats:
    """Pearson's r with each fold's means taken out, (A, W); NaN where either side is constant in every fold."""
    n, y, yy, p, pp, yp = np.moveaxis(sums_AXK, -1, 0)
    size = np.maximum(n, 1)
    products = (yp - y * p / size, yy - y * y / size, pp - p * p / size)
    rounding = (0.0, 1e-12 * yy, 1e-12 * pp)
    shared, own, predicted = (
        layout.by_repeat(np.where(np.abs(part) > floor, part, 0))
        for part, floor in zip(products, rounding, strict=True)
    )
    defined = (own > 0) & (predicted > 0)
    return np.where(defined, shared, np.nan) / np.sqrt(np.where(defined, own * predicted, 1))


# -- classes ----------------------------------------------------------------------------------------------------------


def class_scores(
    layout: Layout, truth_n: Ints, score_nQ: Floats, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Scores:
    """AUC and balanced accuracy of classes.

    Args:
        layout: of the predictions.
        truth_n: numbers of the classes.
        score_nQ: of each class; the highest is the prediction. For AUC compared within a fold alone.
        num_resamples: draws of the subjects.
        seed: of the draws.

    Returns:
        ``auc``, with two classes that of the second, else the mean over classes of each against the rest; and
        ``balanced_accuracy``, the mean over classes of the share found; without draws ``auc_fold_mean`` and
        ``_fold_std`` (n − 1).
    """
    num_classes = score_nQ.shape[1]
    shown = range(1, 2) if num_classes == 2 else range(num_classes)
    member_nQ = truth_n[:, None] == np.arange(num_classes)
    found_nQ = member_nQ & (score_nQ.argmax(1) == truth_n)[:, None]
    hits_U2WQ = _by_subject_and_repeat(layout, np.stack([member_nQ, found_nQ], axis=1).astype(float))

    def statistic(weight_AU: Floats) -> Floats:
        pairs = [_auc_pairs(layout, score_nQ[:, c], member_nQ[:, c], weight_AU) for c in shown]
        auc_AW = np.mean([layout.by_repeat(won) / _positive(layout.by_repeat(all_)) for won, all_ in pairs], axis=0)
        count, found = np.moveaxis(np.tensordot(weight_AU, hits_U2WQ, axes=1), 1, 0)
        return np.stack([auc_AW.mean(-1), (found / _positive(count)).mean((-1, -2))], axis=-1)

    estimate = statistic(np.ones((1, layout.num_subjects)))[0]
    weights = subject_weights(layout.num_subjects, num_resamples, seed)
    draws = np.concatenate([statistic(weight_AU) for weight_AU in weights])
    names = ("auc", "balanced_accuracy")
    scores = Scores(dict(zip(names, estimate.tolist(), strict=True)), dict(zip(names, draws.T, strict=True)))
    everyone = np.ones((1, layout.num_subjects))
    pairs = [_auc_pairs(layout, score_nQ[:, c], member_nQ[:, c], everyone) for c in shown]
    return _with_folds(scores, "auc", np.mean([(won / _positive(all_))[0] for won, all_ in pairs], axis=0))


def _positive(count: Floats) -> Floats:
    """NaN in place of 0: a class that is missing from a draw has no score."""
    return np.where(count > 0, count, np.nan)


def _by_subject_and_repeat(layout: Layout, terms_n2Q: Floats) -> Floats:
    """(n, 2, Q) to (U, 2, W, Q)."""
    spread_UXK = layout.spread(terms_n2Q.reshape(len(terms_n2Q), -1))
    by_repeat = layout.by_repeat(np.moveaxis(spread_UXK, -1, 1))
    return np.moveaxis(by_repeat.reshape(layout.num_subjects, 2, terms_n2Q.shape[2], -1), 2, 3)


def _auc_pairs(
    layout: Layout, score_n: Floats, positive_n: NDArray[np.bool_], weight_AU: Floats
) -> tuple[Floats, Floats]:
    """Of the pairs of a member and another subject in each fold: how many are in order (ties half), and all; (A, X).

    Of paired classes, the pairs of one subject alone.
    """
    if layout.paired:
        won_UX, pairs_UX = _own_pairs(layout, score_n, positive_n)
        return weight_AU @ won_UX, weight_AU @ pairs_UX
    weight_An = weight_AU[:, layout.subject_n]
    won, pairs = (np.zeros((len(weight_AU), len(layout.repeat_X))) for _ in range(2))
    for fold in range(len(layout.repeat_X)):
        here = np.flatnonzero(layout.fold_n == fold)
        here = here[np.argsort(score_n[here], kind="stable")]
        _, starts = np.unique(score_n[here], return_index=True)
        member, other = (
            np.add.reduceat(np.where(side, weight_An[:, here], 0), starts, axis=1)
            for side in (positive_n[here], ~positive_n[here])
        )
        won[:, fold] = (member * (np.cumsum(other, axis=1) - other / 2)).sum(1)
        pairs[:, fold] = member.sum(1) * other.sum(1)
    return won, pairs


def _own_pairs(layout: Layout, score_n: Floats, positive_n: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Of the pairs of a member and another prediction of the same subject: how many are in order, and all; (U, X)."""
    won, pairs = (np.zeros((layout.num_subjects, len(layout.repeat_X))) for _ in range(2))
    for subject, fold in np.unique(np.stack([layout.subject_n, layout.fold_n], axis=1), axis=0):
        here = (layout.subject_n == subject) & (layout.fold_n == fold)
        apart = score_n[here & positive_n][:, None] - score_n[here & ~positive_n][None]
        won[subject, fold] = (apart > 0).sum() + (apart == 0).sum() / 2
        pairs[subject, fold] = apart.size
    return won, pairs


# -- both -------------------------------------------------------------------------------------------------------------


def _with_draws(
    names: tuple[str, ...], statistic: Callable[[Floats], Floats], sums: Floats, num_resamples: int, seed: int
) -> Scores:
    estimate = statistic(sums.sum(0)[None])[0]
    draws = subject_bootstrap(statistic, sums, num_resamples, seed)
    return Scores(dict(zip(names, estimate.tolist(), strict=True)), dict(zip(names, draws.T, strict=True)))


def _with_folds(scores: Scores, name: str, value_X: Floats) -> Scores:
    """Adds mean and standard deviation over folds, as papers report; no interval, since folds share training data."""
    defined = value_X[~np.isnan(value_X)]
    mean = float(defined.mean()) if len(defined) else float("nan")
    std = float(defined.std(ddof=1)) if len(defined) > 1 else float("nan")
    return Scores(scores.estimates | {f"{name}_fold_mean": mean, f"{name}_fold_std": std}, scores.draws)


def compare_errors(error_U: Mapping[str, Floats], pairs: list[tuple[str, str]], seed: int = 0) -> dict[str, float]:
    """Paired bootstrap tests of the mean squared error: `<a>_minus_<b>/{squared_error, _low, _high, p, ...}`.

    Differences of squared errors are skewed, so a rank test would not test their mean; see `bootstrap_p`.
    """
    found: dict[str, float] = {}
    for a, b in pairs:
        difference_U = error_U[a] - error_U[b]
        num_subjects = len(difference_U)
        draws = subject_bootstrap(np.asarray, difference_U, NUM_RESAMPLES, seed) / num_subjects
        found |= _pair(pair_name(a, b), "squared_error", float(difference_U.mean()), draws, num_subjects)
    return found


def _pair(pair: str, score: str, estimate: float, draws: Floats, num_subjects: int) -> dict[str, float]:
    low, high = percentile_interval(draws, num_subjects)
    return {
        f"{pair}/{score}": estimate,
        f"{pair}/{score}_low": float(low),
        f"{pair}/{score}_high": float(high),
        f"{pair}/p": bootstrap_p(draws),
        f"{pair}/num_subjects": float(num_subjects),
    }


def compare_auc(scores: Mapping[str, Scores], pairs: list[tuple[str, str]], num_subjects: int) -> dict[str, float]:
    """Paired bootstrap tests of AUC: `<a>_minus_<b>/{auc, auc_low, auc_high, p, num_subjects}`; see `bootstrap_p`."""
    found: dict[str, float] = {}
    for a, b in pairs:
        draws = scores[a].draws["auc"] - scores[b].draws["auc"]
        estimate = scores[a].estimates["auc"] - scores[b].estimates["auc"]
        found |= _pair(pair_name(a, b), "auc", estimate, draws[~np.isnan(draws)], num_subjects)
    return found
