import numpy as np
import pandas as pd
import pytest

from brainlm_lightning.data.places import Places
from brainlm_lightning.tasks.contrasts.pairs import draw_pairs


def table(rest, task, frames=450):
    subjects = [f"s{i}" for i in rest] + [f"s{i}" for i in task]
    return (
        pd.DataFrame({"subject_id": subjects, "num_frames": frames}),
        np.arange(len(rest)),
        len(rest) + np.arange(len(task)),
    )


def draw(recordings, sources, targets, count, seed):
    places = Places(recordings["num_frames"].to_numpy(), 200, {})
    return draw_pairs(recordings, sources, targets, count, places, seed)


def of(recordings, pairs):
    return recordings["subject_id"].to_numpy()[pairs.rows]


@pytest.mark.parametrize(("rest", "task"), [(range(9), range(9)), (range(12), range(8, 15)), (range(3), range(3))])
@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_of_different_subjects_and_use_each_as_often(rest, task, seed):
    recordings, sources, targets = table(rest, task)
    pairs = draw(recordings, sources, targets, 60, seed)
    source, target, null = of(recordings, pairs)
    assert not (source == target).any()
    assert not (source == null).any()
    assert np.isin(pairs.rows[1], targets).all()
    assert np.isin(pairs.rows[[0, 2]], sources).all()
    for side in (source, target, null):
        counts = np.unique(side, return_counts=True)[1]
        assert counts.max() - counts.min() <= 1
    assert set(np.unique(pairs.starts)) == {0, 200}


def test_the_draw_is_a_function_of_the_seed_and_batches_hold_it_all():
    recordings, sources, targets = table(range(10), range(10))
    pairs, again, other = (draw(recordings, sources, targets, 25, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(pairs.rows, again.rows)
    assert (pairs.rows != other.rows).any()
    batches = list(pairs.batches(10))
    assert [len(batch) for batch in batches] == [30, 30, 15]
    joined = np.concatenate([batch.rows.reshape(3, -1) for batch in batches], axis=1)
    np.testing.assert_array_equal(joined, pairs.rows)


def test_a_subject_with_many_recordings_counts_once():
    recordings, _, _ = table([0] * 50 + [1, 2], range(3))
    pairs = draw(recordings, np.arange(52), 52 + np.arange(3), 30, 0)
    assert np.unique(of(recordings, pairs)[0], return_counts=True)[1].tolist() == [10, 10, 10]


@pytest.mark.parametrize(("rest", "task"), [([0], [0]), ([0, 0], [1])])
def test_one_subject_makes_no_pair(rest, task):
    recordings, sources, targets = table(rest, task)
    with pytest.raises(ValueError, match="of different subjects"):
        draw(recordings, sources, targets, 4, 0)
