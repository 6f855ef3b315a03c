"""Sites' shifts and scales taken out of features by ComBat, fitted on training subjects alone.

Johnson, Li and Rabinovic 2007 (the empirical Bayes estimates); Fortin et al. 2018 (connectivity of fMRI, with
covariates whose effect is kept). Shapes: n recordings, F features, S sites, K columns of covariates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin, clone

from brainlm_lightning.tasks.clinical.folds import Fold

Floats = NDArray[np.float64]

LEAST = 2  # training recordings of a site: a mean and a variance are estimated from them
NEGLIGIBLE = 1e-10  # beside a whole: of a singular value (one-hot columns depend on each other), of what is unexplained
CHANGE, MOST_STEPS = 1e-8, 1000  # at which the estimates of a site count as settled, and the most steps to it


@dataclass(frozen=True)
class Sited:
    """Features with the recordings' sites.

    Attributes:
        values_nF: the features.
        site_n: name of each recording's site.
        kept: covariates, a column each, whose effect on the features stays.
    """

    values_nF: NDArray[np.floating]
    site_n: NDArray[np.str_]
    kept: pd.DataFrame


class ComBat(TransformerMixin, BaseEstimator):
    """Gives the recordings of all sites one mean and one variance, feature by feature, but for what covariates explain.

    A feature of site s is modelled as mean + covariates' effect + scale · (shift_s + √spread_s · noise). Shifts
    and spreads of a site are shrunk towards what they are over all of its features. A feature that site and covariates
    explain entirely, such as one that is the same in all recordings, stays as it is.

    Args:
        encoder: turns the covariates into numbers; fitted here.
    """

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    def fit(self, X: Sited, y: Any = None) -> "ComBat":
        """Learns means, scales, covariates' effects, and every site's shift and spread.

        Raises:
            ValueError: a site has a single recording, or a covariate is the same in all recordings of every site.
        """
        values_nF = np.asarray(X.values_nF, dtype=np.float64)
        self.sites_, place_n, count_S = np.unique(X.site_n, return_inverse=True, return_counts=True)
        if count_S.min() < LEAST:
            raise ValueError(few(str(self.sites_[count_S.argmin()]), int(count_S.min())))
        self.encoder_ = clone(self.encoder).fit(X.kept)
        covariate_nK = self._covariates(X.kept)
        design_nC = np.column_stack([np.eye(len(count_S))[place_n], covariate_nK])
        _check_apart(design_nC, len(count_S), X.kept.columns.astype(str).tolist())
        effect_CF = np.linalg.pinv(design_nC, rcond=NEGLIGIBLE) @ values_nF
        scale_F = np.sqrt(np.square(values_nF - design_nC @ effect_CF).mean(0))
        self.varies_F_ = scale_F > NEGLIGIBLE * np.abs(values_nF).max(0)  # the others stay, and move no prior
        effect_CF, self.scale_F_ = effect_CF[:, self.varies_F_], scale_F[self.varies_F_]
        self.mean_F_ = count_S @ effect_CF[: len(count_S)] / len(values_nF)
        self.effect_KF_ = effect_CF[len(count_S) :]
        standard_nF = (values_nF[:, self.varies_F_] - self._expected(covariate_nK)) / self.scale_F_
        found = [shift_and_spread(standard_nF[place_n == site]) for site in range(len(count_S))]
        self.shift_SF_, self.spread_SF_ = (np.stack(each) for each in zip(*found, strict=True))
        return self

    def transform(self, X: Sited) -> Floats:
        """The features without their sites' shifts and spreads, (n, F).

        Raises:
            ValueError: a site is not among those of the fit.
        """
        unknown = sorted(set(X.site_n.tolist()) - set(self.sites_.tolist()))
        if unknown:
            raise ValueError(absent(unknown[0]))
        place_n = np.searchsorted(self.sites_, X.site_n)
        expected_nF = self._expected(self._covariates(X.kept))
        values_nF = np.array(X.values_nF, dtype=np.float64)
        standard_nF = (values_nF[:, self.varies_F_] - expected_nF) / self.scale_F_
        same_nF = (standard_nF - self.shift_SF_[place_n]) / np.sqrt(self.spread_SF_[place_n])
        values_nF[:, self.varies_F_] = same_nF * self.scale_F_ + expected_nF
        return values_nF

    def _covariates(self, kept: pd.DataFrame) -> Floats:
        return np.asarray(self.encoder_.transform(kept), dtype=np.float64)

    def _expected(self, covariate_nK: Floats) -> Floats:
        """What a recording's features would be on average, were there no sites, (n, F)."""
        expected_nF: Floats = self.mean_F_ + covariate_nK @ self.effect_KF_
        return expected_nF


