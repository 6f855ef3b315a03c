"""How well each method sorts parcels into functional networks, beside the paper's Table 4."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from brainlm_lightning.report.grid import Grid

# Table 4 of the paper: accuracy in per cent over parcels of 1,000 UK Biobank recordings; by the names used here.
PAPER_ACCURACY = {"attention": 58.8, "vae": 49.4, "raw_series": 39.2, "gcn": 25.9}
SIGNIFICANT = 0.05
SCORES = {"accuracy": "accuracy (%)", "balanced_accuracy": "balanced accuracy (%)"}
SCORE_NAME = re.compile(r"test/(?P<cohort>[^/]+)/networks/(?P<method>[^/]+)/accuracy")
COMPARISON = re.compile(r"(?P<reference>.+?)_minus_(?P<other>.+)")
NAMES = {
    "attention_untrained": "attention, before pretraining",
    "attention_random_start": "attention, random start",
    "attention_without_signal": "attention on a window of zeros",
    "attention_rollout": "attention rollout",
    "embedding": "model's embedding",
    "vae": "VAE's embedding",
    "gcn": "GCN's embedding",
    "raw_series": "raw series",
    "group_connectivity": "training subjects' connectivity",
    "position": "position (x, y, z)",
    "position_mirrored": "position (|x|, y, z)",
    "most_frequent": "most frequent network",
}


@dataclass(frozen=True)
class Row:
    """One method's scores, as shares.

    Attributes:
        scores: name of the score -> mean over recordings and the ends of its 95 % interval.
        worse: True or False where it is significantly worse or better than the reference, else None.
    """

    scores: dict[str, tuple[float, float, float]]
    worse: bool | None

    def cells(self) -> list[str]:
        """`79.1 [78.3, 79.9] *↓` for each score, in per cent; the star stands at the accuracy, which is tested."""
        mark = {None: "", True: " *↓", False: " *↑"}[self.worse]
        texts = ["{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in self.scores[score])) for score in SCORES]
        return [texts[0] + mark, *texts[1:]]


def reference_of(metrics: Mapping[str, float], cohort: str) -> str:
    """The method that the others are compared with."""
    prefix = f"test/{cohort}/networks/"
    places = (name.removeprefix(prefix).split("/")[0] for name in metrics if name.startswith(prefix))
    return next((match["reference"] for place in places if (match := COMPARISON.fullmatch(place))), "attention")


def network_rows(metrics: Mapping[str, float]) -> dict[str, dict[str, Row]]:
    """Cohort -> method -> row, in the order of the metrics, the reference first."""
    found: dict[str, dict[str, Row]] = {}
    for name in metrics:
        match = SCORE_NAME.fullmatch(name)
        if match and "_minus_" not in match["method"]:
            cohort, method = match["cohort"], match["method"]
            found.setdefault(cohort, {})[method] = _row(metrics, cohort, method)
    return found


def _row(metrics: Mapping[str, float], cohort: str, method: str) -> Row:
    place = f"test/{cohort}/networks"
    ends = ("", "_low", "_high")
    scores = {s: tuple(metrics.get(f"{place}/{method}/{s}{end}", math.nan) for end in ends) for s in SCORES}
    compared = f"{place}/{reference_of(metrics, cohort)}_minus_{method}"
    p = metrics.get(f"{compared}/p_corrected", math.nan)
    return Row(scores, metrics[f"{compared}/accuracy"] > 0 if p < SIGNIFICANT else None)  # type: ignore[arg-type]


def shown_name(method: str) -> str:
    """A method's name in words."""
    return NAMES.get(method, method.replace("_", " "))


def network_notes(metrics: Mapping[str, float], cohort: str) -> list[str]:
    """What stands below a cohort's table."""
    place = f"test/{cohort}/networks"
    reference = reference_of(metrics, cohort)
    subjects, recordings = (
        int(metrics.get(f"{place}/{reference}/{name}", 0)) for name in ("num_subjects", "num_recordings")
    )
    tests = [p for name, p in metrics.items() if name.startswith(f"{place}/") and name.endswith("/p_corrected")]
    paper = ", ".join(f"{shown_name(method)} {accuracy:g}" for method, accuracy in PAPER_ACCURACY.items())
    left_out = {name: int(metrics.get(f"{place}/num_{name}_left_out", 0)) for name in ("parcels", "recordings")}
    return [
        f"Test parcels in the right network, mean over {recordings} recordings [95 % interval from resampling "
        f"{subjects} subjects; all share one atlas, so this speaks of other people, not of other atlases]; balanced: "
        "mean over networks. k and metric are chosen inside the training parcels.",
        f"{left_out['parcels']} parcels without a network and {left_out['recordings']} recordings with too few "
        "observed parcels are left out.",
        f"* differs from {shown_name(reference)} in accuracy per subject, ↓ worse or ↑ better: p < {SIGNIFICANT}, "
        f"Wilcoxon's paired test, Benjamini–Hochberg over the whole test run; {sum(p < SIGNIFICANT for p in tests)} of "
        f"the {len(tests)} comparisons here.",
        f"The paper's Table 4 (UK Biobank, accuracy in %): {paper}.",
    ]


def network_grids(metrics: Mapping[str, float]) -> list[Grid]:
    """A table for each cohort; [] where networks were not tested."""
    grids = []
    for cohort, rows in network_rows(metrics).items():
        cells = [[shown_name(method), *row.cells()] for method, row in rows.items()]
        header = ["known by", *SCORES.values()]
        grids.append(Grid(f"Functional networks, {cohort}", [header, *cells], network_notes(metrics, cohort)))
    return grids
