"""Contrasts of groups as tables: a row for each map over the parcels, what it finds, and where.

Names are `test/<cohort>/<contrast>/<map>/<metric>`; a map's `num_parcels_fdr` says that it is one.
"""

import math
import re
from collections.abc import Mapping

from brainlm_lightning.report.grid import Grid

FALSE_DISCOVERY_RATE = 0.05
NETWORKS_SHOWN = 3
MAP_NAME = re.compile(r"test/(?P<cohort>[^/]+)/(?P<contrast>[^/]+)/(?P<map>[^/]+)/num_parcels_fdr")
NETWORK_NAME = re.compile(r"network/(?P<network>.+)/effect_size")
Metrics = Mapping[str, float]


def contrasts(metrics: Metrics, suffix: str) -> dict[tuple[str, str], list[str]]:
    """(cohort, contrast) -> names of its maps, of the contrasts that have a map whose name ends so."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in metrics:
        if match := MAP_NAME.fullmatch(name):
            found.setdefault((match["cohort"], match["contrast"]), []).append(match["map"])
    return {key: maps for key, maps in found.items() if any(name.endswith(suffix) for name in maps)}


def grid_of(metrics: Metrics, title: str, key: tuple[str, str], maps: list[str], notes: list[str]) -> Grid:
    """A contrast's maps: how many parcels differ, how well the expected networks are ranked, which networks differ."""
    cohort, contrast = key
    place = f"test/{cohort}/{contrast}"
    of_maps = {name: _below(metrics, f"{place}/{name}/") for name in maps}
    expected = any("auc" in values for values in of_maps.values())
    header = ["map", "parcels that differ", *(["AUC, expected networks"] if expected else []), "largest differences"]
    rows = [[name, *_cells(values, expected)] for name, values in of_maps.items()]
    return Grid(f"{title}, {cohort}: {contrast}", [header, *rows], [*notes, *_test_notes(next(iter(of_maps.values())))])


def _below(metrics: Metrics, place: str) -> dict[str, float]:
    return {name.removeprefix(place): value for name, value in metrics.items() if name.startswith(place)}


def _cells(values: Mapping[str, float], expected: bool) -> list[str]:
    found, above, of = (int(values[f"num_parcels{end}"]) for end in ("_fdr", "_fdr_above", ""))
    parcels = f"{found} of {of}" + (f" ({above} more, {found - above} less)" if found else "")
    auc = values.get("auc", math.nan)
    return [parcels, *(["–" if math.isnan(auc) else f"{auc:.3f}"] if expected else []), _networks(values)]


def _networks(values: Mapping[str, float]) -> str:
    """The networks that differ most, with Cohen's d; a star where p, corrected over the test run, is significant."""
    found = {match["network"]: d for name, d in values.items() if (match := NETWORK_NAME.fullmatch(name))}
    largest = sorted((name for name in found if math.isfinite(found[name])), key=lambda name: -abs(found[name]))
    stars = {name: values.get(f"network/{name}/p_corrected", 1) < FALSE_DISCOVERY_RATE for name in largest}
    parts = [f"{name} d = {found[name]:+.2f}{' *' if stars[name] else ''}" for name in largest[:NETWORKS_SHOWN]]
    return "\n".join(parts) or "the atlas names no networks"


def _test_notes(values: Mapping[str, float]) -> list[str]:
    a, b, both = (int(values[f"num_subjects_{end}"]) for end in ("a", "b", "both"))
    seen = int(values["num_subjects_seen"])
    return [
        f"{a} subjects against {b}, {both} of them in both (paired); {seen} of {int(values['num_subjects'])} were seen "
        "in pretraining.",
        f"Parcels: permutation test over subjects, false discovery rate {FALSE_DISCOVERY_RATE:g}. Networks: Cohen's d "
        f"of the mean over parcels, * p < {FALSE_DISCOVERY_RATE:g} after Benjamini–Hochberg over the whole test run.",
        *(["AUC: of |z|, the expected networks' parcels against the others."] if "auc" in values else []),
    ]
