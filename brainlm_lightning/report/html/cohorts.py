"""The cohorts of a report: numbers of each, and the page on its quality, as the run folders kept them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brainlm_lightning.report.html.runs import Run, Runs
from brainlm_lightning.report.scores import MISSING
from brainlm_lightning.run_folder import COHORTS, file_name

COUNTED = {"split": "by split", "site": "by site", "task": "by task"}


@dataclass(frozen=True)
class Cohort:
    """A cohort as it is shown.

    Attributes:
        name: of the cohort.
        facts: (name, value) pairs.
        counts: heading -> rows of value, recordings and subjects.
        quality: the page on its quality, as HTML text; "" if the run folders have none.
        told_by: the run that kept them; "" if none did.
    """

    name: str
    facts: tuple[tuple[str, str], ...]
    counts: dict[str, list[tuple[str, str, str]]]
    quality: str
    told_by: str


def cohorts(runs: Runs) -> list[Cohort]:
    """Every cohort that a run names, once, from the newest run that kept its facts."""
    names = dict.fromkeys(str(name) for run in runs.every for name in (run.provenance.get("cohorts") or {}))
    return [_cohort(name, runs) for name in names]


def _cohort(name: str, runs: Runs) -> Cohort:
    for run in [*runs.tests, *runs.fits]:
        if name in run.cohorts:
            of = run.cohorts[name]
            counts = {heading: _rows(of.get(key)) for key, heading in COUNTED.items() if _rows(of.get(key))}
            return Cohort(name, tuple(_facts(of)), counts, _quality(run, name), run.name)
    return Cohort(name, (), {}, "", "")


def _quality(run: Run, name: str) -> str:
    path: Path = run.folder / COHORTS / f"{file_name(name)}.html"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _rows(counted: Any) -> list[tuple[str, str, str]]:
    if not isinstance(counted, dict):
        return []
    return [(str(value), str(both[0]), str(both[1])) for value, both in counted.items()]


def _facts(of: dict[str, Any]) -> list[tuple[str, str]]:
    """What a cohort is, in the order of reading."""

    def told(key: str, form: str = "{}") -> str:
        return MISSING if of.get(key) is None else form.format(of[key])

    free, frames = of.get("effective_dimensions"), of.get("window_frames")
    lengths = of.get("frames") or []
    return [
        ("recordings", told("recordings")),
        ("subjects", told("subjects")),
        ("hours", told("hours", "{:.1f}")),
        ("repetition time", told("tr_s", "{:g} s")),
        ("frames of a recording: fewest, median, most", ", ".join(f"{length:g}" for length in lengths) or MISSING),
        ("atlas", f"{told('atlas')}: {told('parcels')} parcels in {told('networks')} networks"),
        ("free frames of a window", MISSING if None in (free, frames) else f"{free:.0f} of {frames:.0f}"),
        ("frames without data", told("missing_frames")),
        ("motion, median of mean framewise displacement", told("motion_mm", "{:.2f} mm")),
        (
            "phenotypes (recordings that have one)",
            ", ".join(f"{name} ({count})" for name, count in (of.get("phenotypes") or {}).items()) or MISSING,
        ),
        ("processing before", told("published_processing") or MISSING),
        ("simulated", "yes" if of.get("simulated") else "no"),
    ]
