"""What linear forecasts share: sums over training windows, and a choice on validation windows.

They are least-squares predictors of every horizon frame from the last ``order`` frames directly (not one step fed
back), which is the best that a linear map can do for the score at hand and cannot run away. Order and ridge are those
with the lowest squared error on the validation subjects.

Shapes: B windows of a batch, P parcels, C frames of the context, H of the horizon.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from brainlm_lightning.evaluation.tuning import Axis, Setting, choose
from brainlm_lightning.tasks.compare import Numbers
from brainlm_lightning.tasks.forecast.methods import ForecastLearning, ForecastMethod, Past
from brainlm_lightning.tasks.forecast.net import ForecastWindow

LEAST_RIDGE = 1e-12  # a grid grows no further down: sums of float64 products are not exact enough for less


@dataclass(frozen=True)
class Choice:
    """One setting of a linear predictor: its coefficients are those of the last ``order`` frames, latest first."""

    order: int
    ridge: float
    coefficients: Tensor


class LinearForecast(ForecastMethod):
    """What AR and VAR share: sums of products over training windows, and a choice on validation windows.

    A band-passed signal needs long filters and next to no ridge (ABIDE: 160 frames, 1e-6 and below), so all is float64,
    and a grid whose best value is its first or last grows (`tuning.choose`).

    Args:
        orders: numbers of last frames to choose from; those beyond the context are left out.
        ridges: added to the diagonal of the features' covariance, as shares of its mean, to choose from.
    """

    def __init__(self, orders: Sequence[int], ridges: Sequence[float]) -> None:
        if min(orders) < 1 or min(ridges) < 0:
            raise ValueError(f"orders {tuple(orders)} must be 1 or more and ridges {tuple(ridges)} 0 or more")
        self.orders, self.ridges = sorted(orders), sorted(ridges)
        self.choice: Choice | None = None

    def fit(self, learning: ForecastLearning) -> Numbers:
        """Learns from training windows, and keeps the order and ridge that err least on validation windows.

        Returns:
            ``order``, ``ridge``, and ``at_edge``: 1 where one of them is at the end of its grid, however far that grew.
        """
        highest, context_frames = self._learn(learning)
        self.orders = [order for order in self.orders if order <= highest]
        if not self.orders:
            raise ValueError(
                f"none of the orders can be fitted to a context of {context_frames} frames: the highest is {highest}; "
                "name lower ones, or raise max_features"
            )
        order = Axis("order", self.orders, 1, highest, whole=True)
        ridge = Axis("ridge", self.ridges, min(LEAST_RIDGE, self.ridges[0]))
        # A short filter with much ridge and a long one with little are two valleys.
        chosen = choose(lambda setting: self._error(setting, learning.validation), [order, ridge], try_all=True)
        self.choice = self._solve(chosen.setting)
        numbers = chosen.numbers()
        if self.choice.order == highest < context_frames:  # a higher one may be better, and cannot be afforded
            numbers["at_edge"] = 1.0
        return numbers

    def forecast(self, past: Past) -> Tensor:
        """See `ForecastMethod.forecast`."""
        return self.extrapolate(past.context_BPC)

    def extrapolate(self, context_BPC: Tensor) -> Tensor:
        """The linear map of the last frames of a context."""
        raise NotImplementedError

    def _error(self, setting: Setting, validation: Sequence[ForecastWindow]) -> float:
        """Sum of squared errors over the observed parcels of windows."""
        self.choice = self._solve(setting)
        return sum(self._squared_error(window) for window in validation)

    def _squared_error(self, window: ForecastWindow) -> float:
        error_BPH = self.extrapolate(window.context_BPC).double() - window.future_BPH
        return float(error_BPH.square().where(window.observed_BP[:, :, None], 0).sum())

    def _learn(self, learning: ForecastLearning) -> tuple[int, int]:
        """Adds up what `_solve` needs; returns the highest order that it can solve for, and frames of the context."""
        raise NotImplementedError

    def _solve(self, setting: Setting) -> Choice:
        raise NotImplementedError
