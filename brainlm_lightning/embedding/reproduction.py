"""The paper's numbers for an imported model on one's own cohort: reconstruction, the future, clinical variables.

Shapes: R recordings, P parcels, K sums of a score, F features, n recordings with a label.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from brainlm_lightning.checkpoint.pretrained import seen_recordings
from brainlm_lightning.data.store import Store
from brainlm_lightning.data.windows import Batch, scale_on_device
from brainlm_lightning.embedding.one_line import EmbeddingModel
from brainlm_lightning.evaluation.metrics import HiddenSums, scores
from brainlm_lightning.evaluation.resampling import percentile_interval, subject_bootstrap, subject_mean, sum_by_subject
from brainlm_lightning.model.masking import Grid, MaskingName, counter_noise, draw_mask

Numbers = dict[str, float]
FEATURES = ("cls", "connectivity")  # the model's, and what it has to beat
MOST_CLASSES = 10


@dataclass(frozen=True)
class ReproductionPlan:
    """What is measured.

    Attributes:
        recordings: of test subjects, evenly spaced; None = all.
        ratios: shares hidden at random.
        futures: shares of a window hidden at its end.
        targets: columns of the cohort's table to predict, numbers or classes.
        folds: of the prediction, by subject.
    """

    recordings: int | None = None
    ratios: tuple[float, ...] = (0.2, 0.5, 0.75)
    futures: tuple[float, ...] = (0.1, 0.2)
    targets: tuple[str, ...] = ()
    folds: int = 5


def reproduced(model: EmbeddingModel, store: Store, plan: ReproductionPlan) -> Numbers:
    """Measures an imported model on a prepared cohort.

    Reconstruction is that of test subjects, since the gain may have been calibrated on the training subjects. Clinical
    variables are predicted in folds over all subjects, by a support vector machine on the mean embedding of each
    recording, as in the paper's comparison.

    Returns:
        `<what>/<condition>/<score>` with `_low` and `_high`: 95 % intervals from resampling subjects. Reconstruction at
        random is left out for a model whose tokens hold several parcels.

    Raises:
        ValueError: the atlas differs; there are no test subjects, or the model was trained on them; or a target is no
            column, or has too few values.
    """
    model.check_atlas(store.atlas)
    numbers: Numbers = {}
    rows = _test_rows(model, store, plan)
    ways: list[tuple[str, MaskingName, float]] = [("future", "future", ratio) for ratio in plan.futures]
    if model.model.has_parcels:
        ways = [("reconstruction", "random", ratio) for ratio in plan.ratios] + ways
    for what, strategy, ratio in ways:
        found = reconstruction(model, store, rows, strategy, ratio)
        numbers |= {f"{what}/hidden{ratio:g}/{name}": value for name, value in found.items() if "_pooled" in name}
    for target in plan.targets:
        numbers |= predicted(model, store, target, plan.folds)
    return numbers


@torch.no_grad()
def reconstruction(
    model: EmbeddingModel, store: Store, rows: Sequence[int], strategy: MaskingName, ratio: float
) -> Numbers:
    """Scores over the hidden values of all windows of some recordings; see `evaluation.metrics.scores`."""
    net = model.model
    sums = HiddenSums(len(rows), store.atlas.num_parcels)
    for number, batch in enumerate(_windows(model, store, rows)):
        signal_BPT, observed_BP = batch["signal_BPT"], batch["observed_BP"]
        key_B = counter_noise(torch.tensor([number]), len(signal_BPT))[0]
        hidden_BPN = draw_mask(strategy, key_B, ratio, Grid(observed_BP, net.num_patches))
        hidden_BPT = hidden_BPN.repeat_interleave(signal_BPT.shape[2] // net.num_patches, dim=2)
        prediction_BPT = net(signal_BPT, hidden_BPN, observed_BP).prediction_BPT
        sums.update(prediction_BPT, signal_BPT, hidden_BPT, torch.full((len(signal_BPT),), number))
    return scores(sums.compute().numpy(), store.recordings["subject_id"].iloc[list(rows)].to_numpy())


def predicted(model: EmbeddingModel, store: Store, target: str, folds: int) -> Numbers:
    """Scores of a column of the table, predicted in folds by subject from each of `FEATURES`."""
    if target not in store.recordings:
        raise ValueError(f"{store.folder} has no column {target!r}; it has {', '.join(store.recordings.columns)}")
    rows = np.flatnonzero(store.recordings[target].notna())
    rows = rows[_long(model, store)[rows]]
    table = store.recordings.iloc[rows]
    if table["subject_id"].nunique() < 2 * folds:
        raise ValueError(
            f"{target!r} is known of {table['subject_id'].nunique()} subjects; {folds} folds need {2 * folds} or more"
        )
    features = [model.embed_windows(_window(model, store, int(row)), embeddings=FEATURES) for row in rows]
    numbers: Numbers = {}
    for name in FEATURES:
        found = prediction_scores(np.stack([each[name] for each in features]), table, target, folds)
        numbers |= {f"clinical/{target}/{name}/{score}": value for score, value in found.items()}
    return numbers


def prediction_scores(features_nF: NDArray[np.float32], table: pd.DataFrame, target: str, folds: int) -> Numbers:
    """Mean squared error of the z-scored number, or balanced accuracy of the class."""
    subjects, values = table["subject_id"].to_numpy(), table[target]
    number = pd.api.types.is_numeric_dtype(values) and values.nunique() > 2
    if not number and values.nunique() > MOST_CLASSES:
        raise ValueError(
            f"{target!r} has {values.nunique()} classes; expected numbers, or {MOST_CLASSES} classes at most"
        )
    y_n: NDArray[Any] = values.to_numpy(float) if number else values.astype(str).to_numpy()
    y_n = (y_n - y_n.mean()) / y_n.std() if number else y_n
    machine = make_pipeline(StandardScaler(), SVR() if number else SVC(class_weight="balanced"))
    found_n = np.empty_like(y_n)
    for train, test in GroupKFold(folds).split(features_nF, groups=subjects):
        found_n[test] = machine.fit(features_nF[train], y_n[train]).predict(features_nF[test])
    if not number:
        return _balanced_accuracy(y_n, found_n, subjects)
    error = subject_mean((y_n - found_n) ** 2, subjects)
    return {f"mse_scaled{end}": value for end, value in error.items()}


def _balanced_accuracy(true_n: NDArray[Any], found_n: NDArray[Any], subjects: NDArray[Any]) -> Numbers:
    """The mean over classes of the share of their recordings that is right."""
    of_class_nQ = true_n[:, None] == np.unique(true_n)
    right_n2Q = np.stack([of_class_nQ & (true_n == found_n)[:, None], of_class_nQ], axis=1)
    sums_U2Q = sum_by_subject(right_n2Q, subjects)

    def mean_share(sums_A2Q: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # a draw without a class says nothing of it
            share_AQ = sums_A2Q[:, 0] / sums_A2Q[:, 1]
        mean_A: NDArray[np.float64] = np.nanmean(share_AQ, axis=1)
        return mean_A

    low, high = percentile_interval(subject_bootstrap(mean_share, sums_U2Q), len(sums_U2Q))
    value = float(mean_share(sums_U2Q.sum(0)[None])[0])
    return {"balanced_accuracy": value, "balanced_accuracy_low": float(low), "balanced_accuracy_high": float(high)}


def _long(model: EmbeddingModel, store: Store) -> NDArray[np.bool_]:
    """True for recordings that hold a window of the model."""
    seconds = store.recordings["num_frames"].to_numpy() * store.tr_s
    found: NDArray[np.bool_] = seconds >= model.about["window_frames"] * model.about["tr_s"]
    return found


def _test_rows(model: EmbeddingModel, store: Store, plan: ReproductionPlan) -> list[int]:
    table = store.recordings
    rows = np.flatnonzero((table["split"] == "test") & _long(model, store))
    if not len(rows):
        raise ValueError(f"{store.folder} has no test recordings that hold a window; prepare it with split.test")
    seen = seen_recordings(model.about, table.iloc[rows])
    if seen.any():
        raise ValueError(f"{seen.sum()} of {len(rows)} test recordings are of subjects that the model was trained on")
    count = len(rows) if plan.recordings is None else min(plan.recordings, len(rows))
    chosen: list[int] = rows[np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))].tolist()
    return chosen


def _window(model: EmbeddingModel, store: Store, row: int) -> Batch:
    return model.windows(store.raw(row), store.tr_s)


def _windows(model: EmbeddingModel, store: Store, rows: Sequence[int]) -> Iterator[Batch]:
    for row in rows:
        yield scale_on_device(_window(model, store, row))
