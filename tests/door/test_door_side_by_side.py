"""Points of a sweep side by side, each a process of its own."""

import fcntl
import os
import signal
import time

import psutil
import pytest
from test_door_sweep import RATE, grid
from tiny import arguments, run_main, started

from brainlm_lightning.points import Point, run_point
from brainlm_lightning.run_folder import BEST, CHOSEN, read_json, read_metrics
from brainlm_lightning.sweep import Command

BOTH = grid([0.001, 0.003], "val/r2")
POINTS = ("learning_rate=0.001", "learning_rate=0.003")


def command(runs, backend, settings=BOTH, **more):
    options = {"cluster": "local"} if backend == "submitit" else {}
    given = {"experiment": "search", "backend": backend, "jobs": 2, **settings, **more}
    return arguments("fit", runs, given | ({"backend_options": options} if options else {}))


def numbers(run):
    return {name: value for name, value in read_metrics(run).items() if not name.startswith("speed/")}


@pytest.fixture(scope="module")
def one_after_the_other(stores, tmp_path_factory):
    """The folder of the sweep, made in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        runs = tmp_path_factory.mktemp("sequential")
        run_main(arguments("fit", runs, {"experiment": "search", **BOTH}))
        return runs / "search"


@pytest.mark.parametrize(
    "backend", ["loky", pytest.param("dask", marks=pytest.mark.slow), pytest.param("submitit", marks=pytest.mark.slow)]
)
def test_points_side_by_side_are_those_of_one_after_the_other(backend, one_after_the_other, runs):
    run_main(command(runs, backend))
    for point in POINTS:
        here, there = (folder / point / "version_0" for folder in (runs / "search", one_after_the_other))
        assert numbers(here) == numbers(there)
        assert "max_steps=2` reached" in (runs / "search" / point / "output.log").read_text()
    assert read_json(runs / "search", CHOSEN) == read_json(one_after_the_other, CHOSEN)
    before = {path: path.stat().st_mtime_ns for path in runs.glob("search/*/*/*")}
    run_main(command(runs, backend))  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in runs.glob("search/*/*/*")} == before


@pytest.mark.slow
def test_a_killed_driver_goes_on_and_no_point_runs_twice(runs):
    """The driver is killed; its points go on, and the next driver waits for them."""
    steps = {"trainer.max_steps": 150, "trainer.val_check_interval": 50, "checkpoint_every": 10}
    driver = started(command(runs, "loky", BOTH | steps))
    until = time.monotonic() + 300
    while len(list(runs.glob("search/*/version_0/checkpoints/last.ckpt"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    assert not list(runs.glob("search/*/*/metrics.json"))
    run_main(command(runs, "loky", BOTH | steps))
    assert sorted(path.name for path in runs.glob("search/*/version_*")) == ["version_0", "version_0"]
    assert read_json(runs / "search", CHOSEN)["scores"].keys() == set(POINTS)


@pytest.mark.slow
def test_a_killed_point_is_resumed_by_the_same_command(runs):
    steps = {"trainer.max_steps": 60, "trainer.val_check_interval": 20, "checkpoint_every": 5}
    driver = started(command(runs, "loky", BOTH | steps))
    until = time.monotonic() + 300
    while len(list(runs.glob("search/*/version_0/checkpoints/last.ckpt"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    for process in psutil.Process(driver.pid).children(recursive=True):
        if any("learning_rate=0.003" in word for word in process.cmdline()):
            process.kill()
    output = driver.communicate(timeout=600)[0]
    assert driver.returncode == 1
    assert "1 of 2 points failed, see " in output
    assert "learning_rate=0.003/output.log; the same command goes on" in output
    run_main(command(runs, "loky", BOTH | steps))
    resumed = runs / "search" / POINTS[1] / "version_1"
    assert read_json(resumed, "provenance.json")["checkpoint"].endswith("version_0/checkpoints/last.ckpt")
    assert (resumed / BEST).is_file()


def test_a_point_that_another_process_holds_is_waited_for(tmp_path):
    """A point is locked until its own process ends, even if who started it is gone."""
    (tmp_path / "version_0").mkdir()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with (tmp_path / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.write(writer, b"1")
            time.sleep(1)
            (tmp_path / "version_0" / "metrics.json").write_text("{}")
        os._exit(0)
    os.read(reader, 1)
    begun = time.monotonic()
    point = Point(tmp_path, ("fit", "--no_such_option"))
    assert run_point(point) == (point, 0)  # it has ended meanwhile
    assert time.monotonic() - begun > 0.5
    os.waitpid(child, 0)
    assert not (tmp_path / "output.log").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"backend": "slurm"}, "--backend is 'slurm'; expected one of loky, dask, submitit"),
        ({"jobs": 0}, "--jobs is 0; expected how many points"),
        ({"jobs": "many"}, "--jobs is 'many'"),
        ({"backend_options": "{timeout_min: 5}"}, "are for submitit; --backend is loky"),
        ({"sweep": "null"}, "--backend is for the points of a sweep"),
    ],
)
def test_a_crew_that_cannot_be_is_refused_before_the_first_point(more, message, runs):
    with pytest.raises(ValueError, match=message):
        Command.of(arguments("fit", runs, {"backend": "loky", "jobs": 2, **BOTH, **more}))
    with pytest.raises(ValueError, match="are for a --backend"):
        Command.of(arguments("fit", runs, {"jobs": 2, **BOTH}))


def test_the_options_of_the_crew_reach_no_point(runs):
    found = Command.of(command(runs, "submitit"))
    assert found.crew is not None
    assert found.crew.options == {"cluster": "local"}
    assert not [word for word in found.arguments if word.startswith(("--backend", "--jobs"))]
    assert any(word.startswith("--sweep") and RATE in word for word in found.arguments)
