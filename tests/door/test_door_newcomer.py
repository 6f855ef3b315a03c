"""The way of a newcomer: text files and a table of people, by the commands of `docs/first_run.md` and no others."""

import re
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import REPOSITORY, run_main

import brainlm_lightning
from brainlm_lightning.run_folder import newest_run, read_metrics

SUBJECTS, FRAMES = 30, 150
PAGE = (REPOSITORY / "docs" / "first_run.md").read_text()
SECTION = re.search(r"## Your own recordings\n(.*?)\n## ", PAGE, re.DOTALL)[1]
COMMANDS, SHARING = (
    [
        shlex.split(line, comments=True)[3:]
        for line in block.splitlines()
        if line.startswith("python -m brainlm_lightning.cli ")
    ]
    for block in re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
)
FEW_STEPS = shlex.split(re.search(r"`(--trainer\.max_steps [^`]*)`", SECTION)[1])


def make_lab(folder, parcels):
    """What a laboratory has: a text file a person, who they are, and where the parcels lie."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    mixing = rng.normal(0, 1, (8, parcels))
    names = [f"sub-{number:02d}" for number in range(1, SUBJECTS + 1)]
    for name in names:
        noise = rng.normal(0, 1, (FRAMES + 5, 8))
        states = sum(noise[lag : lag + FRAMES] for lag in range(6))
        series = states @ mixing + 2 * rng.normal(0, 1, (FRAMES, parcels))
        np.savetxt(folder / f"{name}_bold.txt", series, fmt="%.4f")
    people = {"participant_id": names, "age": rng.integers(18, 80, SUBJECTS), "sex": ["F", "M"] * (SUBJECTS // 2)}
    pd.DataFrame(people).to_csv(folder / "participants.tsv", sep="\t", index=False)
    table = {"index": range(1, parcels + 1), "label": [f"P{number}" for number in range(parcels)]}
    places = dict(zip("xyz", rng.uniform(-60, 60, (3, parcels)).round(1), strict=True))
    pd.DataFrame(table | places).to_csv(folder / "parcels.tsv", sep="\t", index=False)


def fill_in(manifest):
    """What the page asks of a newcomer: the one thing that these files do not say."""
    text = manifest.read_text()
    marked = [line.strip() for line in text.splitlines() if "FILL_IN" in line and not line.startswith("#")]
    assert [line.partition(":")[0] for line in marked] == ["tr_s", "tr_s"]
    manifest.write_text(text.replace("tr_s: FILL_IN", "tr_s: 2.0"))


def follow(command, more):
    """Runs a command of the page; `--dry-run` ends with exit status 0."""
    if "--dry-run" in command:
        with pytest.raises(SystemExit) as looked:
            run_main(command)
        assert looked.value.code == 0
        return
    run_main([*command, *(more if command[0] == "fit" else [])])


# A whole training takes three minutes; the few steps that the page shows, of few parcels, half of one.
@pytest.mark.parametrize(
    ("parcels", "more"), [pytest.param(10, FEW_STEPS, id="few_steps"), pytest.param(100, [], marks=pytest.mark.slow)]
)
def test_the_page_leads_from_text_files_to_a_model_that_can_be_loaded(parcels, more, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BRAINLM_DATA", raising=False)
    (tmp_path / "experiments").symlink_to(REPOSITORY / "experiments")
    make_lab(tmp_path / "my_cohort", parcels)
    assert [command[0] for command in COMMANDS] == (
        ["describe", "prepare", "prepare", "verify", "fit", "test", "fit", "test", "export"]
    )
    for command in COMMANDS:
        follow(command, more)
        if command[0] == "describe":
            fill_in(tmp_path / "my_cohort.yaml")
    shown = " ".join(capsys.readouterr().out.split())
    assert f"30 of 30 recordings read whole: {FRAMES} frames at tr_s 2.0" in shown

    runs = tmp_path / "runs"
    metrics = read_metrics(newest_run(runs / "pretrain_small", "metrics.json"))
    model, gaussian = (
        metrics[f"test/my_cohort/hidden0.75/{name}/r2_pooled"] for name in ("mae", "conditional_gaussian")
    )
    assert model > (0 if more else 0.8 * gaussian)
    assert gaussian > (0 if more else 0.5)
    predictions = pd.read_csv(newest_run(runs / "clinical_small", "metrics.json") / "predictions.csv")
    assert predictions.groupby("method")["subject"].nunique().eq(SUBJECTS).all()
    assert {"frozen", "untrained_frozen", "connectivity_linear"} <= set(predictions["method"])

    named: dict = {}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], named)
    assert named["about"]["parcels"]["label"] == [f"P{number}" for number in range(parcels)]
    assert named["about"]["tr_s"] == 2.0
    assert named["about"]["scaling"]["recipe"] == "recording_zscore"
    shutil.rmtree(runs / "clinical_small")  # its commands are not those that follow
    share(tmp_path, more)


def share(folder, more):
    """The README's commands from a pretrained model over its export to a fine-tuned one and its embeddings."""
    assert [command[0] for command in SHARING] == ["export", "fit", "export", "embed"]
    for number, command in enumerate(SHARING):
        follow(command, more)
        if number == 0:
            shutil.rmtree(folder / "runs")  # what was exported needs no run
    shared, tuned = (brainlm_lightning.load(folder / name) for name in ("my_model", "my_tuned_model"))
    series = np.loadtxt(folder / "my_cohort" / "sub-01_bold.txt", dtype=np.float32)
    with np.load(folder / "embeddings.npz") as found:
        expected = tuned.embed(series, tr_s=2.0, atlas="parcels")
        assert np.array_equal(found["cls"][0], expected["cls"])
    assert not np.array_equal(expected["cls"], shared.embed(series, tr_s=2.0, atlas="parcels")["cls"])
    assert tuned.about["tuned"] == {"target": "age", "method": "tuned", "fold": 0}
    assert set(tuned.about["subjects"]["train"]) > set(shared.about["subjects"]["train"])
    module = brainlm_lightning.from_pretrained(folder / "my_tuned_model")
    assert all(map(torch.equal, module.state_dict().values(), tuned.model.state_dict().values()))
