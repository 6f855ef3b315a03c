import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainlm_lightning.checkpoint.description import KEY, describe
from brainlm_lightning.checkpoint.files import PREFIX
from brainlm_lightning.checkpoint.pretrained import load_pretrained, refuse_seen, untrained
from brainlm_lightning.checkpoint.start import start_model
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.scaling import ScalingStatistics
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder

SMALL = MAEConfig(patch_frames=10, embed_dim=40, depth=1, num_heads=2, decoder_embed_dim=40, decoder_depth=1)


def ready(**options):
    data = CohortDataModule("tiny", **{"window_frames": 40, "global_batch_size": 4, "num_workers": 0} | options)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, strategy=strategy, accumulate_grad_batches=1)
    data.setup("fit")
    return data


@pytest.fixture
def saved(tiny_store, tmp_path):
    """The checkpoint of a model that had the kernel start and was trained by a hair, and its DataModule."""
    data = ready(seed=3)
    return save(data, tmp_path / "model.ckpt"), data


def save(data, path):
    net, _ = start_model(lambda geometry: MaskedAutoencoder(geometry, SMALL), data, "kernel", data.seed)
    weights = {f"{PREFIX}{name}": value for name, value in net.state_dict().items()}
    weights[f"{PREFIX}cls_D"] = net.cls_D.detach() + 1
    torch.save({"state_dict": weights, KEY: describe(net, data, "kernel")}, path)
    return path


def test_the_control_is_the_model_before_its_first_step_to_the_bit(saved):
    path, data = saved
    pretrained = load_pretrained(path, ready(seed=8))
    control = untrained(pretrained, ready(seed=8))
    expected, _ = start_model(lambda geometry: MaskedAutoencoder(geometry, SMALL), data, "kernel", 3)
    here, there = control.state_dict(), expected.state_dict()
    assert all(torch.equal(here[name], there[name]) for name in there)
    trained = pretrained.model.state_dict()
    assert [name for name in there if not torch.equal(trained[name], there[name])] == ["cls_D"]
    random = untrained(pretrained, ready(seed=8), "standard").state_dict()
    assert float(random["patch_projection.weight"].std()) == pytest.approx(0.02, rel=0.2)


def test_a_model_sees_data_scaled_as_its_own_were(saved):
    path, _ = saved
    content = torch.load(path, weights_only=True)
    statistics = content[KEY]["scaling"]["statistics"]
    statistics["robust"]["scale"] = [2 * value for value in statistics["robust"]["scale"]]
    torch.save(content, path)
    before, after = ready(), ready()
    after.adopt_statistics(load_pretrained(path, after).statistics)
    row = int(before.test_sets[0].rows[0])
    assert after.dataset.scaled_recording(row)[0] == pytest.approx(before.dataset.scaled_recording(row)[0] / 2)
    assert json.dumps(after.statistics().to_json()) == json.dumps(ScalingStatistics.from_json(statistics).to_json())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scaling": "recording_zscore"}, "scaling recipe.*'robust'.*'recording_zscore'"), ({"window_frames": 20}, "40")],
)
def test_other_data_than_the_model_knows_are_refused(saved, options, message):
    with pytest.raises(ValueError, match=f"(?s)does not fit.*{message}"):
        load_pretrained(saved[0], ready(**options))


def test_a_model_knows_whom_it_has_seen_and_names_nobody(saved):
    path, data = saved
    table = data.recordings.table
    pretrained = load_pretrained(path, ready())
    assert np.array_equal(pretrained.seen(table), table["split"].isin(["train", "val"]))
    assert not set(table["subject_id"]) & set(json.dumps(pretrained.about).split('"'))
    tested = table.iloc[data.test_sets[0].rows]
    refuse_seen(pretrained.about, path, tested, "of the test set")
    with_one = table.iloc[[*data.test_sets[0].rows, data.train_rows[0]]]
    with pytest.raises(ValueError, match=f"1 of {len(tested) + 1} subjects of the test set, or relatives of theirs"):
        refuse_seen(pretrained.about, path, with_one, "of the test set")


def test_a_model_knows_the_relatives_of_whom_it_has_seen(make_tiny_store, tmp_path, monkeypatch):
    """A sibling who comes later, in a cohort of the same families, has a subject name that no model has seen."""

    def in_pairs(series, table):
        table["family"] = [f"F{number // 2}" for number in range(len(table))]

    make_tiny_store(tmp_path, "--recordings.columns.family=family", alter=in_pairs)
    monkeypatch.setenv("BRAINLM_DATA", str(tmp_path))
    data = ready()
    pretrained = load_pretrained(save(data, tmp_path / "model.ckpt"), ready())
    sibling = data.recordings.table.iloc[data.train_rows[:1]].assign(subject_id="somebody new")
    assert pretrained.seen(sibling).all()
    assert not pretrained.seen(sibling.assign(family="another")).any()
    assert not pretrained.seen(sibling.assign(family="")).any()
