"""The fitted networks of a clinical sweep: found by their run folders, checked against the folds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from brainlm_lightning.checkpoint.description import KEY as DESCRIPTION
from brainlm_lightning.checkpoint.files import load_plain, load_strictly
from brainlm_lightning.checkpoint.registry import build
from brainlm_lightning.model.low_rank import LowRank
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.run_folder import BEST
from brainlm_lightning.tasks.clinical.labels import TargetScale
from brainlm_lightning.tasks.clinical.net import HeadPlan, PhenotypeModel, tuned_part
from brainlm_lightning.tasks.clinical.question import KEY

PREFIX = "predictor."


@dataclass(frozen=True)
class FoldNetwork:
    """A fitted network of one fold.

    Attributes:
        model: in evaluation mode.
        scale: of its outputs.
        parts: in which it takes a window's tokens.
    """

    model: PhenotypeModel
    scale: TargetScale
    parts: int


def find_networks(experiment: Path, num_folds: int) -> dict[str, list[Path]]:
    """Method -> the best checkpoint of each fold, from runs that ended; the newest where there are several.

    Args:
        experiment: ``runs/<experiment>``.
        num_folds: of all repeats.

    Raises:
        FileNotFoundError: a method lacks folds; says which.
    """
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(experiment.rglob("metrics.json"), key=lambda path: path.stat().st_mtime_ns):
        if (path.parent / BEST).is_file():
            given = yaml.safe_load((path.parent / "config.yaml").read_text())["model"]["init_args"]
            found.setdefault(given["method"], {})[int(given["fold"])] = path.parent / BEST
    missing = {name: sorted(set(range(num_folds)) - set(folds)) for name, folds in found.items()}
    lacking = {name: folds for name, folds in missing.items() if folds}
    if lacking:
        raise FileNotFoundError(
            f"{experiment} lacks runs of "
            + "; ".join(f"{name}, folds {', '.join(map(str, folds))}" for name, folds in lacking.items())
            + ". Run fit with the same settings: it makes what is missing"
        )
    return {name: [folds[number] for number in range(num_folds)] for name, folds in found.items()}


def check_fold(path: Path, fold_digest: str) -> dict[str, Any]:
    """Checks that a network was fitted on this fold as it is now.

    Args:
        path: of the checkpoint.
        fold_digest: of the fold.

    Returns:
        What the checkpoint says it predicts.

    Raises:
        ValueError: it was fitted on other subjects, labels or another encoder.
    """
    about = load_plain(path).get(KEY)
    if about is None or about["fold_digest"] != fold_digest:
        raise ValueError(
            f"{path} was fitted on other subjects, labels or another pretrained model than this experiment's folds: "
            "its test subjects may have trained it. Fit again under another name of the experiment"
        )
    checked: dict[str, Any] = about
    return checked


def is_online(about: dict[str, Any]) -> bool:
    """Whether a network's encoder has to run: a frozen one's features are cached."""
    return tuned_part(about["method"]) != "none" or about["head"]["pooling"] == "attention"


def load_network(path: Path) -> FoldNetwork:
    """Rebuilds a fold's network from its checkpoint alone."""
    content = load_plain(path)
    about = content[KEY]
    net = build(content[DESCRIPTION], MaskedAutoencoder, str(path))
    tuned = tuned_part(about["method"])
    low_rank = LowRank(**about.get("low_rank", {}))  # older checkpoints have none
    model = PhenotypeModel(net, len(about["classes"]) or 1, HeadPlan(**about["head"]), tuned, low_rank)
    weights = {name.removeprefix(PREFIX): value for name, value in content["state_dict"].items()}
    load_strictly(model, weights, str(path))
    return FoldNetwork(model.eval(), TargetScale(**about["scale"]), about["parts"])
