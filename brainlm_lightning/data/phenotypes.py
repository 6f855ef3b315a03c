"""What is known of people: codes of missing values, classes, and the join with recordings."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from brainlm_lightning.data.identifiers import SEPARATOR, matched, unmatched_report
from brainlm_lightning.data.manifest import Manifest
from brainlm_lightning.data.read import read_table

CODES = (-99999, -9999, -9998, -999)  # nobody measures these where everything else is positive
SUSPICIOUS = (-99, -98, -88, -77, -9, -8, -7, -1, 77, 88, 98, 99, 777, 888, 998, 999, 9998, 9999, 99999)
FAR = 3.0  # interquartile ranges beyond the quartiles
MOST_CLASSES = 20


def read_phenotypes(manifest: Manifest, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Returns the phenotype columns, one row per recording, and what there is to say about them.

    Args:
        manifest: With the columns of the table of recordings and, where there is one, a further table.
        table: Of the recordings.

    Raises:
        ValueError: A column is not there, classes differ in case alone, or no subject has a row.
    """
    remarks: list[str] = []
    named = manifest.recordings.phenotypes
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise ValueError(f"recordings.phenotypes names {twice} more than once; name each column once")
    joined = table[manifest.recordings.phenotypes]
    if manifest.phenotypes is not None:
        further, said = _joined(manifest, table)
        joined, remarks = pd.concat([joined, further], axis=1), said
    for column in joined.columns[~joined.columns.duplicated()]:
        joined[column], said = _cleaned(joined[column], manifest.recode.get(str(column), {}))
        remarks += said
    return joined, remarks


