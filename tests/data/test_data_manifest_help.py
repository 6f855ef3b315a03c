from pathlib import Path

import pytest

from brainlm_lightning.cli import main
from brainlm_lightning.data.manifest import Manifest, load_manifest
from brainlm_lightning.data.manifest_help import keys_of, reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "manifest.md"


def test_the_page_is_what_the_dataclasses_say():
    assert PAGE.read_text(encoding="utf-8") == reference(Manifest), (
        "write it anew: python -c 'from brainlm_lightning.data.manifest import Manifest; "
        'from brainlm_lightning.data.manifest_help import reference; print(reference(Manifest), end="")\' '
        "> docs/manifest.md"
    )


def test_every_key_has_a_meaning():
    keys = {key.name: key for key in keys_of(Manifest)}
    assert [name for name, key in keys.items() if not key.text] == []
    assert keys["recordings.columns.family"].default == "none"
    assert keys["cohort"].default == "required"
    assert keys["policy"].kind == "`error` or `drop_recording` or `mark`"


def test_the_whole_help_of_prepare_lists_every_key(capsys):
    with pytest.raises(SystemExit):
        main(["prepare", "--help-all"])
    shown = capsys.readouterr().out
    assert all(f"{key.name}:" in shown for key in keys_of(Manifest))


def test_a_manifest_that_is_not_filled_in_names_the_lines(tmp_path):
    (tmp_path / "m.yaml").write_text("cohort: x  # FILL_IN is a mark\nroot: /data\ntr_s: FILL_IN  # seconds\n")
    with pytest.raises(ValueError, match=r"1 keys still say FILL_IN \(line 3: tr_s: FILL_IN"):
        load_manifest(tmp_path / "m.yaml")


def test_a_manifest_that_is_not_utf8_is_one_message(tmp_path):
    (tmp_path / "m.yaml").write_bytes("# café\ncohort: x\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"m.yaml: not UTF-8 at byte 5; save the manifest as UTF-8"):
        load_manifest(tmp_path / "m.yaml")
