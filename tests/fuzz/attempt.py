"""Runs a command of this package in a process of its own, and judges how it ended."""

import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

LONGEST_S = 60.0
MOST_MB = 1000  # of memory that a command on tiny inputs may take beside what the process that asks has already
SIGNALS_OF_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


@dataclass(frozen=True)
class Attempt:
    """How a command ended.

    Attributes:
        status: as a shell reports it; None where it was killed after `LONGEST_S`.
        output: of both streams.
        grown_mb: most memory that it had, less what it was born with: a fork begins with all its parent's.
    """

    status: int | None
    output: str
    grown_mb: float

    @property
    def verdict(self) -> str:
        """`accepted`, `message`, or what must not be."""
        if self.status is None:
            return "hang"
        if self.grown_mb > MOST_MB:
            return "memory"
        crashed = self.status in [-number for number in SIGNALS_OF_CRASHES]
        if crashed or "Traceback (most recent call last)" in self.output or "the traceback is in" in self.output:
            return "traceback"
        return "accepted" if self.status == 0 else "message"


def attempt(call: Callable[[], None]) -> Attempt:
    """Calls a function in a fork of this process, which has what it needs imported already."""
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        born_with = resident_mb()
        child = os.fork()
        if not child:
            in_child(call, said.fileno())
        status, peak = _wait(child, time.monotonic() + LONGEST_S)
        said.seek(0)
        output = said.read()
        for kept in re.findall(r"the traceback is in (\S+),", output):
            output += Path(kept).read_text()
            Path(kept).unlink()
        return Attempt(status, output, peak - born_with)


def command(args: Sequence[str]) -> Callable[[], None]:
    """A command as a shell would give it."""

    def call() -> None:
        from brainlm_lightning.cli import main

        with patch.object(sys, "argv", ["brainlm", *args]):
            main()

    return call


def resident_mb() -> float:
    """Memory that this process has now (MB)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def in_child(call: Callable[[], None], said: int) -> None:
    os.setsid()
    os.dup2(said, 1)
    os.dup2(said, 2)
    status = 1
    try:
        call()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            os.write(2, f"{end.code}\n".encode())
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(child: int, until: float) -> tuple[int | None, float]:
    """Waits for a process, and kills it and its children when its time is over; returns status and most memory (MB)."""
    killed = False
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return None if killed else code, used.ru_maxrss / 1024
        if time.monotonic() > until and not killed:
            os.killpg(child, signal.SIGKILL)
            killed = True
        time.sleep(0.01)
