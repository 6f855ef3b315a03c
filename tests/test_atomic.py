import os
import subprocess
import sys

import pytest

from brainlm_lightning.atomic import remove_stale_parts, replacing

KILLED = """
import os, signal, sys
from pathlib import Path
from brainlm_lightning.atomic import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_file_is_old_or_new_and_nothing_else_stays(tmp_path):
    path = tmp_path / "new" / "file"
    with replacing(path) as file:
        file.write(b"one")
        assert not path.exists()
    with pytest.raises(TypeError), replacing(path) as file:
        file.write("no bytes")
    assert path.read_bytes() == b"one"
    assert os.listdir(path.parent) == ["file"]


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_stays(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "dead")], check=False)
    (left,) = tmp_path.iterdir()
    with replacing(tmp_path / "alive") as file:
        remove_stale_parts(tmp_path)
        assert not left.exists()
        file.write(b"whole")
    assert (tmp_path / "alive").read_bytes() == b"whole"
