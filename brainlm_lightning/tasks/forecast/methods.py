"""Methods that forecast: networks, and baselines: zero, persistence, and linear maps of the last frames.

The linear ones are least-squares predictors of every horizon frame from the last ``order`` frames directly (not one
step fed back), which is the best that a linear map can do for the score at hand and cannot run away. They are fitted
on the training subjects; order and ridge are those with the lowest squared error on the validation subjects.

Shapes: B batch, P parcels, C context frames, H horizon frames, O origins, F features, K kept lags.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brainlm_lightning.simulation.optimum import Optimum
from brainlm_lightning.tasks.compare import Method, Numbers
from brainlm_lightning.tasks.forecast.net import Forecaster, ForecastWindow


@dataclass(frozen=True)
class Past:
    """What a method may look at.

    Attributes:
        context_BPC: of each window, on the scale of the forecast; 0 where unobserved.
        observed_BP: parcels with data.
        horizon_frames: H, frames to forecast.
        scaled_BPC: the same context before it was standardised, for methods that know a recording's own model.
        recording_ids: B names.
        first_frame_B: where in its recording each window starts, in frames.
        standardised: puts scaled values on the scale of the forecast.
    """

    context_BPC: Tensor
    observed_BP: Tensor
    horizon_frames: int
    scaled_BPC: Tensor
    recording_ids: Sequence[str]
    first_frame_B: Tensor
    standardised: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ForecastLearning:
    """What a method may learn from, and choose by: windows of training and validation subjects.

    Attributes:
        training: yields training windows, recording by recording, named for the progress bar.
        validation: all validation windows.
    """

    training: Callable[[str], Iterable[ForecastWindow]]
    validation: Sequence[ForecastWindow]


class ForecastMethod(Method):
    """Forecasts the frames after a context."""

    def fit(self, learning: ForecastLearning) -> Numbers:
        """See `Method.fit`."""
        return {}

    def forecast(self, past: Past) -> Tensor:
        """Returns the forecast, (B, P, H)."""
        raise NotImplementedError


class NetworkForecast(ForecastMethod):
    """A trained forecaster, as it is."""

    mixed_precision = True

    def __init__(self, net: Forecaster) -> None:
        self.net = net

    def forecast(self, past: Past) -> Tensor:
        """See `ForecastMethod.forecast`."""
        forecast: Tensor = self.net(past.context_BPC, past.observed_BP)
        return forecast


class OptimalForecast(ForecastMethod):
    """The Kalman predictor: it knows how a simulated recording was made, and sees the context alone."""

    def __init__(self, optimum: Optimum) -> None:
        self.optimum = optimum

    def forecast(self, past: Past) -> Tensor:
        """See `ForecastMethod.forecast`."""
        frames_BTP = torch.nn.functional.pad(past.scaled_BPC.mT, (0, 0, 0, past.horizon_frames))
        signal_BPT = frames_BTP.mT  # the memory order of windows: sums are the same to the last bit
        visible_BPT = torch.zeros_like(signal_BPT, dtype=torch.bool)
        visible_BPT[:, :, : -past.horizon_frames] = past.observed_BP[:, :, None]
        filled_BPT = self.optimum.predict(signal_BPT, visible_BPT, past.recording_ids, past.first_frame_B)
        return past.standardised(filled_BPT[:, :, -past.horizon_frames :])


class Zero(ForecastMethod):
    """Forecasts 0: the centre of the scale."""

    def forecast(self, past: Past) -> Tensor:
        """See `ForecastMethod.forecast`."""
        return torch.zeros_like(past.context_BPC[:, :, -1:]).expand(-1, -1, past.horizon_frames)


class Persistence(ForecastMethod):
    """Repeats the last frame of the context."""

    def forecast(self, past: Past) -> Tensor:
        """See `ForecastMethod.forecast`."""
        return past.context_BPC[:, :, -1:].expand(-1, -1, past.horizon_frames)


@dataclass(frozen=True)
class Choice:
    """One setting of a linear predictor: its coefficients are those of the last ``order`` frames, latest first."""

    order: int
    ridge: float
    coefficients: Tensor


class LinearForecast(ForecastMethod):
    """What AR and VAR share: sums of products over training windows, and a choice on validation windows.

    Args:
        orders: numbers of last frames to choose from; those beyond the context are left out.
        ridges: added to the diagonal of the features' covariance, as shares of its mean, to choose from.
        stride: frames from one origin of the fit to the next; neighbouring ones tell nearly the same.
    """

    def __init__(self, orders: Sequence[int], ridges: Sequence[float], stride: int) -> None:
        if min(orders) < 1 or min(ridges) < 0:
            raise ValueError(f"orders {tuple(orders)} must be 1 or more and ridges {tuple(ridges)} 0 or more")
        self.orders, self.ridges, self.stride = sorted(orders), tuple(ridges), stride
        self.choice: Choice | None = None

    def fit(self, learning: ForecastLearning) -> Numbers:
        """Fits every order and ridge on training windows, and keeps the one that errs least on validation windows."""
        errors: dict[float, Choice] = {}
        for choice in self._candidates(learning.training(type(self).__name__)):
            self.choice = choice
            errors.setdefault(sum(self._squared_error(window) for window in learning.validation), choice)
        self.choice = errors[min(errors)]
        return {"order": float(self.choice.order), "ridge": self.choice.ridge}

    def forecast(self, past: Past) -> Tensor:
        """See `ForecastMethod.forecast`."""
        return self.extrapolate(past.context_BPC)

    def extrapolate(self, context_BPC: Tensor) -> Tensor:
        """The linear map of the last frames of a context."""
        raise NotImplementedError

    def _squared_error(self, window: ForecastWindow) -> float:
        """Sum of squared errors over the observed parcels of windows."""
        error_BPH = (self.extrapolate(window.context_BPC) - window.future_BPH).double().square()
        return float(error_BPH.where(window.observed_BP[:, :, None], 0).sum())

    def _candidates(self, training: Iterable[ForecastWindow]) -> Iterator[Choice]:
        raise NotImplementedError

    def _is_feasible(self, order: int, window: ForecastWindow) -> bool:
        return order <= window.context_BPC.shape[2]

    def _origins(self, window: ForecastWindow) -> tuple[Tensor, Tensor]:
        """Last frames, latest first (B, P, O, K), and what followed them (B, P, O, H), at all origins of windows."""
        signal_BPT = torch.cat([window.context_BPC, window.future_BPH], dim=2)
        self.orders = [order for order in self.orders if self._is_feasible(order, window)]
        if not self.orders:
            raise ValueError(
                f"none of the orders can be fitted to {signal_BPT.shape[1]} parcels and a context of "
                f"{window.context_BPC.shape[2]} frames; name lower ones, or raise max_features"
            )
        kept = self.orders[-1]
        parts = signal_BPT.unfold(2, kept + window.future_BPH.shape[2], self.stride)
        return parts[..., :kept].flip(-1), parts[..., kept:]


class AR(LinearForecast):
    """Each parcel from its own last frames: per-parcel AR(p)."""

    def __init__(
        self,
        orders: Sequence[int] = (1, 2, 5, 10, 20, 40),
        ridges: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0),
        stride: int = 2,
    ) -> None:
        super().__init__(orders, ridges, stride)

    def _candidates(self, training: Iterable[ForecastWindow]) -> Iterator[Choice]:
        gram_PKK = cross_PKH = torch.zeros(())
        for window in training:
            past_BPOK, next_BPOH = (part.double() for part in self._origins(window))
            past_PSK, next_PSH = (part.transpose(0, 1).flatten(1, 2) for part in (past_BPOK, next_BPOH))
            gram_PKK = gram_PKK + past_PSK.mT @ past_PSK
            cross_PKH = cross_PKH + past_PSK.mT @ next_PSH
        for order in self.orders:
            gram, cross = gram_PKK[:, :order, :order], cross_PKH[:, :order]
            mean_P11 = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
            eye = torch.eye(order, dtype=gram.dtype)
            for ridge in self.ridges:
                # 1 where a parcel has no data: its coefficients are 0.
                loaded = gram + (ridge * mean_P11 + (mean_P11 == 0)) * eye
                yield Choice(order, ridge, torch.linalg.solve(loaded, cross).float())

    def extrapolate(self, context_BPC: Tensor) -> Tensor:
        """See `LinearForecast.extrapolate`."""
        assert self.choice is not None, "fit it first"
        past_BPK = context_BPC[:, :, -self.choice.order :].flip(-1)
        return torch.einsum("bpk,pkh->bph", past_BPK, self.choice.coefficients.to(past_BPK))


class VAR(LinearForecast):
    """Each parcel from the last frames of all parcels: ridge regression over parcels and lags.

    Products are averaged over the windows in which both parcels were observed.

    Args:
        orders: numbers of last frames to choose from.
        ridges: see `LinearForecast`.
        stride: see `LinearForecast`.
        max_features: orders with more than so many features (parcels x order) are left out: cost is its third power.
    """

    def __init__(
        self,
        orders: Sequence[int] = (1, 2, 5, 10, 20),
        ridges: Sequence[float] = (1e-2, 1e-1, 1.0, 10.0),
        stride: int = 4,
        max_features: int = 2000,
    ) -> None:
        super().__init__(orders, ridges, stride)
        self.max_features = max_features

    def _is_feasible(self, order: int, window: ForecastWindow) -> bool:
        return super()._is_feasible(order, window) and order * window.context_BPC.shape[1] <= self.max_features

    def _candidates(self, training: Iterable[ForecastWindow]) -> Iterator[Choice]:
        gram_FF = cross_FG = count_PP = torch.zeros(())
        for window in training:
            num_parcels, horizon_frames = window.future_BPH.shape[1:]
            past_BPOK, next_BPOH = self._origins(window)
            past_SF, next_SG = by_origin(past_BPOK), by_origin(next_BPOH)
            gram_FF = gram_FF + (past_SF.T @ past_SF).double()
            cross_FG = cross_FG + (past_SF.T @ next_SG).double()
            known_BP = window.observed_BP.double()
            count_PP = count_PP + past_BPOK.shape[2] * known_BP.T @ known_BP
        count_PP = count_PP.clamp(min=1)
        gram_FF, kept = gram_FF / count_PP.repeat(self.orders[-1], self.orders[-1]), self.orders
        cross_FG = cross_FG / count_PP.repeat(self.orders[-1], horizon_frames)
        for order in kept:
            features = order * num_parcels
            values_F, vectors_FF = torch.linalg.eigh(gram_FF[:features, :features])
            projected_FG, mean = vectors_FF.T @ cross_FG[:features], values_F.mean()
            for ridge in self.ridges:
                # Averages over different windows need not make a covariance: what falls below 0 is rounding.
                coefficients_FG = vectors_FF @ (projected_FG / (values_F.clamp(min=0) + ridge * mean)[:, None])
                yield Choice(order, ridge, coefficients_FG.float())

    def extrapolate(self, context_BPC: Tensor) -> Tensor:
        """See `LinearForecast.extrapolate`."""
        assert self.choice is not None, "fit it first"
        past_BPK = context_BPC[:, :, -self.choice.order :].flip(-1)
        forecast_BG = past_BPK.transpose(1, 2).flatten(1) @ self.choice.coefficients.to(past_BPK)
        return forecast_BG.unflatten(1, (-1, context_BPC.shape[1])).transpose(1, 2)


def by_origin(values_BPOK: Tensor) -> Tensor:
    """Returns (B O, K P): a row an origin, lag by lag, parcel by parcel."""
    return values_BPOK.permute(0, 2, 3, 1).flatten(0, 1).flatten(1)


def default_baselines() -> dict[str, ForecastMethod]:
    """What every forecaster is compared with."""
    return {"zero": Zero(), "persistence": Persistence(), "ar": AR(), "var": VAR()}
