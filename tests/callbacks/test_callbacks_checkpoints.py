import pickle
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch

from brainlm_lightning.callbacks.checkpoints import AtomicCheckpointIO, LastCheckpoint

# Writes checkpoints of 8 MB one after the other, each filled with its number, until it is killed.
WRITER = """
    import os, random, signal, sys, time
    import torch
    from brainlm_lightning.callbacks.checkpoints import AtomicCheckpointIO

    path, kills = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    AtomicCheckpointIO().save_checkpoint({"value": torch.zeros(2_000_000), "number": 0}, path)
    for round in range(kills):
        child = os.fork()
        if not child:
            number = AtomicCheckpointIO().load_checkpoint(path)["number"]
            while True:
                number += 1
                content = {"value": torch.full((2_000_000,), float(number)), "number": number}
                AtomicCheckpointIO().save_checkpoint(content, path)
        time.sleep(random.uniform(0.02, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = AtomicCheckpointIO().load_checkpoint(path)
        assert (found["value"] == found["number"]).all(), found
    print(found["number"])
"""


def test_a_writer_killed_again_and_again_leaves_a_whole_checkpoint(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "last.ckpt"), "25"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10  # checkpoints were written in between


def test_a_checkpoint_is_staged_beside_its_target_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    AtomicCheckpointIO().save_checkpoint({"value": torch.arange(3)}, tmp_path / "new" / "last.ckpt")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["last.ckpt"]
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "new" / "last.ckpt")["value"].tolist() == [0, 1, 2]


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"number": 1}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):  # until Python 3.13, and from 3.14 on
        AtomicCheckpointIO().save_checkpoint({"number": lambda: 2}, path)
    assert AtomicCheckpointIO().load_checkpoint(path) == {"number": 1}


def test_even_who_asks_for_pickles_gets_none(tmp_path):
    torch.save({"value": SimpleNamespace()}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="holds objects other than tensors"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)


@pytest.mark.parametrize(
    ("every", "accumulate", "epoch", "expected"),
    [
        (3, 1, 5, [3, 5, 6, 9, 10, 12]),
        (1000, 1, 5, [5, 10, 12]),
        (4, 2, 5, [4, 5, 8, 10, 12]),
        (1, 2, 12, [*range(1, 13)]),
    ],
)
def test_the_last_checkpoint_is_due_between_steps(every, accumulate, epoch, expected, tmp_path):
    saved = []
    trainer = SimpleNamespace(
        accumulate_grad_batches=accumulate,
        max_steps=12,
        lightning_module=torch.nn.Module(),
        log_dir=str(tmp_path),
        fit_loop=None,
        strategy=SimpleNamespace(reduce_boolean_decision=lambda fine, **how: fine),
    )
    trainer.save_checkpoint = lambda path: saved.append((trainer.global_step, path.name))
    callback = LastCheckpoint(every)
    for batch in range(12 * accumulate):
        trainer.global_step = (batch + 1) // accumulate
        trainer.is_last_batch = (batch + 1) % (epoch * accumulate) == 0
        callback.on_train_batch_end(trainer, None, None, None, batch % (epoch * accumulate))
    assert saved == [(step, "last.ckpt") for step in expected]
