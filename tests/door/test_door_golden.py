"""Golden numbers: tiny seeded runs of every question, whose metrics are kept in ``golden/``.

A change that should not alter numbers is shown not to. After one that should, record them again and say in the
changelog what moved:  ``pytest tests/door/test_door_golden.py --golden record``; ``--golden exact`` compares to the
last digit, which holds on one machine, the default to a relative 1e-4, which holds across processors with the same
instructions.
"""

import json
import math
from pathlib import Path

import pytest
from tiny import BASE, arguments, run_main

from brainlm_lightning.run_folder import newest_run, read_metrics

GOLDEN = Path(__file__).parent / "golden"
MODEL = "model.init_args"
REST, BLOCKS = (f"[{{column: task, equals: {name}}}]" for name in ("rest", "blocks"))
SHARED = {"data.scaling": "robust", "data.cohorts": "tiny"}
CONTRAST = {**SHARED, f"{MODEL}.analysis.subjects": "all", f"{MODEL}.analysis.permutations": 99}


def door(verb: str, runs: Path, settings: dict | None = None, config: str = BASE) -> Path:
    """Runs a command; returns its run folder: there are several experiments below ``runs``."""
    run_main(arguments(verb, runs, settings, config))
    return newest_run(runs / Path(config).stem, "metrics.json")


@pytest.fixture(scope="module", autouse=True)
def stores(make_tiny_store, tmp_path_factory):
    """Two cohorts of 20 parcels in three networks, rest and task recordings of 32 and 16 subjects."""
    root = tmp_path_factory.mktemp("golden_stores")
    for seed, name in enumerate(("tiny", "other")):
        sizes = {"parcels": 20, "networks": 3, "atlas_seed": 1, "frames": 100, "subjects": 32, "task_recordings": 16}
        make_tiny_store(root, "--split.test=0.3", name=name, seed=seed, **sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(root))
        yield root


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all golden runs."""
    return tmp_path_factory.mktemp("golden_runs")


@pytest.fixture(scope="module")
def pretrained(runs):
    """The run folder of a masked autoencoder after four steps."""
    return door("fit", runs, {"trainer.max_steps": 4})


def within(golden: dict[str, float], key: str, share: float) -> object:
    """A golden number, give or take a share of it, or of 1 where it is smaller.

    Of a difference of two squared errors it is a share of the smaller error: where both may move by that share, so may
    what is left of them.
    """
    first, minus, rest = key.partition("_minus_")
    second, _, score = rest.partition("/")
    size = 1.0
    if minus and score.startswith("squared_error"):
        size = min(golden[f"{method}/mse"] for method in (first, f"{first.rpartition('/')[0]}/{second}"))
    return pytest.approx(golden[key], nan_ok=True, rel=share, abs=share * max(1.0, size))


@pytest.fixture
def check(request):
    """Compares a run's metrics with the golden ones, or records them."""

    def compare(name: str, folder: Path) -> None:
        path, how = GOLDEN / f"{name}.json", request.config.getoption("--golden")
        found = {key: value for key, value in read_metrics(folder).items() if not key.startswith("speed/")}
        if how == "record":
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
        golden = {key: math.nan if value is None else value for key, value in json.loads(path.read_text()).items()}
        assert found.keys() == golden.keys()
        assert found == {key: within(golden, key, 0 if how == "exact" else 1e-4) for key in golden}

    return compare


def test_reconstruction(runs, pretrained, check):
    check("reconstruction_fit", pretrained)
    hidden = {"test_ratios": "[0.2, 0.75]", "test_strategies": "{parcels: [0.5], networks: [0.5]}", "baselines": "{}"}
    settings = {f"{MODEL}.{name}": value for name, value in hidden.items()}
    check("reconstruction_test", door("test", runs, {"data.test_cohorts": "[other]", **settings}))


def test_forecast(runs, pretrained, check):
    given = {**SHARED, f"{MODEL}.pretrained": pretrained}
    lstm = door("fit", runs, given, "experiments/forecast_lstm.yaml")
    check("forecast_fit", door("fit", runs, given, "experiments/forecast.yaml"))
    others = {f"{MODEL}.compare_with": f"{{lstm: {lstm.parent}, mae_untuned: {pretrained}}}"}
    settings = {**given, **others, "data.test_cohorts": "[other]"}
    check("forecast_test", door("test", runs, settings, "experiments/forecast.yaml"))


@pytest.mark.parametrize(("name", "column"), [("age", "age"), ("sex", "sex")])
def test_clinical(runs, pretrained, check, name, column):
    path = Path(f"experiments/clinical_{name}.yaml")
    methods = "{over: {model.init_args.method: [frozen, tuned, untrained_frozen], model.init_args.fold: [0, 1]}}"
    settings = {f"{MODEL}.pretrained": pretrained, "sweep": methods, f"{MODEL}.target.column": column}
    settings |= {"trainer.max_steps": 2, "trainer.val_check_interval": 1}
    for verb in ("fit", "test"):
        run_main(arguments(verb, runs, settings, path))
    check(f"clinical_{name}", newest_run(runs / path.stem, "metrics.json"))


def test_networks(runs, pretrained, check):
    for name in ("vae", "gcn"):
        check(f"{name}_fit", door("fit", runs, config=f"experiments/pretrain_{name}.yaml"))
    embeddings = f"{{vae: {runs}/pretrain_vae, gcn: {runs}/pretrain_gcn}}"
    settings = {f"{MODEL}.pretrained": pretrained, f"{MODEL}.embeddings": embeddings}
    check("networks", door("test", runs, settings, "experiments/network.yaml"))


@pytest.mark.parametrize("name", ["perturb", "perturb_decoded"])
def test_perturbation(runs, pretrained, check, name):
    contrast = f"{{rest_to_task: {{sources: {REST}, targets: {BLOCKS}, expected_networks: [network1]}}}}"
    draw = {f"{MODEL}.perturbation.steps": 3, f"{MODEL}.draw.pairs": 5, f"{MODEL}.draw.pairs_at_once": 2}
    settings = {**CONTRAST, **draw, f"{MODEL}.pretrained": pretrained, f"{MODEL}.contrasts": contrast}
    check(name, door("test", runs, settings, f"experiments/{name}.yaml"))


def test_attention(runs, pretrained, check):
    contrast = f"{{task: {{group: {BLOCKS}, against: {REST}, expected_networks: [network1]}}}}"
    settings = {**CONTRAST, f"{MODEL}.pretrained": pretrained, f"{MODEL}.contrasts": contrast}
    check("attention", door("test", runs, settings, "experiments/attention.yaml"))
