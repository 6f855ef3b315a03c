"""In-silico perturbation as tables (paper, section 4.5, figures 7 and 8)."""

from collections.abc import Mapping

from brainlm_lightning.report.contrasts import contrasts, grid_of
from brainlm_lightning.report.grid import Grid

THETA = "_theta_size"
PAPER = "The paper (figure 7): from rest to task the largest perturbation is in the visual cortex; it gives no numbers."


def perturbation_grids(metrics: Mapping[str, float]) -> list[Grid]:
    """A table for each contrast; [] where nothing was perturbed."""
    return [
        grid_of(metrics, "Perturbation", key, maps, [*_distances(metrics, key, maps), PAPER])
        for key, maps in contrasts(metrics, THETA).items()
    ]


def _distances(metrics: Mapping[str, float], key: tuple[str, str], maps: list[str]) -> list[str]:
    """How close each model's states came to their targets'."""
    notes = [
        "theta size: mean |θ|, theta shift: mean θ over frames; towards the targets minus towards null targets of the "
        "sources' own group. signal level, amplitude: the targets' own mean and standard deviation, without a model."
    ]
    for net in (name.removesuffix(THETA) for name in maps if name.endswith(THETA)):
        place = "/".join(("test", *key, net))
        before, after, null_before, null_after = (
            metrics[f"{place}/distance_{name}"] for name in ("before", "after", "before_null", "after_null")
        )
        notes.append(
            f"{net}, {int(metrics[f'{place}/num_pairs'])} pairs: mean squared distance to the target's state "
            f"{before:.3g} before, {after:.3g} after; to the null target's {null_before:.3g} and {null_after:.3g}."
        )
    return notes
