"""Baselines of forecasting: zero, persistence, and linear maps of the last frames of one parcel or of all.

Shapes: B windows of a batch, P parcels, T frames of a window, C of its context, H of the horizon, k lags, F features,
n samples, O = H x P outputs.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from brainlm_lightning.evaluation.tuning import Setting
from brainlm_lightning.tasks.forecast.linear import Choice, LinearForecast
from brainlm_lightning.tasks.forecast.methods import ForecastLearning, ForecastMethod, Past
from brainlm_lightning.tasks.forecast.net import ForecastWindow


class ZeroForecast(ForecastMethod):
    """Forecasts 0: the centre of the scale."""

    def forecast(self, past: Past) -> Tensor:
        """See `ForecastMethod.forecast`."""
        return torch.zeros_like(past.context_BPC[:, :, -1:]).expand(-1, -1, past.horizon_frames)


class Persistence(ForecastMethod):
    """Repeats the last frame of the context."""

    def forecast(self, past: Past) -> Tensor:
        """See `ForecastMethod.forecast`."""
        return past.context_BPC[:, :, -1:].expand(-1, -1, past.horizon_frames)


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
            gram_Pkk = cross_PkH = torch.zeros((), dtype=torch.float64)
            for origin in range(order, num_frames - self._horizon_frames + 1):
                past, future = slice(origin - order, origin), slice(origin, origin + self._horizon_frames)
                gram_Pkk = gram_Pkk + moment_PTT[:, past, past]
                cross_PkH = cross_PkH + moment_PTT[:, past, future]
            self._sums[order] = gram_Pkk.flip(1, 2), cross_PkH.flip(1)
        return self._sums[order]

    def _solve(self, setting: Setting) -> Choice:
        order, ridge = int(setting["order"]), setting["ridge"]
        gram_Pkk, cross_PkH = self._sums_of(order)
        mean_P11 = gram_Pkk.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        # 1 where a parcel has no data: its coefficients are 0.
        loaded_Pkk = gram_Pkk + (ridge * mean_P11 + (mean_P11 == 0)) * torch.eye(order, dtype=gram_Pkk.dtype)
        return Choice(order, ridge, torch.cholesky_solve(cross_PkH, torch.linalg.cholesky(loaded_Pkk)))

    def extrapolate(self, context_BPC: Tensor) -> Tensor:
        """See `LinearForecast.extrapolate`."""
        assert self.choice is not None, "fit it first"
        past_BPk = context_BPC[:, :, -self.choice.order :].flip(-1).double()
        coefficients_PkH = self.choice.coefficients.to(past_BPk).expand(past_BPk.shape[1], -1, -1)
        return torch.einsum("bpk,pkh->bph", past_BPk, coefficients_PkH).to(context_BPC.dtype)


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
        gram_FF, cross_FO, count_FF, count_FP = sums
        self._gram_FF = gram_FF / count_FF.clamp(min=1).repeat(highest, highest)
        self._cross_FG = cross_FO / count_FP.clamp(min=1).repeat(highest, window.future_BPH.shape[2])
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
        past_nF = torch.cat([features_BFT[:, :, o - order : o].flip(2).mT.flatten(1) for o in origins])
        next_nO = torch.cat([signal_BPT[:, :, o : o + horizon_frames].mT.flatten(1) for o in origins])
        known_BP = window.observed_BP.double()
        known_BF = known_BP if self._basis_PF is None else torch.ones_like(features_BFT[:, :, 0])
        counts = [len(origins) * known_BF.T @ known for known in (known_BF, known_BP)]
        return [past_nF.T @ past_nF, past_nF.T @ next_nO, *counts]

    def _solve(self, setting: Setting) -> Choice:
        order, ridge = int(setting["order"]), setting["ridge"]
        if order not in self._spectra:
            features = order * self._num_features
            values_F, vectors_FF = torch.linalg.eigh(self._gram_FF[:features, :features])
            self._spectra[order] = values_F, vectors_FF, vectors_FF.T @ self._cross_FG[:features]
        values_F, vectors_FF, projected_FO = self._spectra[order]
        # Averages over different windows need not make a covariance: what falls below 0 is rounding.
        loaded_F = values_F.clamp(min=0) + ridge * values_F.mean()
        return Choice(order, ridge, vectors_FF @ (projected_FO / loaded_F[:, None]))

    def _features(self, signal_BPT: Tensor) -> Tensor:
        """What it forecasts from, (B, F, T): parcels or components."""
        return signal_BPT if self._basis_PF is None else self._basis_PF.T.to(signal_BPT) @ signal_BPT

    def extrapolate(self, context_BPC: Tensor) -> Tensor:
        """See `LinearForecast.extrapolate`."""
        assert self.choice is not None, "fit it first"
        past_BFk = self._features(context_BPC[:, :, -self.choice.order :].double()).flip(-1)
        forecast_BO = past_BFk.mT.flatten(1) @ self.choice.coefficients.to(past_BFk)
        return torch.unflatten(forecast_BO, 1, (-1, context_BPC.shape[1])).mT.to(context_BPC.dtype)


def principal_components(training: Iterable[ForecastWindow], count: int) -> Tensor:
    """Directions of parcels with the highest variance over all frames of training windows, (P, count) orthonormal.

    Raises:
        ValueError: there are fewer parcels.
    """
    gram_PP = torch.zeros((), dtype=torch.float64)
    for window in training:
        frames_nP = torch.cat([window.context_BPC, window.future_BPH], dim=2).double().mT.flatten(0, 1)
        gram_PP = gram_PP + frames_nP.T @ frames_nP
    if not 1 <= count <= len(gram_PP):
        raise ValueError(f"{count} principal components of {len(gram_PP)} parcels; expected 1 to {len(gram_PP)}")
    vectors_PP: Tensor = torch.linalg.eigh(gram_PP).eigenvectors
    return vectors_PP[:, -count:].flip(1)


def default_baselines() -> dict[str, ForecastMethod]:
    """What every forecaster is compared with."""
    return {
        "zero": ZeroForecast(),
        "persistence": Persistence(),
        "ar": AR(),
        "ar_shared": AR(shared=True),
        "var": VAR(),
    }
