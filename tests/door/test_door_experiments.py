import pytest
from tiny import REPOSITORY, door, versions

EXPERIMENTS = sorted((REPOSITORY / "experiments").glob("*.yaml"), key=lambda path: path.name)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_runs_through_the_door(path, runs):
    fitted = door("fit", runs, {"data.micro_batch_size": 2}, path)
    tested = door("test", runs, config=path)
    assert versions(runs) == [fitted, tested]
    assert {run.parent.name for run in versions(runs)} == {path.stem}
