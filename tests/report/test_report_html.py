"""The page of a study: from any run folders, broken ones and hostile labels included, and seen in a real browser."""

import json
import re
import shutil
from html import unescape

import numpy as np
import pytest
from chromium import COMMAND, Browser
from numpy.random import default_rng

from brainlm_lightning.cli import main
from brainlm_lightning.report.html import sections
from brainlm_lightning.report.html.pictures import Picture
from brainlm_lightning.report.html.runs import find_runs
from brainlm_lightning.report.html.warnings import FEW_SUBJECTS, warnings
from brainlm_lightning.report.html.write import write_report
from brainlm_lightning.run_folder import write_arrays, write_json, write_text

P, T = 12, 40
EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>'\"><b>"
HIDDEN = "test/sim/hidden0.75"
CONTRAST = "test/sim/task_minus_rest"


def estimate(name, value, spread=0.01):
    return {name: value, f"{name}_low": value - spread, f"{name}_high": value + spread}


def reconstruction():
    scores = {"mae": 0.40, "mae_untrained": 0.1, "smoother": 0.50, "zero": 0.0, "optimum": 0.6}
    metrics = {
        key: value for name, r2 in scores.items() for key, value in estimate(f"{HIDDEN}/{name}/r2_pooled", r2).items()
    }
    for other, difference in (("mae_untrained", 0.3), ("smoother", -0.1), ("zero", 0.4), ("optimum", -0.2)):
        pair = f"{HIDDEN}/mae_minus_{other}"
        metrics |= {f"{pair}/r2_subject": difference, f"{pair}/p_corrected": 0.01}
    metrics |= {f"{HIDDEN}/mae/num_subjects": 20.0, "fitted/smoother/at_edge": 1.0}
    return metrics | {"data/sim/effective_dimensions": 20.0, "data/sim/dimensions_of_frames": 200.0}


def parcels(label="parcel"):
    rng = default_rng(0)
    xyz_mm = rng.uniform(20, 60, (P, 3)).astype(np.float32) * rng.choice([-1, 1], (P, 1))
    found = {"parcels/label": np.array([f"{label} {i}" for i in range(P)]), "parcels/network": np.repeat(["A", "B"], 6)}
    return found | {"parcels/xyz_mm": xyz_mm}


def windows():
    rng = default_rng(1)
    kept = {f"{HIDDEN}/mae/{name}_BPT": rng.normal(size=(1, P, T)) for name in ("truth", "prediction")}
    kept |= {f"{HIDDEN}/mae/hidden_BPT": rng.random((1, P, T)) < 0.5, f"{HIDDEN}/mae/r2_P": rng.random(P)}
    return kept | {"windows/tr_s": np.array(2.0)}


def attention(name="mae_cls_attention"):
    prefix, rng = f"{CONTRAST}/{name}", default_rng(2)
    counts = {
        "num_subjects": 4,
        "num_subjects_seen": 4,
        "num_subjects_a": 4,
        "num_subjects_b": 4,
        "num_subjects_both": 4,
    }
    counts |= {"num_parcels": P, "num_parcels_fdr": 3, "num_parcels_fdr_above": 2, "auc": 0.875}
    arrays = {f"{prefix}/{key}_P": rng.normal(size=P) for key in ("z", "mean_a", "mean_b", "difference")}
    arrays |= {f"{prefix}/p_fdr_P": np.linspace(0, 1, P), f"{prefix}/unit": np.array("share")}
    arrays |= {f"{prefix}/groups": np.array(["task", "rest"])}
    arrays |= {f"{prefix}/matrix_{group}_PP": rng.uniform(size=(P, P)) for group in "ab"}
    return {f"{prefix}/{key}": float(value) for key, value in counts.items()}, arrays


def write_run(folder, metrics, arrays=None, label="sim", **provenance):
    write_json(folder / "metrics.json", metrics)
    cohorts = {label: {"recordings": "ab" * 32, "atlas": "cd" * 32}}
    known = {"git_commit": "0123456789abcdef", "git_dirty": False, "seed": 7, "device": "cpu", "world_size": 1}
    known |= {"precision": "32-true", "time_utc": "2026-01-01T00:00:00+00:00", "ended_utc": "2026-01-01T01:30:00+00:00"}
    known |= {"packages": {"torch": "2.13.0", "brainlm-lightning": "0.2.0"}, "cohorts": cohorts, "pretrained": {}}
    write_json(folder / "provenance.json", known | provenance)
    write_text(folder / "config.yaml", f"experiment: {json.dumps(label)}\nseed_everything: 7\n")
    facts = {
        "cohort": label,
        "atlas": label,
        "parcels": P,
        "networks": 2,
        "tr_s": 2.0,
        "recordings": 40,
        "subjects": 20,
    }
    facts |= {
        "hours": 3.0,
        "frames": [100, 200, 300],
        "split": {"train": [30, 15], "test": [10, 5]},
        "site": {label: [40, 20]},
    }
    facts |= {
        "task": {},
        "phenotypes": {label: 12},
        "simulated": True,
        "effective_dimensions": 20.0,
        "window_frames": 200,
    }
    write_json(folder / "cohorts" / "sim.json", facts)
    if arrays:
        write_arrays(folder / "arrays.npz", arrays)
    return folder


