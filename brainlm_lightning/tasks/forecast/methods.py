"""Methods that forecast: networks, and baselines: zero, persistence, and linear maps of the last frames.

The linear ones are least-squares predictors of every horizon frame from the last ``order`` frames directly (not one
step fed back), which is the best that a linear map can do for the score at hand and cannot run away. They are fitted
on the training subjects; order and ridge are those with the lowest squared error on the validation subjects.

Shapes: B batch, P parcels, T frames of a window, C of its context, H of the horizon, K lags, F features, S samples,
G = H x P targets.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brainlm_lightning.simulation.optimum import Optimum
from brainlm_lightning.tasks.compare import Method, Numbers
from brainlm_lightning.tasks.forecast.net import Forecaster, ForecastWindow
from brainlm_lightning.tasks.tuning import Axis, Setting, choose


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


class AR(LinearForecast):
    """Each parcel from its own last frames, with a filter of its own or one for all parcels.

    Products of all pairs of frames of a window are kept, (P, T, T), so that every order is fitted at all its origins:
    125 MB for 392 parcels and windows of 200 frames.

    Args:
        orders: see `LinearForecast`; up to the whole context, which has one origin a window.
        ridges: see `LinearForecast`.
        shared: one filter for all parcels.
    """

    def __init__(
        self,
        orders: Sequence[int] = (1, 2, 5, 10, 20, 40, 80, 160),
        ridges: Sequence[float] = (1e-9, 1e-7, 1e-5, 1e-3, 1e-1),
        shared: bool = False,
    ) -> None:
        super().__init__(orders, ridges)
        self.shared = shared

    def _learn(self, learning: ForecastLearning) -> tuple[int, int]:
        moment_PTT = torch.zeros(())
        for window in learning.training(type(self).__name__):
            signal_BPT = torch.cat([window.context_BPC, window.future_BPH], dim=2).double()
            signal_PBT = signal_BPT.flatten(0, 1)[None] if self.shared else signal_BPT.transpose(0, 1)
            moment_PTT = moment_PTT + signal_PBT.mT @ signal_PBT
            self._horizon_frames = window.future_BPH.shape[2]
        self._moment_PTT, self._sums = moment_PTT, dict[int, tuple[Tensor, Tensor]]()
        context_frames = moment_PTT.shape[-1] - self._horizon_frames
        return context_frames, context_frames

    def _sums_of(self, order: int) -> tuple[Tensor, Tensor]:
        """Products of the last frames, latest first, with each other and with what followed, over all origins."""
        if order not in self._sums:
            moment_PTT, num_frames = self._moment_PTT, self._moment_PTT.shape[-1]
            gram_PKK = cross_PKH = torch.zeros((), dtype=torch.float64)
            for origin in range(order, num_frames - self._horizon_frames + 1):
                past, future = slice(origin - order, origin), slice(origin, origin + self._horizon_frames)
                gram_PKK = gram_PKK + moment_PTT[:, past, past]
                cross_PKH = cross_PKH + moment_PTT[:, past, future]
            self._sums[order] = gram_PKK.flip(1, 2), cross_PKH.flip(1)
        return self._sums[order]

    def _solve(self, setting: Setting) -> Choice:
        order, ridge = int(setting["order"]), setting["ridge"]
        gram_PKK, cross_PKH = self._sums_of(order)
        mean_P11 = gram_PKK.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        # 1 where a parcel has no data: its coefficients are 0.
        loaded_PKK = gram_PKK + (ridge * mean_P11 + (mean_P11 == 0)) * torch.eye(order, dtype=gram_PKK.dtype)
        return Choice(order, ridge, torch.cholesky_solve(cross_PKH, torch.linalg.cholesky(loaded_PKK)))

    def extrapolate(self, context_BPC: Tensor) -> Tensor:
        """See `LinearForecast.extrapolate`."""
        assert self.choice is not None, "fit it first"
        past_BPK = context_BPC[:, :, -self.choice.order :].flip(-1).double()
        coefficients_PKH = self.choice.coefficients.to(past_BPK).expand(past_BPK.shape[1], -1, -1)
        return torch.einsum("bpk,pkh->bph", past_BPK, coefficients_PKH).to(context_BPC.dtype)


class VAR(LinearForecast):
    """Each parcel from the last frames of all parcels, or of their principal components: ridge over lags.

    Products are averaged over the windows in which both parcels were observed. Components are those of the training
    windows; a parcel without data adds nothing to them.

    Args:
        orders: see `LinearForecast`.
        ridges: see `LinearForecast`.
        components: principal components to forecast from; None = all parcels themselves.
        stride: frames from one origin of the fit to the next; neighbouring ones tell nearly the same.
        max_features: no order has more features (parcels or components x order): cost is its third power.
    """

    def __init__(
        self,
        orders: Sequence[int] = (1, 2, 5, 10, 20),
        ridges: Sequence[float] = (1e-4, 1e-2, 1.0),
        components: int | None = None,
        stride: int = 4,
        max_features: int = 2000,
    ) -> None:
        super().__init__(orders, ridges)
        self.components, self.stride, self.max_features = components, stride, max_features
        self._basis_PF: Tensor | None = None

    def _learn(self, learning: ForecastLearning) -> tuple[int, int]:
        name = type(self).__name__
        if self.components is not None:
            self._basis_PF = principal_components(learning.training(name), self.components)
        sums: list[Tensor] = []
        for window in learning.training(name):
            num_features = self.components or window.observed_BP.shape[1]
            highest = self._highest_order(num_features, window.context_BPC.shape[2])
            if highest < 1:
                return highest, window.context_BPC.shape[2]
            parts = self._products(window, highest)
            sums = [total + part for total, part in zip(sums, parts, strict=True)] if sums else parts
        gram_FF, cross_FG, count_FF, count_FP = sums
        self._gram_FF = gram_FF / count_FF.clamp(min=1).repeat(highest, highest)
        self._cross_FG = cross_FG / count_FP.clamp(min=1).repeat(highest, window.future_BPH.shape[2])
        self._spectra, self._num_features = dict[int, tuple[Tensor, Tensor, Tensor]](), num_features
        return highest, window.context_BPC.shape[2]

    def _highest_order(self, num_features: int, context_frames: int) -> int:
        """How far a grid of orders may grow: to twice what was named; a single order is taken as it is."""
        reach = self.orders[-1] * (2 if len(self.orders) > 1 else 1)
        return min(context_frames, self.max_features // num_features, reach)

    def _products(self, window: ForecastWindow, order: int) -> list[Tensor]:
        """Sums over origins: past with past, past with future, and how often each pair was observed."""
        signal_BPT = torch.cat([window.context_BPC, window.future_BPH], dim=2).double()
        features_BFT, horizon_frames = self._features(signal_BPT), window.future_BPH.shape[2]
        origins = range(order, signal_BPT.shape[2] - horizon_frames + 1, self.stride)
        past_SF = torch.cat([features_BFT[:, :, o - order : o].flip(2).mT.flatten(1) for o in origins])
        next_SG = torch.cat([signal_BPT[:, :, o : o + horizon_frames].mT.flatten(1) for o in origins])
        known_BP = window.observed_BP.double()
        known_BF = known_BP if self._basis_PF is None else torch.ones_like(features_BFT[:, :, 0])
        counts = [len(origins) * known_BF.T @ known for known in (known_BF, known_BP)]
        return [past_SF.T @ past_SF, past_SF.T @ next_SG, *counts]

    def _solve(self, setting: Setting) -> Choice:
        order, ridge = int(setting["order"]), setting["ridge"]
        if order not in self._spectra:
            features = order * self._num_features
            values_F, vectors_FF = torch.linalg.eigh(self._gram_FF[:features, :features])
            self._spectra[order] = values_F, vectors_FF, vectors_FF.T @ self._cross_FG[:features]
        values_F, vectors_FF, projected_FG = self._spectra[order]
        # Averages over different windows need not make a covariance: what falls below 0 is rounding.
        loaded_F = values_F.clamp(min=0) + ridge * values_F.mean()
        return Choice(order, ridge, vectors_FF @ (projected_FG / loaded_F[:, None]))

    def _features(self, signal_BPT: Tensor) -> Tensor:
        """What it forecasts from, (B, F, T): parcels or components."""
        return signal_BPT if self._basis_PF is None else self._basis_PF.T.to(signal_BPT) @ signal_BPT

    def extrapolate(self, context_BPC: Tensor) -> Tensor:
        """See `LinearForecast.extrapolate`."""
        assert self.choice is not None, "fit it first"
        past_BFK = self._features(context_BPC[:, :, -self.choice.order :].double()).flip(-1)
        forecast_BG = past_BFK.mT.flatten(1) @ self.choice.coefficients.to(past_BFK)
        return forecast_BG.unflatten(1, (-1, context_BPC.shape[1])).mT.to(context_BPC.dtype)


def principal_components(training: Iterable[ForecastWindow], count: int) -> Tensor:
    """Directions of parcels with the highest variance over all frames of training windows, (P, count) orthonormal.

    Raises:
        ValueError: there are fewer parcels.
    """
    gram_PP = torch.zeros((), dtype=torch.float64)
    for window in training:
        frames_SP = torch.cat([window.context_BPC, window.future_BPH], dim=2).double().mT.flatten(0, 1)
        gram_PP = gram_PP + frames_SP.T @ frames_SP
    if not 1 <= count <= len(gram_PP):
        raise ValueError(f"{count} principal components of {len(gram_PP)} parcels; expected 1 to {len(gram_PP)}")
    return torch.linalg.eigh(gram_PP).eigenvectors[:, -count:].flip(1)


def default_baselines() -> dict[str, ForecastMethod]:
    """What every forecaster is compared with."""
    return {"zero": Zero(), "persistence": Persistence(), "ar": AR(), "ar_shared": AR(shared=True), "var": VAR()}
