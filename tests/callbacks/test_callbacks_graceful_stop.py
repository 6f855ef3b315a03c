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
