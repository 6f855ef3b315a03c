import pytest
import torch
from tiny import door

from brainlm_lightning.callbacks.result_files import ResultFiles
from brainlm_lightning.callbacks.tensorboard_figures import TensorBoardFigures


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums in one order: results are the same bit for bit, on any number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def stores(make_tiny_store, tmp_path_factory):
    """The folder of two cohorts of one atlas, ``tiny`` and ``other``: 32 subjects, 16 parcels, 100 frames each."""
    root = tmp_path_factory.mktemp("stores")
    for seed, name in enumerate(("tiny", "other")):
        make_tiny_store(root, "--split.test=0.3", name=name, seed=seed, subjects=32, frames=100)
    return root


@pytest.fixture(scope="session")
def pretrained(stores, tmp_path_factory):
    """``best.ckpt`` of a masked autoencoder after two steps on ``tiny``, for what starts from one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        for hook in ("on_validation_end", "on_fit_end"):
            patch.setattr(TensorBoardFigures, hook, lambda *given: None)
        return door("fit", tmp_path_factory.mktemp("pretrained")) / "checkpoints" / "best.ckpt"


@pytest.fixture
def runs(stores, tmp_path, monkeypatch):
    """An empty folder for runs, with the stores in place."""
    monkeypatch.setenv("BRAINLM_DATA", str(stores))
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def no_figures(request, monkeypatch):
    """They take longer than all else: only tests marked `draws` draw, and runs that fixtures of modules make."""
    if request.node.get_closest_marker("draws"):
        return
    for hook in ("on_validation_end", "on_fit_end"):
        monkeypatch.setattr(TensorBoardFigures, hook, lambda *given: None)
    monkeypatch.setattr(ResultFiles, "teardown", lambda *given, **stage: None)
