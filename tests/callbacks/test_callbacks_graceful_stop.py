import signal
import subprocess
import sys

from brainlm_lightning.callbacks.graceful_stop import resume_command


def test_the_command_to_go_on_names_one_checkpoint(monkeypatch):
    given = [
        "fit",
        "--config",
        "a b.yaml",
        "--ckpt_path",
        "old.ckpt",
        "--ckpt_path=older.ckpt",
        "--trainer.max_steps=5",
    ]
    monkeypatch.setattr(sys, "argv", ["brainlm", *given])
    expected = "fit --config 'a b.yaml' --trainer.max_steps=5 --ckpt_path=new.ckpt"
    assert resume_command("new.ckpt") == f"python -m brainlm_lightning.cli {expected}"


FITTING = """
import time
import lightning.pytorch as pl
from torch.utils.data import DataLoader
from brainlm_lightning.callbacks.graceful_stop import GracefulStop

class Fitting(pl.LightningModule):
    def on_test_start(self):
        print("fitting", flush=True)
        time.sleep(60)

    def test_step(self, batch):
        return None

trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[GracefulStop()], enable_progress_bar=False)
trainer.test(Fitting(), DataLoader([0]))
"""


def test_sigterm_ends_a_test_that_still_fits_its_baselines():
    command = [sys.executable, "-c", FITTING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        next(line for line in process.stdout if line == "fitting\n")
        process.terminate()
        try:
            assert process.wait(30) == -signal.SIGTERM
        finally:
            process.kill()
