"""What a command says when it cannot go on: one message with what happened, where, and what to do about it."""

import dis
import errno
import re
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

INTERRUPTED = 130  # exit status, as a shell reports Ctrl-C
FULL_DISK = (
    "the disk is full; free some space (or name a folder on another disk) and give the same command again: what is "
    "whole is kept"
)
ADVICE = {
    errno.ENOSPC: FULL_DISK,
    errno.EDQUOT: FULL_DISK,
    errno.EFBIG: FULL_DISK,
    errno.ENOENT: "there is no such file or folder; compare its name with the disk",
    errno.EACCES: "permission denied; change the permissions, or name another folder",
    errno.EPERM: "permission denied; change the permissions, or name another folder",
    errno.EROFS: "the disk is read-only; name another folder",
    errno.EISDIR: "is a folder, and a file is expected",
    errno.ENOTDIR: "a part of this path is a file, and a folder is expected",
    errno.EEXIST: "is there already; name another one",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.ENAMETOOLONG: "the name is too long for the disk",
}
NUMBER_IN_TEXT = re.compile(r"(?:errno = |\[Errno )(\d+)")  # HDF5 and torch say it in words
PARSERS = ("jsonargparse", "connectors", "omegaconf", "argparse")  # folders of libraries that refuse settings
RAISE = dis.opmap["RAISE_VARARGS"]
PACKAGE = Path(__file__).parent


def explained(error: BaseException) -> str:
    """The message for a user; errors that this package raises speak for themselves."""
    full = next((each for each in _contexts(error) if _is_of_a_full_disk(each)), error)
    if known := _of_the_disk(full):
        return printable(f"{type(full).__name__}: {known}")
    ours = next((cause for cause in causes(error) if is_our_own(cause)), None)
    if ours is not None:
        return printable(f"{type(ours).__name__}: {ours}")
    if _is_of_a_setting(error):
        return printable(f"{type(error).__name__}: {error}; compare the settings with --help (--debug shows more)")
    if isinstance(error, MemoryError):
        return "MemoryError: not enough memory; take fewer --jobs, smaller batches, or a larger machine"
    return printable(f"{type(error).__name__}: {error}\n(raised at {_place(error)}; {_kept_traceback(error)})")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and the chain of its causes: parsers wrap errors that a class raises about its arguments."""
    while error is not None:
        yield error
        error = error.__cause__


def _contexts(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that were being handled when it was raised: torch hides that the disk is full."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_a_full_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and ADVICE.get(error.errno or 0) == FULL_DISK


def is_our_own(error: BaseException) -> bool:
    """True if a `raise` of this package made it, and no library or interpreter did."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not isinstance(error, ValueError | OSError | RuntimeError):
        return False
    code = last.tb_frame.f_code
    return _is_in_package(code.co_filename) and code.co_code[last.tb_lasti] == RAISE


def _is_of_a_setting(error: BaseException) -> bool:
    """True if a parser, or the Trainer's parsing of its arguments, refused a value."""
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, which is not imported for this
        return True
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return isinstance(error, ValueError | TypeError) and any(
        f"/{parser}/" in frame.filename for frame in frames for parser in PARSERS
    )


def printable(text: str) -> str:
    """Text without control codes, which a file's content could bring into a message; they are written out."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)


def _is_in_package(file: str) -> bool:
    return Path(file).is_relative_to(PACKAGE)


def _of_the_disk(error: BaseException) -> str | None:
    """What the system's error number means, and the file that it is about; None of other errors."""
    found = NUMBER_IN_TEXT.search(str(error))
    if not isinstance(error, OSError):
        return None
    number = error.errno if error.errno is not None else int(found[1]) if found else None
    if number not in ADVICE:
        return None
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' -> '.join(files) or _place(error)}: {ADVICE[number]}"


def _place(error: BaseException) -> str:
    """The line of this package that was being run."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_in_package(frame.filename)]
    return f"{Path(frames[-1].filename).relative_to(PACKAGE.parent)}, line {frames[-1].lineno}" if frames else "start"


def _kept_traceback(error: BaseException) -> str:
    """Keeps the traceback in a file; long runs cannot be repeated to see it."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="brainlm-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return "--debug shows the traceback"
    return f"the traceback is in {file.name}, and --debug shows it"


@contextmanager
def briefly_in_threads() -> Iterator[None]:
    """Errors in threads of libraries, such as TensorBoard's writer, are one message, too."""
    before = threading.excepthook

    def say(of: threading.ExceptHookArgs) -> None:
        if of.exc_value is not None:
            print(explained(of.exc_value), file=sys.stderr)

    threading.excepthook = say
    try:
        yield
    finally:
        threading.excepthook = before


def end(error: BaseException) -> NoReturn:
    """Ends the process with a message."""
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(explained(error))
