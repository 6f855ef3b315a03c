"""Which windows form which batch: a pure function of seed and epoch, independent of rank, worker and call order.

Resuming is therefore exact, and one, two or eight ranks see the same global batches.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from brainlm_lightning.data.places import Places

EVALUATION_EPOCH = 2**32 - 1  # validation and test windows are the same in every epoch

_START_STREAM = np.uint64(0x53544152)
_ORDER_STREAM = np.uint64(0x4F524445)
_BATCH_STREAM = np.uint64(0x42415443)


def mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64 of counters ``x`` (uint64): pseudo-random 64-bit numbers."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def recording_hash(recording_id: str) -> int:
    """A 64-bit hash of a recording's name, which does not depend on the other recordings."""
    return int.from_bytes(hashlib.blake2b(recording_id.encode(), digest_size=8).digest(), "little")


def window_keys(seed: int, epoch: int, recording_hashes: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Keys from which all randomness of windows is derived, uint64: a function of (seed, epoch, recording, draw)."""
    key = mix(recording_hashes.astype(np.uint64) ^ mix(np.array([seed], np.uint64)))
    key = mix(key ^ np.uint64(epoch))
    return mix(key ^ draws.astype(np.uint64))


@dataclass(frozen=True)
class WindowRequest:
    """Windows to read: for each, the row of its recording, its first frame and its key."""

    rows: np.ndarray
    starts: np.ndarray
    keys: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: slice) -> "WindowRequest":
        return WindowRequest(self.rows[which], self.starts[which], self.keys[which])


@dataclass(frozen=True)
class TrainingSchedule:
    """The batches of every training epoch.

    Attributes:
        hashes: `recording_hash` of each recording, uint64.
        places: where windows may lie.
        groups: rows of the recordings of each cohort.
        windows: windows of each cohort in an epoch.
        global_batch_size: windows of one optimiser step, over all ranks.
        seed: of window starts and order.
        kinds: the kind of each cohort, for instance the number of its atlas; a batch has windows of one kind. None =
            all are of one.
    """

    hashes: np.ndarray
    places: Places
    groups: tuple[np.ndarray, ...]
    windows: tuple[int, ...]
    global_batch_size: int
    seed: int
    kinds: tuple[int, ...] | None = None

    @property
    def batches_of(self) -> dict[int, int]:
        """Global batches of an epoch by kind; windows that do not fill a batch are dropped from this epoch."""
        windows: dict[int, int] = {}
        for kind, count in zip(self._kinds, self.windows, strict=True):
            windows[kind] = windows.get(kind, 0) + count
        return {kind: count // self.global_batch_size for kind, count in windows.items()}

    @property
    def num_batches(self) -> int:
        """Global batches of an epoch."""
        return sum(self.batches_of.values())

    @property
    def _kinds(self) -> tuple[int, ...]:
        return (0,) * len(self.groups) if self.kinds is None else self.kinds

    def epoch(self, epoch: int) -> WindowRequest:
        """All windows of an epoch, one global batch after the other."""
        drawn = [self._cohort(epoch, rows, count) for rows, count in zip(self.groups, self.windows, strict=True)]
        rows, draws = (np.concatenate(column) for column in zip(*drawn, strict=True))
        keys = window_keys(self.seed, epoch, self.hashes[rows], draws)
        order = self._order(keys, np.repeat(self._kinds, [len(rows) for rows, _ in drawn]))
        rows, keys = rows[order], keys[order]
        which = mix(keys ^ _START_STREAM) % self.places.room(rows).astype(np.uint64)
        return WindowRequest(rows, self.places.starts(rows, which.astype(np.int64)), keys)

    def _order(self, keys: np.ndarray, kinds: np.ndarray) -> np.ndarray:
        """Which windows make an epoch, batch by batch: in the order of their keys, batches of all kinds mixed."""
        order, batches = np.argsort(mix(keys ^ _ORDER_STREAM), kind="stable"), []
        for kind, count in self.batches_of.items():
            full = order[kinds[order] == kind][: count * self.global_batch_size]
            batches.append(full.reshape(count, self.global_batch_size))
        order = np.concatenate(batches)
        if len(batches) > 1:
            order = order[np.argsort(mix(keys[order[:, 0]] ^ _BATCH_STREAM), kind="stable")]
        return order.ravel()

    def _cohort(self, epoch: int, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """``count`` (row, draw) pairs: complete passes over a cohort, then a random part of it."""
        passes, rest = divmod(count, len(rows))
        turn = mix(window_keys(self.seed, epoch, self.hashes[rows], np.full(len(rows), passes)) ^ _ORDER_STREAM)
        part = rows[np.argsort(turn, kind="stable")[:rest]]
        draws = np.concatenate([np.repeat(np.arange(passes), len(rows)), np.full(rest, passes)])
        return np.concatenate([np.tile(rows, passes), part]), draws


def evaluation_windows(hashes: np.ndarray, places: Places, rows: np.ndarray, seed: int) -> WindowRequest:
    """All non-overlapping windows of each recording, from the first frame that has data on, in the order of `rows`."""
    of_each = [places.side_by_side(int(row)) for row in rows]
    starts = np.concatenate([np.arange(0), *of_each])
    order = np.concatenate([np.arange(0), *(np.arange(len(each)) for each in of_each)])
    rows = np.repeat(rows, [len(each) for each in of_each])
    return WindowRequest(rows, starts, window_keys(seed, EVALUATION_EPOCH, hashes[rows], order))


@dataclass
class TrainingBatches:
    """One rank's micro-batches, a `batch_sampler` for torch's DataLoader; every ``iter()`` is one epoch.

    Rank r takes every r-th window of a global batch, in ``accumulate`` micro-batches.

    Attributes:
        schedule: the global batches.
        rank: this process.
        world_size: number of processes.
        accumulate: micro-batches of a global batch on one rank.
        epoch: the next epoch.
        skip: micro-batches of that epoch that are already done.
    """

    schedule: TrainingSchedule
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1
    epoch: int = 0
    skip: int = 0

    def __len__(self) -> int:
        return self.schedule.num_batches * self.accumulate

    def __iter__(self) -> Iterator[WindowRequest]:
        epoch, skip = self.epoch, self.skip
        self.epoch, self.skip = epoch + 1, 0
        windows = self.schedule.epoch(epoch)
        size = self.schedule.global_batch_size
        local = size // self.world_size
        micro = local // self.accumulate
        for index in range(skip, len(self)):
            batch, part = divmod(index, self.accumulate)
            mine = windows[batch * size : (batch + 1) * size][self.rank :: self.world_size]
            yield mine[part * micro : (part + 1) * micro]


@dataclass(frozen=True)
class EvaluationBatches:
    """One rank's batches of evaluation windows; every window is read exactly once, with any number of ranks."""

    windows: WindowRequest
    batch_size: int
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        return -(-len(self._mine()) // self.batch_size)

    def __iter__(self) -> Iterator[WindowRequest]:
        mine = self._mine()
        for first in range(0, len(mine), self.batch_size):
            yield mine[first : first + self.batch_size]

    def _mine(self) -> WindowRequest:
        return self.windows[self.rank :: self.world_size]


def weighted_windows(sizes: list[int], weights: list[float], windows_per_recording: int) -> tuple[int, ...]:
    """Number of windows of each cohort in an epoch.

    An epoch has ``windows_per_recording`` windows per recording, distributed over the cohorts by ``weights``.
    """
    total = sum(sizes) * windows_per_recording
    share = np.array(weights) / sum(weights)
    return tuple(int(count) for count in np.round(share * total))


def windows_per_recording_for(wanted: int, sizes: list[int], weights: list[float]) -> int:
    """The smallest ``windows_per_recording`` that gives an epoch at least `wanted` windows."""
    count = max(1, wanted // sum(sizes))
    while sum(weighted_windows(sizes, weights, count)) < wanted:
        count += 1
    return count


def micro_batches(global_batch_size: int, world_size: int, micro_batch_size: int | None) -> int:
    """Number of micro-batches of a global batch on each rank.

    Raises:
        ValueError: the sizes are not divisible.
    """
    local, rest = divmod(global_batch_size, world_size)
    if rest:
        raise ValueError(
            f"global_batch_size {global_batch_size} is not divisible by {world_size} devices; "
            f"choose a multiple, for instance {world_size * max(local, 1)}"
        )
    accumulate, rest = divmod(local, micro_batch_size or local)
    if rest:
        divisor = max(size for size in range(1, min(local, micro_batch_size or local) + 1) if local % size == 0)
        raise ValueError(
            f"each of {world_size} devices gets {local} windows of a global batch of {global_batch_size}, "
            f"which is not divisible by micro_batch_size {micro_batch_size}; choose a divisor, for instance {divisor}"
        )
    return accumulate
