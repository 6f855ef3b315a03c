import hashlib
import os
import subprocess
import sys
from datetime import datetime

import numpy as np

from brainlm_lightning import provenance as module
from brainlm_lightning.provenance import provenance, sha256_of


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_provenance_of_a_package_outside_git_is_that_of_the_working_directory(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(module, "PACKAGE_FOLDER", tmp_path / "site-packages")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert [provenance()[name] for name in ("git_commit", "git_dirty", "git_checkout")] == [None, None, None]
    git(work, "init", "-q")
    (work / "tracked").write_text("x")
    git(work, "add", "tracked")
    git(work, "commit", "-q", "--no-verify", "-m", "first")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as it is inside a git hook
    clean = provenance()
    monkeypatch.delenv("GIT_DIR")
    assert (clean["git_commit"], clean["git_dirty"]) == (git(work, "rev-parse", "HEAD"), False)
    assert clean["git_checkout"] == "working directory"
    (work / "tracked").write_text("changed")
    assert provenance()["git_dirty"] is True


def test_provenance_has_versions_and_utc_time_and_names_no_machine():
    found = provenance(seed=3, device="cpu")
    assert found["packages"]["numpy"] == np.__version__
    assert {"brainlm-lightning", "torch", "lightning", "jsonargparse"} <= set(found["packages"])
    assert "pytest" not in found["packages"]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert datetime.fromisoformat(found["time_utc"]).utcoffset().total_seconds() == 0
    assert (found["seed"], found["device"]) == (3, "cpu")
    assert not {"hostname", "host", "user", "node"} & set(found)


def test_the_hash_of_a_file_follows_its_contents(tmp_path):
    path = tmp_path / "model.ckpt"
    for content in (b"one", b"another"):
        path.write_bytes(content)
        assert sha256_of(path) == hashlib.sha256(content).hexdigest()
