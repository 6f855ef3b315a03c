"""Ends further ranks when the process that started them is gone: they would wait for it up to half an hour."""

import os
import sys
import threading
import time

FIRST_RANK = "BRAINLM_FIRST_RANK"  # the process that starts the others; they inherit it
LOOKS_EVERY_S = 1.0
ORPHANED = 1  # exit status


def end_with_first_rank() -> None:
    """Remembers this process for the ranks that it will start; or, in one of those, watches it."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.environ[FIRST_RANK] = str(os.getpid())
        return
    parent = int(os.environ.get(FIRST_RANK, os.getppid()))  # torchrun and schedulers start ranks themselves
    threading.Thread(target=_watch, args=(parent,), name="watches the first rank", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOKS_EVERY_S)
    rank = os.environ["LOCAL_RANK"]
    print(
        f"rank {rank} ends, because the process that started it ({parent}) has ended; resume from the last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(ORPHANED)  # the other threads may wait in a call that nothing interrupts
