"""Scores by distance and without static levels, against naive loops."""

import numpy as np
import pytest
import torch

from brainlm_lightning.evaluation.metrics import HiddenSums, r2
from brainlm_lightning.tasks.reconstruction.score import (
    CLASSES,
    DistanceSums,
    by_distance,
    centred_r2,
    distance_class,
    named,
)

LIMITS = {"1": (1, 1), "2-3": (2, 3), "4-6": (4, 6), "7-10": (7, 10), "11+": (11, 10**6)}
SUBJECTS = np.array(["a", "a", "b"])
INDEX = torch.tensor([0, 1, 2, 2])


def masks(num_windows=4, num_parcels=5, num_frames=60, ratio=0.7, seed=0):
    """Visible values by frames, in runs of every length; one parcel of one window wholly hidden."""
    g = torch.Generator().manual_seed(seed)
    runs = torch.rand(num_windows, num_parcels, num_frames // 3, generator=g) > ratio
    visible = runs.repeat_interleave(3, dim=2)
    visible[:, 0, 5:40] = False
    visible[1, 2] = False
    return visible


def class_of(visible_T, frame):
    """The class of one frame, by looking at all others."""
    distances = [abs(frame - other) for other in np.flatnonzero(visible_T)]
    if not distances:
        return "none"
    return next(name for name, (low, high) in LIMITS.items() if low <= min(distances) <= high)


def test_the_distance_is_that_of_the_nearest_visible_frame_of_the_parcel():
    visible = masks()
    found = distance_class(visible)
    hidden = (~visible).nonzero().tolist()
    assert [CLASSES[found[b, p, t]] for b, p, t in hidden] == [class_of(visible[b, p].numpy(), t) for b, p, t in hidden]
    assert {CLASSES[found[b, p, t]] for b, p, t in hidden} == set(CLASSES)


def predicted(seed=1):
    """Truth with levels of its own in every recording and parcel, and a prediction of it."""
    random = np.random.default_rng(seed)
    truth = torch.from_numpy(random.standard_normal((4, 5, 60)) + 3 * random.standard_normal((4, 5, 1)))
    return truth, truth * 0.7 + torch.from_numpy(random.standard_normal((4, 5, 60))) * 0.5


def test_r2_by_distance_is_that_of_the_values_of_each_class_whatever_the_batches():
    visible, (truth, prediction) = masks(), predicted()
    number = distance_class(visible).where(~visible, -1)
    sums = DistanceSums(3, torch.device("cpu"))
    for rows in (slice(0, 3), slice(3, 4)):
        sums.update(prediction[rows], truth[rows], number[rows], INDEX[rows])
    found = by_distance(sums.compute(), SUBJECTS)
    assert found.shape == (3, len(CLASSES))
    for q in range(len(CLASSES)):
        y, y_hat = truth[number == q].numpy(), prediction[number == q].numpy()
        assert found[0, q] == pytest.approx(1 - ((y - y_hat) ** 2).sum() / ((y - y.mean()) ** 2).sum(), abs=1e-12)
    assert (found[1] <= found[0] + 1e-12).all()


def test_classes_add_up_to_all_hidden_values():
    visible, (truth, prediction) = masks(), predicted()
    by_class, by_parcel = DistanceSums(3, torch.device("cpu")), HiddenSums(3, 5)
    by_class.update(prediction, truth, distance_class(visible).where(~visible, -1), INDEX)
    by_parcel.update(prediction, truth, ~visible, INDEX)
    np.testing.assert_allclose(by_class.compute().sum(1), by_parcel.compute().sum(1).numpy(), rtol=1e-12)


def hidden_sums(truth, prediction, hidden):
    sums = HiddenSums(3, 5)
    sums.update(prediction, truth, hidden, INDEX)
    return sums.compute().numpy()


def test_centred_r2_is_about_the_means_of_each_recording_and_parcel():
    hidden, (truth, prediction) = ~masks(), predicted()
    error = spread = 0.0
    for recording in range(3):
        for parcel in range(5):
            of = hidden[recording == INDEX, parcel]
            y, y_hat = (x[recording == INDEX, parcel][of].numpy() for x in (truth, prediction))
            error += (((y - y.mean()) - (y_hat - y_hat.mean())) ** 2).sum()
            spread += ((y - y.mean()) ** 2).sum()
    found = centred_r2(hidden_sums(truth, prediction, hidden), SUBJECTS)
    assert found[0] == pytest.approx(1 - error / spread, abs=1e-12)
    assert found[1] <= found[0] <= found[2]


def test_knowing_levels_alone_pays_pooled_and_not_centred():
    hidden, (truth, _) = ~masks(), predicted()
    level = truth.clone()
    for recording in range(3):
        of_recording = truth[recording == INDEX].mean((0, 2), keepdim=True)
        level[recording == INDEX] = of_recording.expand_as(truth[recording == INDEX])
    sums = hidden_sums(truth, level, hidden)
    assert r2(sums.sum((0, 1))) > 0.5
    assert centred_r2(sums, SUBJECTS)[0] == pytest.approx(0, abs=1e-12)


def test_a_method_that_is_not_finite_has_no_score():
    hidden, (truth, prediction) = ~masks(), predicted()
    prediction[0, 0] = torch.nan
    assert np.isnan(centred_r2(hidden_sums(truth, prediction, hidden), SUBJECTS)[0])


def test_an_estimate_is_named_with_its_ends():
    assert named("r2_centred", np.array([0.5, 0.4, 0.6])) == {
        "r2_centred": 0.5,
        "r2_centred_low": 0.4,
        "r2_centred_high": 0.6,
    }
