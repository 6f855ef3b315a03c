"""Where a report's numbers come from: code, seeds, digests, device and hours of each run."""

from dataclasses import dataclass

from brainlm_lightning.report.html.runs import Run, Runs
from brainlm_lightning.report.scores import MISSING

SHOWN_DIGITS = 12  # of a digest


@dataclass(frozen=True)
class Origin:
    """Where one run comes from, each part as text."""

    name: str
    kind: str
    started: str
    commit: str
    seed: str
    device: str
    hours: str
    cohorts: tuple[str, ...]
    models: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]


def origins(runs: Runs) -> list[Origin]:
    """One entry per run of the report: its tests and the newest fits."""
    return [_origin(run) for run in [*runs.tests, *runs.fits]]


def _origin(run: Run) -> Origin:
    known = run.provenance
    commit = str(known.get("git_commit") or MISSING)[:SHOWN_DIGITS] + (" + changes" if known.get("git_dirty") else "")
    ranks = known.get("world_size")
    device = f"{ranks} × {known.get('device')}, {known.get('precision')}" if ranks else MISSING
    cohorts = known.get("cohorts") or {}
    return Origin(
        name=run.name,
        kind="test" if run.is_test else "fit",
        started=str(known.get("time_utc") or MISSING),
        commit=commit,
        seed=str(known.get("seed", MISSING)),
        device=device,
        hours=MISSING if run.hours is None else _duration(run.hours),
        cohorts=tuple(f"{name} {_digest(of, 'recordings')}" for name, of in cohorts.items()),
        models=tuple(f"{name}: {of.get('path', '')} {_digest(of, 'sha256')}" for name, of in run.models.items()),
        settings=tuple(_settings(run.settings)),
    )


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _digest(of: object, key: str) -> str:
    return str(of.get(key))[:SHOWN_DIGITS] if isinstance(of, dict) else MISSING


def _settings(nested: object, prefix: str = "") -> list[tuple[str, str]]:
    """Full names of settings with their values, those that are not set left out."""
    if isinstance(nested, dict) and nested:
        return [
            pair
            for name, value in nested.items()
            for pair in _settings(value, f"{prefix}.{name}" if prefix else str(name))
        ]
    return [] if nested is None or not prefix else [(prefix, str(nested))]


def packages(runs: Runs) -> dict[str, str]:
    """Versions of Python and of all packages over the shown runs; several where they differ."""
    found: dict[str, dict[str, None]] = {}
    for run in [*runs.tests, *runs.fits]:
        versions = {"python": run.provenance.get("python"), **(run.provenance.get("packages") or {})}
        for name, version in versions.items():
            if version:
                found.setdefault(str(name), {})[str(version)] = None
    return {name: ", ".join(versions) for name, versions in found.items()}
