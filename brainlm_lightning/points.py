"""Points of a sweep side by side: on the cores of this machine, on a dask cluster, or as jobs of a scheduler.

Each point is a command of its own in a process of its own, and writes what it prints to ``output.log`` in its folder.
It holds a lock on that folder: where the driver is killed its points go on, and a new driver waits for them instead of
beginning them a second time. What was killed goes on from its last checkpoint.
"""

import fcntl
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import joblib

from brainlm_lightning.data.workers import workers
from brainlm_lightning.run_folder import LAST, newest_run, read_metrics

BACKENDS = ("loky", "dask", "submitit")
OUTPUT = "output.log"


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        folder: of its runs; on a cluster every machine sees it.
        arguments: of the command line, the verb first.
        environment: variables of the driver that its process gets, wherever it runs.
    """

    folder: Path
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=lambda: _own_environment())
    directory: str = field(default_factory=os.getcwd)


@dataclass(frozen=True)
class Crew:
    """Who runs the points.

    Attributes:
        backend: ``loky``: processes of this machine; ``dask``: the cluster of $DASK_SCHEDULER_ADDRESS, else processes
            of this machine; ``submitit``: jobs of SLURM, or processes of this machine where there is none.
        jobs: how many run at the same time.
        options: of submitit, such as ``slurm_partition``, ``gpus_per_node``, ``timeout_min``.
    """

    backend: str
    jobs: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validates the choices before the first point begins."""
        if self.backend not in BACKENDS:
            raise ValueError(f"--backend is {self.backend!r}; expected one of {', '.join(BACKENDS)}")
        if self.jobs < 1:
            raise ValueError(f"--jobs is {self.jobs}; expected how many points run at the same time, from 1 on")
        if self.options and self.backend != "submitit":
            raise ValueError(f"--backend_options {self.options} are for submitit; --backend is {self.backend}")

    def run(self, points: Sequence[Point]) -> Iterator[tuple[Point, int]]:
        """Runs points; yields each with its exit status when it ends, in any order."""
        if self.backend == "submitit":
            yield from self._submitted(points)
            return
        with workers(self.backend, self.jobs) as parallel:
            yield from parallel(joblib.delayed(run_point)(point) for point in points)

    def _submitted(self, points: Sequence[Point]) -> Iterator[tuple[Point, int]]:
        try:
            submitit = importlib.import_module("submitit")
        except ImportError as error:
            raise ValueError("--backend submitit needs a package: pip install submitit") from error
        options = dict(self.options)
        folder = points[0].folder.parent / "submitit"
        executor = submitit.AutoExecutor(folder, cluster=options.pop("cluster", None))
        executor.update_parameters(slurm_array_parallelism=self.jobs, **({"timeout_min": 24 * 60} | options))
        jobs = executor.map_array(run_point, list(points))
        for job in jobs:
            yield job.result()


def run_point(point: Point) -> tuple[Point, int]:
    """Runs one point to its end, unless another process has done so; returns it with its exit status."""
    with _alone(point.folder) as lock:
        if newest(point.folder, "metrics.json"):
            return point, 0
        resumed = newest(point.folder, LAST)
        arguments = [*point.arguments, *([f"--ckpt_path={resumed / LAST}"] if resumed else [])]
        command = [sys.executable, "-m", "brainlm_lightning.cli", *arguments]
        with (point.folder / OUTPUT).open("ab") as output:
            ended = subprocess.run(  # noqa: S603 (our own command line)
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=point.directory,
                env={**os.environ, **point.environment},
                pass_fds=[lock.fileno()],  # the lock lives as long as the process, whoever started it
                check=False,
            )
    return point, ended.returncode


def run_side_by_side(crew: Crew, points: Sequence[Point], say: Callable[[str], None]) -> None:
    """Runs points until all have ended, and says of each how it did.

    Raises:
        RuntimeError: points failed, for another reason than that they diverged; the others have ended.
    """
    failed = []
    for point, status in crew.run(points):
        said = "ended" if status == 0 else f"ended with status {status}, see {point.folder / OUTPUT}"
        if status and diverged(point.folder):
            said = "diverged, and cannot be chosen"
        elif status:
            failed.append(str(point.folder / OUTPUT))
        say(f"{point.folder.name} {said}")
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(points)} points failed, see {', '.join(sorted(failed))}; the same command goes on"
        )


def diverged(folder: Path) -> bool:
    """Whether a point has ended because it diverged."""
    ended = newest(folder, "metrics.json")
    return ended is not None and "diverged" in read_metrics(ended)


def newest(folder: Path, containing: str) -> Path | None:
    """The newest run of a point with a file: `metrics.json` if it finished, `last.ckpt` if it can be resumed."""
    try:
        return newest_run(folder, containing)
    except FileNotFoundError:
        return None


def _alone(folder: Path) -> IO[bytes]:
    """A file that no other process has locked; waits for it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".lock").open("ab")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(("BRAINLM_", "PYTHONPATH"))}
