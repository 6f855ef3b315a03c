"""The schedule: one sequence of global batches for any number of ranks, and windows that know nothing of each other."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from brainlm_lightning.data.missing import from_ranges
from brainlm_lightning.data.places import Places
from brainlm_lightning.data.schedule import (
    EVALUATION_EPOCH,
    EvaluationBatches,
    TrainingBatches,
    TrainingSchedule,
    evaluation_windows,
    micro_batches,
    mix,
    recording_hash,
    weighted_windows,
    window_keys,
)

FRAMES = 20


def hashes(count):
    return np.array([recording_hash(f"cohort/r{number}") for number in range(count)], np.uint64)


def places(num_frames, missing=""):
    return Places.of(pd.DataFrame({"num_frames": num_frames, "missing_frames": missing}), FRAMES)


def schedule(recordings=24, passes=1, batch=8, seed=0):
    num_frames = FRAMES + np.arange(recordings) % 7
    rows = np.arange(recordings)
    return TrainingSchedule(hashes(recordings), places(num_frames), (rows,), (passes * recordings,), batch, seed)


def listed(windows):
    return list(zip(windows.rows.tolist(), windows.starts.tolist(), windows.keys.tolist(), strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_global_batches_are_the_same_for_any_number_of_ranks(world_size, accumulate):
    plan = schedule()
    ranks = [list(TrainingBatches(plan, rank, world_size, accumulate)) for rank in range(world_size)]
    epoch = listed(plan.epoch(0))
    for batch in range(plan.num_batches):
        whole = epoch[batch * 8 : (batch + 1) * 8]
        for rank, micros in enumerate(ranks):
            parts = [listed(micro) for micro in micros[batch * accumulate : (batch + 1) * accumulate]]
            assert {len(part) for part in parts} == {8 // world_size // accumulate}
            assert [window for part in parts for window in part] == whole[rank::world_size]
    assert {len(micros) for micros in ranks} == {plan.num_batches * accumulate}


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_an_epoch_takes_every_recording_equally_often_in_an_order_of_its_own(passes):
    plan = schedule(passes=passes)
    epochs = [plan.epoch(epoch) for epoch in range(20)]
    for epoch in epochs:
        assert np.bincount(epoch.rows).tolist() == [passes] * 24
    assert len({tuple(epoch.rows.tolist()) for epoch in epochs}) == 20


def test_what_does_not_fill_a_batch_differs_from_epoch_to_epoch():
    plan = schedule(batch=9)
    left_out = [frozenset(range(24)) - set(plan.epoch(epoch).rows.tolist()) for epoch in range(10)]
    assert [len(out) for out in left_out] == [6] * 10
    assert len(set(left_out)) > 8


def test_the_order_of_an_epoch_does_not_depend_on_the_recordings_places():
    """No recording comes first more often than another."""
    first = np.bincount([int(schedule().epoch(epoch).rows[0]) for epoch in range(2400)], minlength=24)
    assert chi2.cdf(((first - 100) ** 2 / 100).sum(), 23) < 1 - 1e-4


def test_starts_are_within_bounds_and_uniform():
    plan = replace(schedule(), places=places(np.full(24, FRAMES + 9)))
    epochs = [plan.epoch(epoch) for epoch in range(200)]
    counts = np.bincount(np.concatenate([epoch.starts for epoch in epochs]))
    assert len(counts) == 10
    assert chi2.cdf(((counts - 480) ** 2 / 480).sum(), 9) < 1 - 1e-4
    varied = schedule()
    for epoch in range(20):
        windows = varied.epoch(epoch)
        assert (windows.starts >= 0).all()
        assert (windows.starts + FRAMES <= varied.places.num_frames[windows.rows]).all()


def test_further_recordings_change_no_window_of_the_others():
    few, many = (
        {row: rest for row, *rest in listed(schedule(recordings).epoch(3)) if row < 24} for recordings in (24, 32)
    )
    assert len(few) == 24
    assert many == few


@pytest.mark.parametrize("skip", range(7))
def test_a_skip_resumes_exactly(skip):
    plan = schedule()
    whole = TrainingBatches(plan, 1, 2, 2, epoch=4)
    resumed = TrainingBatches(plan, 1, 2, 2, epoch=4, skip=skip)
    assert len(resumed) == len(whole) == 6
    assert [listed(batch) for batch in resumed] == [listed(batch) for batch in whole][skip:]
    assert [listed(batch) for batch in resumed] == [listed(batch) for batch in whole]  # the next epoch is whole
    assert (resumed.epoch, resumed.skip) == (6, 0)


def test_seeds_give_different_schedules():
    first, other = schedule(seed=0).epoch(0), schedule(seed=1).epoch(0)
    assert not set(first.keys.tolist()) & set(other.keys.tolist())
    assert first.rows.tolist() != other.rows.tolist()


def test_cohorts_give_the_windows_that_are_asked_of_them():
    groups = np.arange(10), np.arange(10, 24)
    plan = replace(schedule(batch=4), groups=groups, windows=(24, 8))
    per_epoch = [np.bincount(plan.epoch(epoch).rows, minlength=24) for epoch in range(30)]
    for counts in per_epoch:
        assert (counts[:10].sum(), counts[10:].sum()) == (24, 8)
        assert set(counts[:10]) == {2, 3}
        assert set(counts[10:]) == {0, 1}
    assert np.sum(per_epoch, axis=0)[10:].min() > 5  # the part of a pass is another in each epoch


def test_weights_share_out_the_windows():
    assert weighted_windows([10, 30], [1, 1], 2) == (40, 40)
    assert weighted_windows([10, 30], [3, 1], 1) == (30, 10)
    assert weighted_windows([10, 30], [0.1, 0.3], 1) == (10, 30)
    assert weighted_windows([7], [5], 3) == (21,)


@pytest.mark.parametrize(
    ("sizes", "accumulate"), [((512, 1, None), 1), ((512, 8, 16), 4), ((512, 1, 512), 1), ((6, 3, 1), 2)]
)
def test_micro_batches_make_up_the_global_batch(sizes, accumulate):
    assert micro_batches(*sizes) == accumulate


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((512, 3, None), r"global_batch_size 512 is not divisible by 3 devices; .* for instance 510"),
        ((2, 4, None), r"global_batch_size 2 is not divisible by 4 devices; .* for instance 4"),
        ((512, 2, 100), r"each of 2 devices gets 256 windows .* not divisible by micro_batch_size 100"),
        ((8, 2, 8), r"each of 2 devices gets 4 windows .* not divisible by micro_batch_size 8"),
    ],
)
def test_sizes_that_do_not_divide_are_errors_with_the_numbers(sizes, message):
    with pytest.raises(ValueError, match=message):
        micro_batches(*sizes)


def test_evaluation_windows_lie_side_by_side():
    num_frames, rows = np.array([19, 20, 39, 40, 65, 100]), np.array([0, 2, 3, 4])
    windows = evaluation_windows(hashes(6), places(num_frames), rows, seed=0)
    assert windows.rows.tolist() == [2, 3, 3, 4, 4, 4]
    assert windows.starts.tolist() == [0, 0, 20, 0, 20, 40]
    assert len(set(windows.keys.tolist())) == 6


def test_no_window_holds_a_frame_that_is_marked_as_missing():
    """Against sets of frames: every start that touches no marked frame is drawn, equally often, and no other."""
    missing = ["", "0-2,30", "5,25-26,60", "10,30,50,70,90"]  # the last one has no stretch of a window
    frames = [100, 100, 83, 100]
    allowed = []
    for text, count in zip(missing, frames, strict=True):
        marked = np.flatnonzero(from_ranges(text, count))
        allowed.append([s for s in range(count - FRAMES + 1) if not set(range(s, s + FRAMES)) & set(marked.tolist())])
    of = places(frames, missing)
    assert of.room(np.arange(4)).tolist() == [len(starts) for starts in allowed] == [81, 58, 17, 0]
    plan = TrainingSchedule(hashes(4), of, (np.arange(3),), (3 * 81,), 3, 0)
    drawn = [plan.epoch(epoch) for epoch in range(40)]
    rows, starts = (np.concatenate([getattr(epoch, name) for epoch in drawn]) for name in ("rows", "starts"))
    for row in range(3):
        counts = np.array([(starts[rows == row] == start).sum() for start in allowed[row]])
        assert counts.sum() == (rows == row).sum() == 40 * 81
        even = counts.sum() / len(counts)
        assert chi2.cdf(((counts - even) ** 2 / even).sum(), len(counts) - 1) < 1 - 1e-4
    windows = evaluation_windows(hashes(4), of, np.arange(4), seed=0)
    assert windows.rows.tolist() == [0] * 5 + [1] * 4 + [2] * 2
    assert windows.starts.tolist() == [0, 20, 40, 60, 80, 3, 31, 51, 71, 27, 61]
    assert of.num_side_by_side(np.arange(4)).tolist() == [5, 4, 2, 0]
    assert of.stretches(1).tolist() == [[3, 27], [31, 69]]


@pytest.mark.parametrize("rows", [[], [0]])
def test_no_evaluation_window_is_none(rows):
    windows = evaluation_windows(hashes(6), places(np.full(6, 19)), np.array(rows, int), seed=0)
    assert len(windows) == 0
    assert list(EvaluationBatches(windows, 4)) == []


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_ranks_share_evaluation_windows_without_loss_or_repetition(world_size, batch_size):
    windows = evaluation_windows(hashes(9), places(np.full(9, 41)), np.arange(9), seed=0)
    ranks = [EvaluationBatches(windows, batch_size, rank, world_size) for rank in range(world_size)]
    batches = [list(rank) for rank in ranks]
    assert [len(rank) for rank in ranks] == [len(of) for of in batches]
    assert {len(batch) for of in batches for batch in of[:-1]} <= {batch_size}
    together = [window for of in batches for batch in of for window in listed(batch)]
    assert sorted(together) == sorted(listed(windows))
    assert len(set(together)) == 18
    assert [listed(batch) for batch in ranks[0]] == [listed(batch) for batch in batches[0]]  # the same in each epoch


def test_keys_of_epochs_recordings_and_draws_never_meet():
    names, draws = np.repeat(hashes(500), 20), np.tile(np.arange(20), 500)
    epochs = [window_keys(0, epoch, names, draws) for epoch in (*range(9), EVALUATION_EPOCH)]
    assert len(np.unique(np.concatenate(epochs))) == 100_000
    assert not set(epochs[0].tolist()) & set(window_keys(1, 0, names, draws).tolist())


def test_keys_are_what_they_were():
    """Fixed for ever: with other keys, no run could be resumed or repeated."""
    whole = 2**64

    def splitmix(x):
        z = (x + 0x9E3779B97F4A7C15) % whole
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % whole
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % whole
        return z ^ (z >> 31)

    name = recording_hash("ukb/sub-0001")
    assert name == 0xA0195DFDC17AD36A
    expected = splitmix(splitmix(splitmix(name ^ splitmix(7)) ^ 3) ^ 2)
    assert window_keys(7, 3, np.array([name], np.uint64), np.array([2])).tolist() == [expected]
    assert mix(np.array([2**64 - 1], np.uint64)).tolist() == [splitmix(2**64 - 1)]


def test_bits_of_keys_are_balanced():
    keys = window_keys(0, 0, hashes(1000), np.zeros(1000, int))
    bits = np.unpackbits(keys.view(np.uint8)).reshape(1000, 64).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 5 * 0.5 / 1000**0.5


def test_the_first_window_alone_is_one_of_those_side_by_side():
    whole = places([100, 80, 45, 19], ["", "0-4,50-52", "", ""])
    alone = replace(whole, first_alone=True)
    rows = np.arange(4)
    assert alone.num_side_by_side(rows).tolist() == [1, 1, 1, 0]
    assert [alone.side_by_side(row).tolist() for row in rows] == [[0], [5], [0], []]
    found = evaluation_windows(hashes(4), alone, rows[:3], 0)
    assert listed(found) == [
        window for window in listed(evaluation_windows(hashes(4), whole, rows[:3], 0)) if window[1] in (0, 5)
    ]
    assert alone.room(rows).tolist() == whole.room(rows).tolist()  # training draws from all frames
