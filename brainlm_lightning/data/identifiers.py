"""Names of people in several tables. Nothing is guessed: what nearly matches is shown, and accepted only where told."""

import re
import unicodedata
from collections.abc import Iterable, Mapping

MOST_LISTED = 8
SEPARATOR = "\t"  # between subject and session where both name a row; no cell holds one


def loosened(name: str) -> str:
    """Returns what is left of a name without case, leading zeros, `sub-` or `ses-`, and kinds of separators.

    `sub-003`, `Sub-3` and `03` are all `3`; `1-11` and `11-1` stay apart.
    """
    if SEPARATOR in name:
        return SEPARATOR.join(map(loosened, name.split(SEPARATOR)))
    text = unicodedata.normalize("NFKC", name).strip().casefold()
    text = re.sub(r"(?<=\d)\.0+$", "", text)  # as a spreadsheet writes whole numbers
    text = re.sub(r"[\s_\-.]+", "-", text).strip("-")
    text = re.sub(r"^(subject|sub|subj|session|ses|participant)-?(?=.)", "", text)
    return re.sub(r"\d+", lambda digits: str(int(digits[0])), text)


def similar(names: Iterable[str]) -> list[list[str]]:
    """Returns groups of different names that are one when loosened."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(loosened(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def matched(wanted: Iterable[str], there: Iterable[str], *, loose: bool) -> dict[str, str]:
    """Returns for each wanted name the one that is there: the same, or with `loose` the only near one.

    Raises:
        ValueError: With `loose`, a name has two near ones.
    """
    present = list(dict.fromkeys(there))
    found = {name: name for name in dict.fromkeys(wanted) if name in set(present)}
    if not loose:
        return found
    taken, near = set(found.values()), near_names(present)
    for name in dict.fromkeys(wanted):
        if name in found:
            continue
        candidates = [other for other in near.get(loosened(name), []) if other not in taken]
        if len(candidates) > 1:
            raise ValueError(f"{name!r} nearly matches {candidates}; rename one of them")
        if candidates:
            found[name] = candidates[0]
    return found


def near_names(names: Iterable[str]) -> Mapping[str, list[str]]:
    """Returns names by their loosened form."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(loosened(name), []).append(name)
    return groups


def unmatched_report(wanted: Iterable[str], there: Iterable[str], found: Mapping[str, str]) -> tuple[str, int]:
    """Returns a sentence on the names of both sides that have no partner, with near ones, and how many are near."""
    left = [name for name in dict.fromkeys(wanted) if name not in found]
    right = [name for name in dict.fromkeys(there) if name not in set(found.values())]
    near = near_names(right)
    close = {name: near[loosened(name)][0] for name in left if loosened(name) in near}
    shown = [f"{_shown(name)} (there: {_shown(close[name])})" if name in close else _shown(name) for name in left]
    spare = f"{len(right)} rows without a recording: {_some(map(_shown, right))}"
    return f"{len(left)} without a row: {_some(shown)}; {spare}", len(close)


def _shown(name: str) -> str:
    return repr(name.replace(SEPARATOR, " "))


def _some(shown: Iterable[str]) -> str:
    listed = list(shown)
    more = f", … {len(listed) - MOST_LISTED} more" if len(listed) > MOST_LISTED else ""
    return (", ".join(listed[:MOST_LISTED]) + more) or "none"