def _joined(manifest: Manifest, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Finds each recording's row in the further table: by subject, and by session where both have one."""
    source, columns = manifest.phenotypes, manifest.recordings.named_columns
    assert source is not None
    path = manifest.below_root(source.table)
    names = [source.subject_id, *([source.session] if source.session else [])]
    further = read_table(path, text=(*names, columns.session or ""), codes=manifest.missing_values)
    session = source.session
    if session is None and columns.session in further.columns and further[source.subject_id].duplicated().any():
        session = columns.session  # one row per visit, under the name that the recordings use
    keys = [source.subject_id, *([session] if session else [])]
    check_columns(path, further, [*keys, *source.columns])
    own = [columns.subject_id, *([columns.session] if session and columns.session else [])]
    if len(own) < len(keys):
        raise ValueError(f"`phenotypes.session` is {session!r}; name the recordings' own in `columns.session`, too")
    there, wanted = _key(further, keys), _key(table, own)
    twice = there[there.duplicated()].tolist()
    if twice:
        advice = "" if session else "; where it has one row per visit, name the column in `phenotypes.session`"
        raise ValueError(
            f"{path}: {' '.join(keys)} {twice[0].replace(SEPARATOR, ' ')!r} stands more than once; expected a row each"
            f"{advice}"
        )
    found = matched(wanted, there, loose=source.match == "loose")
    remarks = _unmatched(path, wanted, there, found, source.match)
    rows = further.set_index(there)[source.columns].reindex([found.get(name) for name in wanted])
    return rows.set_axis(table.index), remarks


def _key(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    cells = table[list(columns)].fillna("").astype(str)
    return cells.agg(SEPARATOR.join, axis=1)


def _unmatched(path: Path, wanted: pd.Series, there: pd.Series, found: Mapping[str, str], match: str) -> list[str]:
    report, near = unmatched_report(wanted, there, found)
    advice = " Set `phenotypes.match: loose` to accept the near ones." if near else ""
    if not found:
        raise ValueError(f"{path}: not one subject of the recordings has a row there: {report}.{advice}")
    if len(found) < wanted.nunique():
        return [f"{path.name}: {len(found)} of {wanted.nunique()} subjects have a row; {report}.{advice}"]
    changed = sum(name != other for name, other in found.items())
    return [f"{path.name}: {changed} subjects matched loosely (`phenotypes.match: {match}`)"] * bool(changed)


def _cleaned(values: pd.Series, recode: Mapping[str, str]) -> tuple[pd.Series, list[str]]:
    """Recodes classes, takes codes of missing values out, and says what a column holds."""
    if recode:
        text = values.map(lambda cell: recode.get(str(cell), cell), na_action="ignore")
        numbers = pd.to_numeric(text, errors="coerce")
        values = numbers if numbers.notna().equals(text.notna()) else text
    if pd.api.types.is_numeric_dtype(values):
        return _cleaned_numbers(values.astype(values.dtype))
    return values, _classes(values)


def _cleaned_numbers(values: pd.Series) -> tuple[pd.Series, list[str]]:
    name, remarks = values.name, []
    others = values[~values.isin(CODES)].dropna()
    if len(others) < len(values.dropna()) and (others >= 0).all():
        counts = values[values.isin(CODES)].value_counts()
        said = ", ".join(f"{count} × {code:g}" for code, count in counts.items())
        remarks.append(f"{name}: {said} taken as missing (every other value is 0 or more)")
        values = others.reindex(values.index)
    low, high = np.quantile(others, [0.25, 0.75]) if len(others) else (0.0, 0.0)
    for code in (*CODES, *SUSPICIOUS):
        count = int((values == code).sum())
        rest = others[others != code]
        alone = code < 0 and len(rest) > 0 and (rest >= 0).all()
        reach = FAR * max(high - low, abs(high), 1e-9)
        far = len(rest) > 0 and (code > high + reach or code < low - reach)
        if count and (alone or far):
            remarks.append(
                f"{name}: {count} × {code} is suspicious beside values of {rest.min():g} to {rest.max():g}; if it "
                f"means missing, set `missing_values: ['{code}']`"
            )
    if 0 < 2 * values.nunique() <= min(10, values.count()):
        remarks.append(_counts(values, ".0"))
    return values, remarks


def _classes(values: pd.Series) -> list[str]:
    """Says what classes there are; refuses those that differ in case alone."""
    known = values.dropna().astype(str)
    spellings: dict[str, list[str]] = {}
    for spelling in known.unique():
        spellings.setdefault(spelling.casefold(), []).append(spelling)
    several = [group for group in spellings.values() if len(group) > 1]
    if several and known.nunique() <= MOST_CLASSES:
        ordered = [sorted(group, key=lambda spelling: -int((known == spelling).sum())) for group in several]
        pairs = ", ".join(f"{other}: {group[0]}" for group in ordered for other in group[1:])
        raise ValueError(
            f"phenotype {_counts(values)}; {several} differ in case alone. If they are one class, set "
            f"`recode: {{{values.name}: {{{pairs}}}}}`"
        )
    numbers = pd.to_numeric(known, errors="coerce")
    if 0.5 * len(known) < numbers.notna().sum():
        odd = known[numbers.isna()].unique().tolist()
        if odd:
            return [f"{values.name}: numbers, but also {odd[:5]}: kept as text; name them in `missing_values`"]
    return [_counts(values)] if 0 < known.nunique() <= MOST_CLASSES else []


def _counts(values: pd.Series, ending: str = "\0") -> str:
    counts = values.dropna().astype(str).str.removesuffix(ending).value_counts().sort_index()
    unknown = int(values.isna().sum())
    shown = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"{values.name}: {shown}" + (f", unknown {unknown}" if unknown else "")


def check_columns(path: Path, table: pd.DataFrame, wanted: Sequence[str]) -> None:
    """Raises ValueError where a table lacks a column."""
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        lower = {str(column).lower(): str(column) for column in table.columns}
        near = [lower[close] for name in missing for close in get_close_matches(name.lower(), list(lower), 1)]
        advice = f"; did you mean {near}?" if near else ""
        raise ValueError(f"{path}: no column {missing}; the table has {list(table.columns)}{advice}")
