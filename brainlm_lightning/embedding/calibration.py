"""Finds the input gain and offset at which an imported model reconstructs a cohort's training subjects best.

The scaling with which the published models were trained was never released, so it is measured: on fixed windows with
fixed masks, R² over the hidden values is a smooth function of the gain.

Shapes: B windows (one of each recording), P parcels, T frames, N patches per parcel, K sums of a score.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from brainlm_lightning.checkpoint.description import describe_model
from brainlm_lightning.data.store import Store
from brainlm_lightning.data.windows import scale_on_device
from brainlm_lightning.embedding.one_line import EmbeddingModel
from brainlm_lightning.evaluation.metrics import HiddenSums, r2
from brainlm_lightning.evaluation.resampling import percentile_interval, subject_bootstrap, sum_by_subject
from brainlm_lightning.model.masked import MaskedModel
from brainlm_lightning.model.masking import Grid, counter_noise, draw_mask

GAINS = tuple(2.0**power for power in range(-4, 8))  # 1/16 to 128; the best one is then searched between neighbours
LARGEST_OFFSET = 2.0  # in the model's units
NEAR_BEST = 0.95  # share of the best R² from which on a gain belongs to the plateau
PRECISION = 0.005  # of the logarithm of the gain, and of the offset
Sums = NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationPlan:
    """How gain and offset are searched.

    Attributes:
        recordings: of training subjects, evenly spaced, one window of each.
        ratio: share of tokens that are hidden; the published 5M model was trained with 0.2.
        offset: whether an offset is searched, too.
        gains: grid of gains, rising.
    """

    recordings: int = 20
    ratio: float = 0.2
    offset: bool = False
    gains: tuple[float, ...] = GAINS


@dataclass(frozen=True)
class Windows:
    """Scaled windows with their masks, the same for every gain.

    Attributes:
        signal_BPT: scaled signal.
        observed_BP: False where a recording has no data of a parcel.
        hidden_BPN: True = hidden.
        subjects: whom each window is of.
    """

    signal_BPT: Tensor
    observed_BP: Tensor
    hidden_BPN: Tensor
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class Calibration:
    """The best gain and offset, and the curve that they were found on.

    Attributes:
        gain: best gain.
        offset: best offset; 0 where none was searched.
        r2: pooled over the hidden values, at the best gain and offset.
        r2_low: lower end of its interval over subjects.
        plateau: lowest and highest gain of the curve with at least `NEAR_BEST` of the best R² at offset 0.
        curve: gain and R² at offset 0, by rising gain.
    """

    gain: float
    offset: float
    r2: float
    r2_low: float
    plateau: tuple[float, float]
    curve: tuple[tuple[float, float], ...]

    def table(self) -> str:
        """The curve and the choice, as text."""
        rows = [f"{gain:10.4g}  {score:8.4f}" for gain, score in self.curve]
        return "\n".join(
            ["      gain        R²", *rows,
             f"gain {self.gain:.4g}, offset {self.offset:.4g}: R² {self.r2:.4f} (at least {self.r2_low:.4f}); "
             f"plateau {self.plateau[0]:.4g} to {self.plateau[1]:.4g}"]
        )  # fmt: skip


def calibrated(model: EmbeddingModel, store: Store, plan: CalibrationPlan) -> tuple[EmbeddingModel, Calibration]:
    """Calibrates a model on a cohort's training subjects.

    Returns:
        The model with the best gain and offset, which its description records with the curve; and the calibration.

    Raises:
        ValueError: the cohort does not fit the model; or there is no gain to find: see `best_gain`.
    """
    if not model.model.has_parcels:
        raise ValueError(
            f"a {model.model.name} cannot be calibrated: each of its tokens holds several parcels, and hiding patches "
            "of single parcels hides nearly all of them; set its gain with `import-weights --gain`"
        )
    found = best_gain(model.model, training_windows(model, store, plan), plan)
    net = with_gain(model.model, found.gain, found.offset)
    record = {"cohort": store.name, **asdict(plan), **asdict(found)}
    return EmbeddingModel(net, {**model.about, "model": describe_model(net), "calibration": record}), found


def training_windows(model: EmbeddingModel, store: Store, plan: CalibrationPlan) -> Windows:
    """The first window of some recordings of training subjects, scaled as the checkpoint says."""
    model.check_atlas(store.atlas)
    rows = np.flatnonzero(store.recordings["split"] == "train")
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, plan.recordings).round().astype(int))] if len(rows) else rows
    subjects = tuple(store.recordings["subject_id"].iloc[rows])
    if len(set(subjects)) < 2:
        raise ValueError(f"{store.folder} has {len(set(subjects))} training subjects; calibration needs two or more")
    firsts = [scale_on_device(model.windows(store.raw(int(row)), store.tr_s)) for row in rows]
    observed_BP = torch.stack([batch["observed_BP"][0] for batch in firsts])
    key_B = counter_noise(torch.zeros(1, dtype=torch.int64), len(rows))[0]
    hidden_BPN = draw_mask("random", key_B, plan.ratio, Grid(observed_BP, model.model.num_patches))
    return Windows(torch.stack([batch["signal_BPT"][0] for batch in firsts]), observed_BP, hidden_BPN, subjects)


def best_gain(model: MaskedModel, windows: Windows, plan: CalibrationPlan) -> Calibration:
    """Searches the gain, and then the offset, with the highest R² over the hidden values.

    Raises:
        ValueError: the model has no gain; its R² is not above 0 with 95 % confidence at any gain; or the best gain is
            at an end of the grid, so that there is no plateau in it.
    """
    evaluated: dict[float, float] = {}

    def score(gain: float) -> float:
        return evaluated.setdefault(gain, float(r2(sums_at(model, windows, gain, 0.0).sum(0))))

    best = int(np.argmax([score(gain) for gain in plan.gains]))
    _check_inside(best, plan.gains, evaluated)
    low, high = (math.log(plan.gains[place]) for place in (best - 1, best + 1))
    minimize_scalar(
        lambda log: -score(math.exp(log)), bounds=(low, high), method="bounded", options={"xatol": PRECISION}
    )
    gain = max(evaluated, key=lambda each: evaluated[each])
    offset = _best_offset(lambda value: float(r2(sums_at(model, windows, gain, value).sum(0)))) if plan.offset else 0.0
    sums_UK = sum_by_subject(sums_at(model, windows, gain, offset), windows.subjects)
    r2_low = float(percentile_interval(subject_bootstrap(r2, sums_UK), len(sums_UK))[0])
    if not r2_low > 0:
        raise ValueError(
            f"no gain of {plan.gains[0]:g} to {plan.gains[-1]:g} reconstructs this cohort: the best R² is "
            f"{evaluated[gain]:.4f} at gain {gain:.3g}, its interval over {len(sums_UK)} subjects begins at "
            f"{r2_low:.4f}; expected it above 0. The curve:\n{_listed(evaluated)}"
        )
    flat = [each for each, value in evaluated.items() if value >= NEAR_BEST * evaluated[gain]]
    return Calibration(
        gain, offset, float(r2(sums_UK.sum(0))), r2_low, (min(flat), max(flat)), tuple(sorted(evaluated.items()))
    )


def _check_inside(best: int, gains: tuple[float, ...], evaluated: dict[float, float]) -> None:
    if best in (0, len(gains) - 1):
        raise ValueError(
            f"no plateau: R² is highest at gain {gains[best]:g}, an end of the grid of gains, so the best gain is not "
            f"between {gains[0]:g} and {gains[-1]:g}, or no gain serves this cohort. The curve:\n{_listed(evaluated)}"
        )


def _listed(evaluated: dict[float, float]) -> str:
    return "\n".join(f"  gain {gain:.4g}: R² {value:.4f}" for gain, value in sorted(evaluated.items()))


def _best_offset(score: Callable[[float], float]) -> float:
    bounds, options = (-LARGEST_OFFSET, LARGEST_OFFSET), {"xatol": PRECISION}
    found = minimize_scalar(lambda value: -score(value), bounds=bounds, method="bounded", options=options)
    return float(found.x) if -found.fun > score(0.0) else 0.0


@torch.no_grad()
def sums_at(model: MaskedModel, windows: Windows, gain: float, offset: float) -> Sums:
    """Sums over the hidden values of each window, (B, K), from which R² follows."""
    net = with_gain(model, gain, offset)
    sums = HiddenSums(len(windows.signal_BPT), windows.signal_BPT.shape[1])
    for number in range(len(windows.signal_BPT)):
        one = slice(number, number + 1)
        signal_BPT, hidden_BPN = windows.signal_BPT[one], windows.hidden_BPN[one]
        prediction_BPT = net(signal_BPT, hidden_BPN, windows.observed_BP[one]).prediction_BPT
        hidden_BPT = hidden_BPN.repeat_interleave(signal_BPT.shape[2] // hidden_BPN.shape[2], dim=2)
        sums.update(prediction_BPT, signal_BPT, hidden_BPT, torch.tensor([number]))
    return np.asarray(sums.compute().sum(1).numpy())


def with_gain(model: MaskedModel, gain: float, offset: float) -> MaskedModel:
    """The same weights with another input gain and offset, in evaluation mode.

    Raises:
        ValueError: the model has neither.
    """
    if not hasattr(model.config, "input_gain"):
        raise ValueError(
            f"a {type(model).__name__} has no input_gain: it was trained on data scaled as its checkpoint says, and "
            "needs no calibration; expected an imported model"
        )
    config = replace(model.config, input_gain=gain, input_offset=offset)
    net = type(model)(model.geometry, config)
    net.load_state_dict(model.state_dict())
    return net.eval()
