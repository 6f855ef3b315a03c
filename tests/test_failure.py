import errno

import pytest

from brainlm_lightning.failure import explained, printable


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "/runs/last.ckpt: the disk is full; free some space"),
        (errno.EDQUOT, "/runs/last.ckpt: the disk is full; free some space"),
        (errno.EACCES, "/runs/last.ckpt: permission denied; change the permissions, or name another folder"),
        (errno.EROFS, "/runs/last.ckpt: the disk is read-only; name another folder"),
    ],
)
def test_an_error_of_the_disk_names_the_file_and_a_way_out(number, advice):
    assert advice in explained(raised(OSError(number, "x", "/runs/last.ckpt")))


def test_control_codes_are_written_out():
    assert printable("a\x1b[2Jb\nc\x07\x9b") == "a\\x1b[2Jb\nc\\x07\\x9b"
    assert "\x1b" not in explained(raised(OSError(errno.ENOENT, "x", "evil\x1b[2J")))
