"""In-silico perturbation: tables and figures (paper, section 4.5, figures 7 and 8)."""

from collections.abc import Iterator
from functools import partial

from brainlm_lightning.evaluation.names import MetricName, parsed
from brainlm_lightning.report.brain import loss_figure, title_of
from brainlm_lightning.report.contrasts import ContrastPage
from brainlm_lightning.report.page import ReportFile
from brainlm_lightning.report.scores import Arrays, Metrics

MAPS = (
    "theta size: mean |θ|, theta shift: mean θ over frames; towards the targets minus towards null targets from the "
    "sources' own group. signal level, amplitude: the targets' own mean and standard deviation, without a model."
)
LOSS = (
    "Mean loss over the pairs at each step of the optimiser: the squared distance to the target's state plus "
    "penalties; the null targets are recordings of the sources' own group."
)
PAPER = "The paper (figure 7): from rest to task the largest perturbation is in the visual cortex; it gives no numbers."


class PerturbationPage(ContrastPage):
    """Contrasts of the perturbation that moves a recording's state to that of its target."""

    title = "Perturbation"
    heading = "In-silico perturbation"
    place = 6
    wanted = "perturb"
    paper_figure = "7, 8"
    map_suffix = "_theta_size"

    def notes(self, metrics: Metrics, contrast: MetricName, maps: list[str]) -> list[str]:
        """What the maps are, how close each model came to the targets, and the paper's finding."""
        nets = [name.removesuffix(self.map_suffix) for name in maps if name.endswith(self.map_suffix)]
        told = [line for net in nets for line in _of_model(metrics, contrast.by(net))]
        return [MAPS, *told, PAPER]

    def files(self, metrics: Metrics, arrays: Arrays) -> Iterator[ReportFile]:
        """The maps of the contrasts, and each model's loss by step."""
        yield from super().files(metrics, arrays)
        for name in parsed(arrays):
            if name.score == "loss_I":
                prefix = name.by(name.method)
                draw = partial(loss_figure, arrays, prefix)
                yield ReportFile(f"{name.condition}/{name.method}_loss", draw, f"{title_of(prefix)}. {LOSS}")


def _of_model(metrics: Metrics, prefix: MetricName) -> list[str]:
    """How close a model came to the targets, and what its CLS is worth."""
    return [_distances(metrics, prefix), *_cls(metrics, prefix)]


def _distances(metrics: Metrics, prefix: MetricName) -> str:
    """Distance of one model's states from the targets' before and after the perturbation."""
    before, after, null_before, null_after = (
        metrics[prefix.of(f"distance_{name}")] for name in ("before", "after", "before_null", "after_null")
    )
    return (
        f"{prefix.method}, {int(metrics[prefix.of('num_pairs')])} pairs: mean squared distance to the target's state "
        f"{before:.3g} before, {after:.3g} after; to the null target's {null_before:.3g} and {null_after:.3g}."
    )


def _cls(metrics: Metrics, prefix: MetricName) -> list[str]:
    """What exchanging CLS between recordings does to the reconstruction; nothing for a model without CLS."""
    swap, tokens = (metrics.get(prefix.of(f"{name}_swap_mse")) for name in ("cls", "token"))
    if swap is None or tokens is None:
        return []
    return [
        f"{prefix.method}: the target's CLS in place of the source's changes the reconstruction of hidden patches by "
        f"{swap:.2g} of the signal's variance, all other tokens by {tokens:.2g}. The loss reaches CLS through that "
        "change alone: where it is next to 0, nothing trains what CLS holds, and distances in CLS have no trained "
        "meaning."
    ]
