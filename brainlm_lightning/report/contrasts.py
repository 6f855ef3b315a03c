"""Contrasts of two groups: for each map of parcels, what differs and where, as a table and on a brain.

Names are `test/<cohort>/<contrast>/<map>/<score>`; a map is a method that has the score `num_parcels_fdr`.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar

from brainlm_lightning.evaluation.names import MetricName, parsed
from brainlm_lightning.evaluation.resampling import SIGNIFICANCE
from brainlm_lightning.report.brain import map_files, parcel_table
from brainlm_lightning.report.finding import Finding, Truth, Verdict, against_strongest
from brainlm_lightning.report.page import Page, ReportFile
from brainlm_lightning.report.report_table import ReportTable
from brainlm_lightning.report.scores import MISSING, Arrays, Estimate, Metrics, methods_with

NETWORKS_SHOWN = 3


class ContrastPage(Page):
    """One table per contrast, a CSV table of each map's parcels, and figures of the pretrained model's maps.

    Attributes:
        title: first words of each table's title.
        map_suffix: end of a map's name; the page shows the contrasts that have such a map.
        paper_figure: figures of the paper that show such maps.
    """

    title: ClassVar[str]
    map_suffix: ClassVar[str]
    paper_figure: ClassVar[str]

    @abstractmethod
    def notes(self, metrics: Metrics, contrast: MetricName, maps: list[str]) -> list[str]:
        """The first lines below a contrast's table."""

    def contrasts(self, metrics: Metrics) -> dict[MetricName, list[str]]:
        """The contrasts that this page shows -> their maps."""
        found = methods_with(metrics, "num_parcels_fdr")
        return {key: maps for key, maps in found.items() if any(name.endswith(self.map_suffix) for name in maps)}

    def tables(self, metrics: Metrics) -> Iterator[ReportTable]:
        """Significant parcels, the AUC of the expected networks, and the networks that differ most."""
        for contrast, maps in self.contrasts(metrics).items():
            scores = {name: _scores(metrics, contrast.by(name)) for name in maps}
            notes = [*self.notes(metrics, contrast, maps), *_test_notes(next(iter(scores.values())))]
            title = f"{self.title}, {contrast.cohort}: {contrast.condition}"
            yield ReportTable(title, _rows(scores), notes, (contrast,))

    def files(self, metrics: Metrics, arrays: Arrays) -> Iterator[ReportFile]:
        """Each map's parcels as CSV; figures for maps of the pretrained model but not of controls."""
        for contrast, maps in self.contrasts(metrics).items():
            for name in maps:
                yield ReportFile(f"{contrast.condition}/{name}", partial(parcel_table, arrays, contrast.by(name)))
                if _is_of_the_model(name):
                    yield from map_files(metrics, arrays, contrast.by(name), self.paper_figure)

    def findings(self, metrics: Metrics) -> Iterator[Finding]:
        """How well the map finds the networks expected to differ, beside maps without a model; else its parcels."""
        for contrast, maps in self.contrasts(metrics).items():
            own = next((name for name in maps if name.endswith(self.map_suffix) and _is_of_the_model(name)), None)
            if own is None:
                continue
            auc = Estimate.read(metrics, contrast.by(own).of("auc"))
            if math.isnan(auc.value):
                yield self._count(metrics, contrast, own)
                continue
            others = [name for name in maps if not _is_of_the_model(name)]
            score = ("auc", "auc", False)
            opponent, theirs, verdict = against_strongest(metrics, contrast, own, others, score)
            what = contrast.condition.replace("_", " ")
            yield Finding(contrast.cohort, what, "AUC of expected networks", own, auc, opponent, theirs, verdict)

    def _count(self, metrics: Metrics, contrast: MetricName, own: str) -> Finding:
        """The number of parcels that differ, where no networks are expected to."""
        found, nothing = Estimate(metrics[contrast.by(own).of("num_parcels_fdr")]), Estimate(math.nan)
        what, score = contrast.condition.replace("_", " "), "parcels that differ"
        return Finding(contrast.cohort, what, score, own, found, "", nothing, Verdict.ALONE, digits=0)

    def truths(self, metrics: Metrics) -> Iterator[Truth]:
        """The networks that were expected to differ, found or not; nothing where none were named."""
        for finding in self.findings(metrics):
            if finding.score.startswith("AUC"):
                found = f"area under the curve {finding.ours.text()} by {finding.method}; 1 is perfect, 0.5 chance"
                yield Truth(f"{self.heading}, {finding.cohort}: {finding.what}", "the expected networks differ", found)


def _is_of_the_model(name: str) -> bool:
    """Whether a map is of the pretrained model; the others are controls."""
    return "_untrained_" not in name and not name.startswith("signal_")


def _scores(metrics: Metrics, prefix: MetricName) -> dict[str, float]:
    """Score -> value, for one map."""
    return {name.score: metrics[str(name)] for name in parsed(metrics) if name.by(name.method) == prefix}


def _rows(scores: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """The header, and one row per map; with an AUC column if the contrast has expected networks."""
    expected = any("auc" in of_map for of_map in scores.values())
    header = ["map", "parcels that differ", *(["AUC, expected networks"] if expected else []), "largest differences"]
    return [header, *([name, *_cells(of_map, expected)] for name, of_map in scores.items())]


def _cells(scores: Mapping[str, float], expected: bool) -> list[str]:
    found, above, total = (int(scores[f"num_parcels{end}"]) for end in ("_fdr", "_fdr_above", ""))
    parcels = f"{found} of {total}" + (f" ({above} more, {found - above} less)" if found else "")
    auc = scores.get("auc", math.nan)
    return [parcels, *([MISSING if math.isnan(auc) else f"{auc:.3f}"] if expected else []), _networks(scores)]


def _networks(scores: Mapping[str, float]) -> str:
    """The networks that differ most, with Cohen's d; a star if p, corrected over the test run, is significant."""
    found: dict[str, dict[str, float]] = {}
    for score, value in scores.items():
        match MetricName("", "", score=score).parts:
            case "network", *label, ("effect_size" | "p_corrected") as statistic:
                found.setdefault("/".join(label), {})[statistic] = value
    sizes = {name: of["effect_size"] for name, of in found.items() if math.isfinite(of.get("effect_size", math.nan))}
    parts = []
    for name in sorted(sizes, key=lambda name: -abs(sizes[name]))[:NETWORKS_SHOWN]:
        star = " *" if found[name].get("p_corrected", 1) < SIGNIFICANCE else ""
        parts.append(f"{name} d = {sizes[name]:+.2f}{star}")
    return "\n".join(parts) or "the atlas names no networks"


def _test_notes(scores: Mapping[str, float]) -> list[str]:
    a, b, both, total, seen = (int(scores[f"num_subjects{end}"]) for end in ("_a", "_b", "_both", "", "_seen"))
    return [
        f"{a} subjects against {b}, {both} of them in both groups (paired); {seen} of {total} were seen in "
        "pretraining.",
        f"Parcels: permutation test over subjects, false discovery rate {SIGNIFICANCE:g}. Networks: Cohen's d of the "
        f"mean over parcels, * p < {SIGNIFICANCE:g} after Benjamini–Hochberg over the whole test run.",
        *(["AUC: of |z|, parcels of the expected networks against the others."] if "auc" in scores else []),
    ]