def shift_and_spread(standard_nF: Floats) -> tuple[Floats, Floats]:
    """A site's shift and spread of each feature, (F,) twice: the modes that Johnson et al. 2007 iterate for.

    Shifts have a normal prior, spreads an inverse gamma one, whose parameters are matched to all features' moments.

    Args:
        standard_nF: the site's features, in units of their pooled scale about what covariates explain.
    """
    number = len(standard_nF)
    sum_F, square_F = standard_nF.sum(0), np.square(standard_nF).sum(0)
    mean_F, own_F = sum_F / number, standard_nF.var(0, ddof=1)
    own_F = np.where(own_F > 0, own_F, 1.0)
    prior_mean, prior_variance = mean_F.mean(), mean_F.var(ddof=1)
    centre, variance = own_F.mean(), own_F.var(ddof=1)
    a, b = centre**2 / variance + 2, centre**3 / variance + centre
    shift_F, spread_F = mean_F, own_F
    for _ in range(MOST_STEPS):
        before = shift_F, spread_F
        shift_F = (number * prior_variance * mean_F + spread_F * prior_mean) / (number * prior_variance + spread_F)
        about_F = square_F - 2 * shift_F * sum_F + number * shift_F**2
        spread_F = (b + about_F / 2) / (number / 2 + a - 1)
        if max(np.abs(shift_F - before[0]).max(), np.abs(spread_F - before[1]).max()) < CHANGE:
            break
    return shift_F, spread_F


def _check_apart(design_nC: Floats, num_sites: int, names: list[str]) -> None:
    """Raises ValueError where sites explain a covariate, whose effect is then not to be told from theirs."""
    covariate_nK = design_nC[:, num_sites:] - design_nC[:, num_sites:].mean(0)
    if np.linalg.matrix_rank(design_nC) < num_sites + np.linalg.matrix_rank(covariate_nK):
        raise ValueError(
            f"the effect of {' and '.join(names)} cannot be told from the sites': one of them follows from the site. "
            "Leave it out of baseline_plan.kept"
        )


def check_sites(table: pd.DataFrame, site: str, folds: Sequence[Fold], paired: bool) -> None:
    """Checks that features can be harmonised in every fold, before any of them is computed.

    Args:
        table: of all recordings.
        site: column of the sites.
        folds: as rows of the table.
        paired: whether features stand about their subject's mean.

    Raises:
        ValueError: there is no such column, or it is empty for a recording; a site tests that does not train, or trains
            with too few recordings; or the question is within subjects.
    """
    if paired:
        raise ValueError("paired classes are told apart within subjects, whose site is the same: leave harmonised_ out")
    if site not in table.columns:
        raise ValueError(f"baseline_plan.site names {site!r}, and the cohort's table has {', '.join(table.columns)}")
    for fold in folds:
        train, test = (table[site].iloc[rows] for rows in (np.concatenate([fold.train, fold.val]), fold.test))
        if train.isna().any() or test.isna().any():
            raise ValueError(f"{site!r} is empty for some recordings, which cannot be harmonised; fill it in")
        counts = train.astype(str).value_counts()
        unknown = sorted(set(test.astype(str)) - set(counts.index))
        if unknown:
            raise ValueError(absent(unknown[0]))
        if counts.min() < LEAST:
            raise ValueError(few(str(counts.idxmin()), int(counts.min())))


def few(site: str, number: int) -> str:
    """What is said of a site with too few recordings."""
    return (
        f"site {site!r} has {number} training recording in a fold; harmonisation estimates a mean and a variance of "
        f"each site from {LEAST} or more. Leave the site or the harmonised features out"
    )


def absent(site: str) -> str:
    """What is said of a site that did not train."""
    return (
        f"site {site!r} has no training recording in the fold where it tests, so nothing is known of its shift: "
        "features are harmonised between sites that train. Leave harmonised features out where folds leave sites out"
    )
