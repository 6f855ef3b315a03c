"""Generic tables, methods by score, for results that no page shows."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping

from brainlm_lightning.evaluation.names import ENDS, MetricName, parsed
from brainlm_lightning.report.report_table import ReportTable
from brainlm_lightning.report.scores import MISSING, Estimate, Metrics


def generic_tables(metrics: Metrics, shown: Collection[MetricName]) -> list[ReportTable]:
    """One table of methods and one of comparisons per cohort and condition; a plain list if there are no test results.

    Args:
        metrics: of a run.
        shown: conditions that other tables show already.
    """
    names = parsed(metrics)
    if not names:
        return [_plain_list("Metrics", metrics)] if metrics else []
    conditions = dict.fromkeys(name.by() for name in names if name.by() not in shown)
    return [table for condition in conditions for table in _tables(metrics, condition, names)]


def _plain_list(title: str, metrics: Metrics) -> ReportTable:
    return ReportTable(title, [["metric", "value"], *([name, _number(value)] for name, value in metrics.items())])


def _tables(metrics: Metrics, condition: MetricName, names: Iterable[MetricName]) -> Iterator[ReportTable]:
    """The tables of one condition: methods, comparisons, and numbers that belong to no method."""
    ours = [name for name in names if name.by() == condition]
    ends = {name.of(name.score + end) for name in ours for end in ENDS if end}
    estimates = {name: Estimate.read(metrics, str(name)) for name in ours if str(name) not in ends}
    methods = {name: found for name, found in estimates.items() if name.method and not name.pair}
    pairs = {name: found for name, found in estimates.items() if name.pair}
    whole = {name.score: found.value for name, found in estimates.items() if not name.method}
    title = f"{condition.cohort}, {condition.condition}"
    if methods:
        notes = ["[95 % interval]"] if any(map(_has_interval, methods.values())) else []
        yield ReportTable(title, _rows("method", methods), notes, (condition,))
    if pairs:
        yield ReportTable(f"{title}: comparisons", _rows("first − second", pairs))
    if whole:
        yield _plain_list(f"{title}: numbers of no method", whole)


def _rows(heading: str, estimates: Mapping[MetricName, Estimate]) -> list[list[str]]:
    """The header, and one row per method; a dash where a score is missing."""
    scores = list(dict.fromkeys(name.score for name in estimates))
    cells: dict[MetricName, dict[str, str]] = {}
    for name, found in estimates.items():
        cells.setdefault(name.by(name.method), {})[name.score] = _text(found)
    rows = [
        [" − ".join(prefix.pair or [prefix.method]), *(row.get(score, MISSING) for score in scores)]
        for prefix, row in cells.items()
    ]
    return [[heading, *scores], *rows]


def _has_interval(found: Estimate) -> bool:
    return not math.isnan(found.low)


def _text(found: Estimate) -> str:
    return found.text() if _has_interval(found) else _number(found.value)


def _number(value: float) -> str:
    """Integers without decimals, other numbers with three; very small and large ones with three significant digits."""
    if math.isnan(value):
        return MISSING
    if not 0.001 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:.0f}" if value == round(value) else f"{value:.3f}"
