import json
import os
import re
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from tiny import CONFIG, arguments, door, run_main

from brainlm_lightning.checkpoint.pretrained import load_model
from brainlm_lightning.data.store import Store


@pytest.fixture(scope="module")
def trained(stores, tmp_path_factory):
    """``last.ckpt`` of two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        return door("fit", tmp_path_factory.mktemp("trained")) / "checkpoints" / "last.ckpt"


@pytest.fixture
def own_stores(stores, tmp_path, monkeypatch):
    """A copy of the stores, to be damaged."""
    copied = tmp_path / "stores"
    shutil.copytree(stores, copied)
    monkeypatch.setenv("BRAINLM_DATA", str(copied))
    return copied


def refused(command, capsys) -> str:
    """The one message of a command that ends with an error; no traceback, and no results are left."""
    with pytest.raises(SystemExit) as ended:
        run_main(command)
    printed = capsys.readouterr().err
    message = ended.value.code if isinstance(ended.value.code, str) else printed
    assert ended.value.code not in (0, None)
    assert "Traceback" not in printed
    return message


REFUSED_BY = {  # who refuses -> the verb and its settings
    "the parser": ("fit", {"data.global_batch_size": "many"}),
    "the data": ("fit", {"data.cohorts": "absent"}),
    "the masks of training": ("fit", {"model.init_args.masking.ratio": 0.001}),
    "the model": ("fit", {f"{CONFIG}.num_heads": 3}),
    "the checkpoint's own model": ("fit", {f"{CONFIG}.depth": 2}),
    "the schedule of a resumed run": ("fit", {"data.windows_per_recording": 2, "trainer.max_steps": 4}),
    "the test's data": ("test", {"data.test_cohorts": "[absent]"}),
    "the test's checkpoint": ("test", {f"{CONFIG}.depth": 2}),
    "the validation's checkpoint": ("validate", {f"{CONFIG}.depth": 2}),
}


@pytest.mark.parametrize("case", REFUSED_BY)
def test_nothing_is_left_of_a_refused_run(case, trained, runs, capsys):
    verb, settings = REFUSED_BY[case]
    refused(arguments(verb, runs, {"ckpt_path": trained} | settings), capsys)
    assert not runs.exists()


SETTINGS = {
    "unknown cohort": (
        {"data.cohorts": "absent"},
        r"no store in .*absent.*prepare --config data_manifests/absent.yaml",
    ),
    "micro-batch": ({"data.micro_batch_size": 3}, "by micro_batch_size 3; choose a divisor, for instance 2"),
    "masking ratio": (
        {"model.init_args.masking.ratio": 1.5},
        r"masking.ratio is \[1\.5\]; expected shares from 0 to 1",
    ),
    "masking range": ({"model.init_args.masking.ratio": "[0.2,1.5]"}, r"masking.ratio is \[0\.2, 1\.5\]; expected"),
    "falling range": ({"model.init_args.masking.ratio": "[0.9,0.2]"}, "in rising order"),
    "validation ratio": ({"model.init_args.masking.validation_ratio": -0.1}, r"validation_ratio is \[-0\.1\]"),
    "typo in a key": (
        {"data.widnow_frames": 40},
        r"^ValueError: unknown option --data.widnow_frames; did you mean --data.window_frames\?$",
    ),
    "typo in the model": (
        {f"{CONFIG}.embed_dmi": 40},
        rf"^ValueError: unknown option --{CONFIG}.embed_dmi; did you mean --{CONFIG}.embed_dim or ",
    ),
    "short name": (
        {"model.patch_frames": 10},
        rf"^ValueError: unknown option --model.patch_frames; did you mean --{CONFIG}.patch_frames\?$",
    ),
    "type": ({"data.global_batch_size": "many"}, "(?s)global_batch_size.*Expected a <class 'int'>.*fit --help"),
    "choice": ({"data.scaling": "zscore"}, "robust_centred"),
    "patch and window": ({f"{CONFIG}.patch_frames": 15}, "window of 40 frames does not divide into patches of 15"),
    "heads": ({f"{CONFIG}.num_heads": 3}, "width of 40 does not divide into 3 heads"),
    "window too long": ({"data.window_frames": 200}, "shorter than a window of 200 frames; the longest has 100"),
    "batch too large": ({"data.global_batch_size": 512}, "512: set data.global_batch_size to 23 or less, or"),
    "a model too narrow": ({f"{CONFIG}.embed_dim": 12, f"{CONFIG}.decoder_embed_dim": 12}, "width of 12 is too narrow"),
    "no such checkpoint": ({"ckpt_path": "absent.ckpt"}, "no checkpoint at absent.ckpt"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_wrong_setting_is_one_clear_error(case, runs, capsys):
    settings, message = SETTINGS[case]
    text = refused(arguments("fit", runs, settings), capsys)
    assert re.search(message, text), text
    assert not list(runs.rglob("metrics.json"))


def test_a_test_ratio_above_1_is_refused(runs, trained, capsys):
    settings = {"ckpt_path": trained, "model.init_args.test_ratios": "[0.5,1.2]"}
    assert "test_ratios is [0.5, 1.2]; expected shares" in refused(arguments("test", runs, settings), capsys)
    assert not list(runs.rglob("metrics.json"))


def test_a_missing_environment_variable_is_named(runs, tmp_path, capsys):
    config = tmp_path / "linked.yaml"
    config.write_text("runs: ${oc.env:BRAINLM_ABSENT}/runs\n")
    verb, first, *settings = arguments("fit", runs)
    settings = [given for given in settings if not given.startswith("--runs")]
    assert "BRAINLM_ABSENT" in refused([verb, first, f"--config={config}", *settings], capsys)
    swept = "--sweep={over: {model.init_args.optimisation.learning_rate: [0.001]}}"
    assert "BRAINLM_ABSENT" in refused([verb, first, f"--config={config}", swept, *settings], capsys)


def test_a_typo_in_a_file_is_one_message_with_the_nearest_name(runs, tmp_path, capsys):
    config = tmp_path / "typo.yaml"
    config.write_text("data:\n  global_batchsize: 4\n")
    verb, first, *settings = arguments("fit", runs)
    message = refused([verb, first, f"--config={config}", *settings], capsys)
    assert message.startswith("ValueError: unknown option --data.global_batchsize; did you mean --data.global_batch_")
    assert "\n" not in message


def test_a_test_without_a_training_says_so(runs, capsys):
    assert "fit --config experiments/demo.yaml" in refused(arguments("test", runs), capsys)


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture(params=["old format", "hidden in a checkpoint", "in the hyper-parameters"])
def evil(request, trained, tmp_path):
    """A checkpoint that makes a folder when it is unpickled; and that folder."""
    path, marker = tmp_path / "evil.ckpt", tmp_path / "marker"
    if request.param == "old format":
        torch.save(Evil(marker), path, _use_new_zipfile_serialization=False)
    else:
        name = "extra" if request.param.startswith("hidden") else "hyper_parameters"
        torch.save(torch.load(trained, weights_only=True) | {name: {"seed": Evil(marker)}}, path)
    return path, marker


@pytest.mark.parametrize("verb", ["fit", "test", "validate"])
def test_a_malicious_checkpoint_runs_nothing(verb, evil, runs, capsys):
    path, marker = evil
    assert "cannot be read: it is damaged, or holds objects" in refused(
        arguments(verb, runs, {"ckpt_path": path}), capsys
    )
    assert not marker.exists()


def test_a_malicious_checkpoint_is_not_loaded_from_python(evil):
    path, marker = evil
    with pytest.raises(ValueError, match="holds objects other than tensors"):
        load_model(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # it would have
    assert marker.exists()


def test_a_truncated_checkpoint_is_one_clear_error(trained, runs, tmp_path, capsys):
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(trained.read_bytes()[: trained.stat().st_size // 2])
    text = refused(arguments("fit", runs, {"ckpt_path": damaged}), capsys)
    assert "damaged.ckpt cannot be read: it is damaged" in text


def other_atlas(store):
    table = (store / "parcels.csv").read_text().splitlines()
    table[1], table[2] = table[2], table[1]
    (store / "parcels.csv").write_text("\n".join(table) + "\n")
    metadata = json.loads((store / "store.json").read_text())  # as if it had been prepared with this atlas
    metadata["tables"]["parcels.csv"] = sha256((store / "parcels.csv").read_bytes()).hexdigest()
    (store / "store.json").write_text(json.dumps(metadata))


def other_tr(store):
    metadata = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps(metadata | {"tr_s": 2.0}))


def other_statistics(store):
    metadata = json.loads((store / "store.json").read_text())
    metadata["statistics"]["robust"]["scale"][3] *= 1.5
    (store / "store.json").write_text(json.dumps(metadata))


STORES = {
    "parcel table and order": other_atlas,
    "seconds between frames (tr_s): the checkpoint has 1.0, this experiment 2.0": other_tr,
    "scaling statistics": other_statistics,
}


@pytest.mark.parametrize("verb", ["fit", "test"])
@pytest.mark.parametrize("difference", STORES)
def test_a_checkpoint_of_other_data_is_refused(difference, verb, trained, own_stores, tmp_path, capsys):
    STORES[difference](own_stores / "tiny")
    text = refused(arguments(verb, tmp_path / "runs", {"ckpt_path": trained}), capsys)
    assert "the checkpoint does not fit this experiment" in text
    assert difference in text
    assert text.count("the checkpoint has") == 1


EXPERIMENTS = {
    "scaling recipe: the checkpoint has 'robust', this experiment 'none'": {"data.scaling": "none"},
    "'embed_dim': 48": {f"{CONFIG}.embed_dim": 48},
    "'depth': 2": {f"{CONFIG}.depth": 2},
    "frames of a window: the checkpoint has 40, this experiment 50": {"data.window_frames": 50},
}


@pytest.mark.parametrize("verb", ["fit", "test"])
@pytest.mark.parametrize("difference", EXPERIMENTS)
def test_a_checkpoint_of_another_experiment_is_refused(difference, verb, trained, runs, capsys):
    text = refused(arguments(verb, runs, {"ckpt_path": trained, **EXPERIMENTS[difference]}), capsys)
    assert "the checkpoint does not fit this experiment" in text
    assert difference in text


@pytest.mark.parametrize("verb", ["fit", "test"])
@pytest.mark.parametrize(("entry", "message"), [(None, "has no description"), ({"format_version": 99}, "format 99")])
def test_a_checkpoint_of_another_package_is_refused(entry, message, verb, trained, runs, tmp_path, capsys):
    content = torch.load(trained, weights_only=True) | {"brainlm": entry}
    torch.save(content, tmp_path / "foreign.ckpt")
    assert message in refused(arguments(verb, runs, {"ckpt_path": tmp_path / "foreign.ckpt"}), capsys)


def test_the_command_line_outranks_the_checkpoint(trained, runs, tmp_path):
    content = torch.load(trained, weights_only=True)
    content["hyper_parameters"] = {"test_ratios": [0.3], "masking": {"ratio": 0.1}}
    torch.save(content, tmp_path / "told.ckpt")
    settings = {"ckpt_path": tmp_path / "told.ckpt", "model.init_args.test_ratios": "[0.6]"}
    tested = door("test", runs, settings)
    names = json.loads((tested / "metrics.json").read_text())
    assert {name.split("/")[2] for name in names if name.startswith("test/")} == {"hidden0.6"}


def shard(stores):
    return stores / "tiny" / "shard-00000.h5"


def test_a_truncated_shard_is_named_before_training(own_stores, tmp_path, capsys):
    lost = Store(own_stores / "tiny").recordings["recording_id"].iloc[-1]
    os.truncate(shard(own_stores), shard(own_stores).stat().st_size - 100)
    text = refused(arguments("fit", tmp_path / "runs"), capsys)
    assert f"1 recordings are damaged, from {lost!r} on" in text
    assert lost in refused(["verify", str(own_stores / "tiny")], capsys)


def test_a_flipped_bit_is_found_by_verify(own_stores, capsys):
    store = Store(own_stores / "tiny")
    row, frame = 7, 12
    series = store.metadata["shards"][0]["offsets"]["series"]
    position = series + (int(store.recordings["first_frame"][row]) + frame) * 16 * store.dtype.itemsize
    content = bytearray(shard(own_stores).read_bytes())
    content[position] ^= 1
    shard(own_stores).write_bytes(content)
    text = refused(["verify", str(own_stores / "tiny")], capsys)
    assert f"recording {store.recordings['recording_id'][row]!r} (shard 0): its bytes changed" in text
    assert "1 problems" in text


def test_a_store_that_is_no_json_is_named(own_stores, tmp_path, capsys):
    (own_stores / "tiny" / "store.json").write_text("{")
    assert "store.json" in refused(arguments("fit", tmp_path / "runs"), capsys)


def test_a_wrong_orientation_prints_both_shapes(tmp_path, capsys):
    source = tmp_path / "source"
    run_main(["simulate", str(source), "--subjects=4", "--parcels=16", "--frames=60", "--networks=4"])
    capsys.readouterr()
    settings = {"root": source, "recordings.orientation": "parcels_frames", "min_frames": 20, "cohort": "turned"}
    command = ["prepare", "--config=data_manifests/simulated.yaml", "--jobs=1", f"--output={tmp_path / 'turned'}"]
    text = refused([*command, *(f"--{name}={value}" for name, value in settings.items())], capsys)
    assert "(60, 16)" in text
    assert "16" in text
    assert not (tmp_path / "turned").exists()


def test_a_store_in_a_folder_of_another_name_is_not_made(tmp_path, capsys):
    source, output = tmp_path / "source", tmp_path / "site2"
    run_main(["simulate", str(source), "--subjects=8", "--parcels=16", "--frames=60", "--networks=4"])
    command = ["prepare", "--config=data_manifests/simulated.yaml", "--jobs=1", f"--root={source}", "--min_frames=20"]
    message = refused([*command, f"--output={output}"], capsys)
    assert "experiments look for cohort 'simulated' in a folder of that name" in message
    assert f"--output {tmp_path / 'simulated'}, or rename the cohort with --cohort site2" in message
    assert not output.exists()
    run_main([*command, f"--output={output}", "--cohort=site2"])
    assert Store(output).name == "site2"
