"""A sample of `make fuzz`, and the judge itself."""

import os
import time

import pytest
from attempt import attempt
from counting import count


def test_damaged_inputs_end_in_a_message_or_a_right_result(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINLM_DATA", str(tmp_path))
    counts, wrong = count(96, 1, tmp_path)
    assert not wrong, "\n\n".join(wrong)
    assert sum(sum(found.values()) for found in counts.values()) == 96
    assert min(sum(found.values()) for found in counts.values()) == 16


def fails() -> None:
    raise ValueError("seen")


def crashes() -> None:
    os.abort()


def fills_memory() -> None:
    bytearray(2_500_000_000)[::4096] = b"x" * len(range(0, 2_500_000_000, 4096))


@pytest.mark.parametrize(
    ("call", "verdict"),
    [(lambda: print("fine"), "accepted"), (fails, "traceback"), (crashes, "traceback"), (fills_memory, "memory")],
)
def test_every_kind_of_end_is_recognised(call, verdict):
    assert attempt(call).verdict == verdict


def test_memory_that_the_asking_process_holds_is_not_the_commands():
    held = b"x" * 1_800_000_000
    assert attempt(lambda: print("fine")).verdict == "accepted"
    assert attempt(fills_memory).verdict == "memory"
    del held


def test_a_hang_is_ended(monkeypatch):
    monkeypatch.setattr("attempt.LONGEST_S", 0.2)
    assert attempt(lambda: time.sleep(60)).verdict == "hang"