@pytest.fixture
def runs(tmp_path):
    """A fit, a test of reconstruction that kept no arrays, and a contrast that kept some."""
    return write_runs(tmp_path / "runs", {}, parcels() | attention()[1])


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are not drawn, which takes most of a page's time."""
    monkeypatch.setattr(
        sections, "picture", lambda file: Picture("image", file.caption, content="data:image/png;base64,")
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same with all figures and three brains; and its page. Nobody changes them."""
    folder = tmp_path_factory.mktemp("whole")
    runs = write_runs(folder / "runs", parcels() | windows(), parcels() | attention()[1])
    return runs, write_report(folder / "report", [runs])


def write_runs(folder, of_reconstruction, of_attention):
    write_run(folder / "demo" / "version_0", {"val/r2": 0.4})
    (folder / "demo/version_0/checkpoints").mkdir()
    (folder / "demo/version_0/checkpoints/best.ckpt").touch()
    used = {"checkpoint": str(folder / "demo/version_0/checkpoints/best.ckpt"), "checkpoint_sha256": "ef" * 32}
    write_run(folder / "demo" / "version_1", reconstruction(), of_reconstruction, **used)
    write_run(folder / "attention" / "version_0", attention()[0], of_attention, **used)
    return folder


def page_of(tmp_path, *places):
    return write_report(tmp_path / "report", places).read_text(encoding="utf-8")


def text_of(page):
    """What is read on a page, on one line."""
    body = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_the_summary_names_the_strongest_opponent_and_the_verdict(whole):
    text = text_of(whole[1].read_text())
    assert (
        "Reconstruction: 75 % hidden sim R² 0.400 0.500 ▼ mae is behind smoother" in text
    )  # the optimum is no opponent
    assert "2 tests and 1 training on sim" in text


def test_a_table_has_the_papers_number_ours_the_interval_and_the_opponents(whole):
    text = text_of(whole[1].read_text())
    assert "sim, 75 % hidden R² 0.343 (UKB) mae 0.400 [0.390, 0.410] smoother 0.500 [0.490, 0.510] ▼ behind" in text
    assert "mae untrained 0.100 [0.090, 0.110] *↓" in text
    assert "paper, UKB 0.343" in text


def test_planted_truths_stand_beside_what_was_found(whole):
    text = text_of(whole[1].read_text())
    assert "sim, 75 % hidden R² 0.600 [0.590, 0.610] R² 0.400 [0.390, 0.410] by mae" in text
    assert "the expected networks differ area under the curve 0.875 by mae_cls_attention" in text


def test_real_cohorts_have_no_planted_truths(runs, undrawn, tmp_path):
    assert "Planted truths" in page_of(tmp_path / "before", runs)
    for file in runs.glob("*/*/cohorts/sim.json"):
        file.write_text(file.read_text().replace('"simulated": true', '"simulated": false'))
    assert "Planted truths" not in page_of(tmp_path / "after", runs)


def test_figures_are_in_the_page_each_with_a_caption(whole):
    page = whole[1].read_text()
    shown = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", shown)
    assert page.count("<figcaption>") == len(re.findall(r"<figcaption>.{40,}?</figcaption>", page, re.DOTALL)) >= 8
    assert "As figure 3 of the paper." in page
    assert "As figure 5, 9 of the paper." in page
    assert len(re.findall(r'class="brain"', page)) == 3
    assert page.count("plotly.js (gl3d") == 1  # one copy for all brains


def test_provenance_and_warnings(whole):
    text = text_of(whole[1].read_text())
    assert "demo/version_1 test 2026-01-01T00:00:00+00:00 0123456789ab 7 1 × cpu, 32-true 1.5 h" in text
    assert "sim is low-passed: 20 of 200 frames of a window are free" in text
    assert "chosen at the edge of a grid: smoother" in text
    assert "sim is tested on 4 subjects (attention/version_0)" in text
    assert "cannot fall below p = 0.12" in text
    assert "4 of the subjects of sim that were tested were seen in pretraining" in text


def test_few_subjects_are_those_whose_smallest_p_is_not_significant():
    from scipy.stats import wilcoxon

    p = {n: wilcoxon(np.arange(1, n + 1)).pvalue for n in (FEW_SUBJECTS - 1, FEW_SUBJECTS)}
    assert p[FEW_SUBJECTS - 1] > 0.05 > p[FEW_SUBJECTS]


def test_the_methods_cite_what_the_bibliography_holds(whole):
    page, bibliography = (whole[1].with_name(name).read_text() for name in ("index.html", "references.bib"))
    text = text_of(page)
    assert "The cohort sim was simulated and holds 40 recordings of 20 subjects (3 hours, repetition time 2 s)" in text
    cited = set(re.findall(r"@(\w+)\]", text)) - {"key"}  # of the line that explains the form
    assert cited == set(re.findall(r"@\w+\{(\w+),", bibliography)) != set()


@pytest.mark.parametrize("deleted", ["demo/version_0", "demo/version_1", "attention/version_0"])
def test_a_deleted_run_folder_is_said(runs, undrawn, tmp_path, deleted):
    def missing(page):
        return text_of(page[page.index('id="missing"') : page.index('id="origins"')])

    before = missing(page_of(tmp_path, runs))
    shutil.rmtree(runs / deleted)
    after = missing(page_of(tmp_path, runs))
    said = {
        "demo/version_0": "its run folder is not in this report",
        "demo/version_1": "Reconstruction (table 1 of the paper) : no run of this report answers it",
        "attention/version_0": "Attention : no run of this report answers it",
    }[deleted]
    assert said in after
    assert said not in before


def test_runs_that_were_copied_from_another_machine_miss_no_model_that_came_along(runs, undrawn, tmp_path):
    copied = shutil.move(runs, tmp_path / "copied")
    assert "its run folder is not in this report" not in page_of(tmp_path / "all", copied)
    shutil.rmtree(copied / "demo" / "version_0")
    assert "its run folder is not in this report" in page_of(tmp_path / "less", copied)


def damage(folder, how):
    match how:
        case "empty":
            shutil.rmtree(folder)
            folder.mkdir()
        case "truncated arrays":
            data = (folder / "arrays.npz").read_bytes()
            (folder / "arrays.npz").write_bytes(data[: len(data) // 2])
        case "a text in the metrics":
            write_json(folder / "metrics.json", {"test/sim/hidden0.5/mae/r2_pooled": "high"})
        case "a list as provenance":
            (folder / "provenance.json").write_text("[1, 2]")
        case "odd provenance":
            write_json(
                folder / "provenance.json", {"cohorts": ["sim"], "pretrained": 3, "packages": "x", "time_utc": 5}
            )
        case "odd settings":
            (folder / "config.yaml").write_text("- just\n- a list\n")
        case "odd facts":
            write_json(folder / "cohorts" / "sim.json", {"cohort": "sim", "frames": 5, "split": 3, "phenotypes": [1]})
        case "arrays of other shapes":
            arrays = attention()[1] | {f"{CONTRAST}/mae_cls_attention/z_P": np.zeros(3)}
            write_arrays(folder / "arrays.npz", parcels() | arrays)
        case "not finite":
            write_json(folder / "metrics.json", {f"{HIDDEN}/mae/r2_pooled": None})


@pytest.mark.parametrize(
    "how",
    ["empty", "truncated arrays", "a text in the metrics", "a list as provenance", "odd provenance", "odd settings",
     "odd facts", "arrays of other shapes", "not finite"],
)  # fmt: skip
def test_a_broken_run_folder_is_said_and_the_others_are_shown(runs, request, tmp_path, how):
    if how != "arrays of other shapes":
        request.getfixturevalue("undrawn")
    damage(runs / "attention" / "version_0", how)
    text = text_of(page_of(tmp_path, runs))
    assert "mae is behind smoother" in text
    assert re.search(r"attention/version_0( : | cannot be shown)", text)


def test_no_runs_at_all_are_a_page_that_says_what_to_run(tmp_path):
    (tmp_path / "runs").mkdir()
    text = text_of(page_of(tmp_path, tmp_path / "runs"))
    assert "No run of this report holds results of a test" in text
    assert "python -m brainlm_lightning.cli test --config experiments/network.yaml" in text


def test_a_failed_step_of_a_study_is_said(runs, undrawn, tmp_path):
    write_json(runs / "reproduce/study.json", {"steps": {"table 4": {"status": "failed", "why": "no room"}}})
    assert "Step “table 4” of the study failed : no room" in text_of(page_of(tmp_path, runs))


def test_nothing_of_a_cohort_is_markup(tmp_path):
    hostile_runs(tmp_path / "runs")
    page = page_of(tmp_path, tmp_path / "runs")
    assert "<img src=x" not in page
    assert "<script>window" not in page
    assert len(re.findall(r"<script", page)) == len(re.findall(r'<script type="application/json"', page)) + 2
    assert "&lt;img src=x" in page


def hostile_runs(folder):
    quoted = EVIL.replace("/", "%2F")
    metrics = {
        name.replace("/sim/", f"/{quoted}/").replace("smoother", quoted): of for name, of in reconstruction().items()
    }
    used = {"git_commit": EVIL, "device": EVIL, "seed": EVIL, "packages": {EVIL: EVIL}}
    kept = {name.replace("/sim/", f"/{quoted}/"): of for name, of in (parcels(EVIL) | windows()).items()}
    run = write_run(folder / "demo" / "version_0", metrics, kept, label=EVIL, **used)
    write_text(run / "cohorts" / "sim.html", f"<p>{EVIL}")
    found, arrays = attention(f"{quoted}_cls_attention")
    write_run(folder / "attention" / "version_0", found, parcels(EVIL) | arrays, label=EVIL, **used)
    (folder / "x<img src=x onerror=window.hacked=3>" / "version_0").mkdir(parents=True)


def test_the_newest_test_of_an_experiment_is_shown(runs):
    changed = reconstruction() | estimate(f"{HIDDEN}/mae/r2_pooled", 0.45)
    write_run(runs / "demo" / "version_10", changed)
    assert [run.name for run in find_runs([runs]).tests] == ["attention/version_0", "demo/version_10"]
    assert [run.name for run in find_runs([runs / "demo" / "version_1"]).tests] == ["demo/version_1"]
    assert [run.name for run in find_runs([runs / "demo"]).tests] == ["demo/version_10"]


def test_each_warning_stands_once(runs):
    found = warnings(find_runs([runs, runs]))
    assert len(found) == len(set(found)) == 4


def test_the_command_writes_the_page(runs, undrawn, tmp_path, capsys):
    main(["report", str(runs), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "index.html")
    assert (tmp_path / "out" / "references.bib").stat().st_size > 1_000


def test_the_same_runs_give_the_same_bytes(whole, tmp_path):
    assert page_of(tmp_path, whole[0]) == whole[1].read_text()


@pytest.fixture
def browser(tmp_path):
    if COMMAND is None:
        pytest.skip("no chromium; install it to see the pages in a browser (Debian: apt install chromium)")
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


IMAGES = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
# How far the cortex reaches from the middle of its scene to the edge, at most, as the camera sees it.
REACH = """(() => {
  const element = document.querySelector(".brain"), scene = element._fullLayout.scene._scene;
  const { model, view, projection } = scene.glplot.cameraParams;
  const times = (m, p) => [0, 1, 2, 3].map((row) => [0, 1, 2, 3].reduce((sum, k) => sum + m[row + 4 * k] * p[k], 0));
  let most = 0;
  for (const { x, y, z } of element.data.slice(0, 2))
    for (let i = 0; i < x.length; i += 1) {
      const point = [x[i] * scene.dataScale[0], y[i] * scene.dataScale[1], z[i] * scene.dataScale[2], 1];
      const seen = times(projection, times(view, times(model, point)));
      most = Math.max(most, Math.abs(seen[0] / seen[3]), Math.abs(seen[1] / seen[3]));
    }
  return most;
})()"""
EYE = "JSON.stringify(document.querySelector('.brain').layout.scene.camera.eye)"


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, False), (1440, True)])
def test_a_browser_shows_everything_and_complains_of_nothing(whole, browser, width, dark):
    browser.open(whole[1], width, 900, dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.run("document.querySelector('.brain').scrollIntoView()")
    browser.wait("document.querySelector('.brain').dataset.drawn === 'yes'")
    assert 0.5 < browser.run(REACH) < 1  # the whole brain is in its scene
    before = browser.run(EYE)
    browser.run("document.querySelector('button[data-view=above]').click()")
    browser.wait(f"{EYE} !== '{before}'")  # it turns
    for number in range(browser.run("document.querySelectorAll('.brain').length")):
        browser.run(f"document.querySelectorAll('.brain')[{number}].scrollIntoView()")
        browser.wait(f"document.querySelectorAll('.brain')[{number}].dataset.drawn === 'yes'")
    assert browser.run(IMAGES) == 0
    assert browser.said == []
    assert {url.split(":")[0] for url in browser.fetched} == {"file", "data"}


def test_in_a_browser_no_label_runs(tmp_path, browser):
    hostile_runs(tmp_path / "runs")
    browser.open(write_report(tmp_path / "report", [tmp_path / "runs"]))
    browser.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    browser.run("document.querySelector('.brain').scrollIntoView()")
    browser.wait("document.querySelector('.brain').dataset.drawn === 'yes'")
    assert browser.run("window.hacked === undefined")
    assert browser.run("document.querySelectorAll('img[src=x]').length") == 0
