"""Files that are whole or not there: written beside their place, locked while they are written, then renamed.

The lock dies with its process, so that a part without a lock is one that a killed process left.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

ENDING = ".part"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in an error of the disk that does not, such as one of a full disk, even where another hides it."""
    try:
        yield
    except Exception as error:
        hidden: BaseException | None = error
        while hidden is not None:
            if isinstance(hidden, OSError) and hidden.errno is not None and hidden.filename is None:
                hidden.filename = str(path)
            hidden = hidden.__cause__ or hidden.__context__
        raise


def check_room(path: Path, num_bytes: int) -> None:
    """Makes an empty file on a disk that has room for its bytes.

    Raises:
        OSError: the disk or the quota has not.
    """
    with naming(path), path.open("wb") as file:
        if shutil.disk_usage(path.parent).free < num_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if hasattr(os, "posix_fallocate"):  # which knows of quotas, and is not everywhere
            os.posix_fallocate(file.fileno(), 0, num_bytes)
            file.truncate()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes the place of `path` when it is whole and on disk; on an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}{ENDING}")
    with naming(path), _locked(part) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _locked(part: Path) -> IO[bytes]:
    """Opens a file and locks it; again where it was removed before it was locked."""
    while True:
        file = part.open("wb")
        with suppress(OSError):  # a file system without locks, where no part is removed either
            fcntl.flock(file, fcntl.LOCK_EX)
        if part.exists() and os.path.samestat(part.stat(), os.fstat(file.fileno())):
            return file
        file.close()


def remove_stale_parts(folder: Path) -> None:
    """Removes what killed processes left half written in a folder; what a process is writing is locked, and stays."""
    for part in folder.glob(f"*{ENDING}"):
        with suppress(OSError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


@contextmanager
def alone(work: Path, target: Path) -> Iterator[None]:
    """Keeps a second process out that would make the same folder; the lock dies with the process.

    Args:
        work: folder to work in; it is made.
        target: what it becomes, for the message.

    Raises:
        RuntimeError: another process is at work.
        FileExistsError: another process has finished.
    """
    work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            lock = held.enter_context((work / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError) as error:  # locked; or removed since, because it was finished
            raise RuntimeError(f"another process is preparing {target}; wait for it, or end it") from error
        if target.exists():
            shutil.rmtree(work)
            refuse_existing(target)
        yield


def refuse_existing(target: Path) -> None:
    """Raises FileExistsError where a folder is there already."""
    if target.exists():
        raise FileExistsError(f"{target} is there already; delete it to make it anew, or name another output")
