"""What a file is expected to hold, and how the names that it gives are compared with the atlas."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Orientation = Literal["frames_parcels", "parcels_frames"]
MOST_NAMED = 8  # names in a message


@dataclass(frozen=True)
class Expected:
    """What the manifest and the atlas say of every file.

    Attributes:
        orientation: How a file stores a series.
        num_parcels: P, of the atlas.
        ids: The parcels' integers in the atlas, in the order of the store; () where nothing is to be compared.
        labels: Their names.
        names: `use`: columns are put in order by the names that a file gives; `ignore`: columns stand as they are.
        ignore_columns: Columns of a file that are no parcels, by name.
        image: The atlas's label image (or .dlabel.nii), for volumes and grayordinates; '' where there is none.
        min_voxels: Voxels that a parcel must have in the field of view to count as measured.
        square: A series of as many frames as parcels is taken as `orientation` says.
    """

    orientation: Orientation
    num_parcels: int
    ids: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    names: Literal["use", "ignore"] = "use"
    ignore_columns: tuple[str, ...] = ()
    square: bool = False
    image: str = ""
    min_voxels: int = 1

    @property
    def turned(self) -> bool:
        """The file has one row per parcel."""
        return self.orientation == "parcels_frames"

    def knows(self, names: Sequence[str], whole: bool = False) -> bool:
        """True where names are those of parcels: more than half of them, or, with `whole`, exactly all."""
        known = ({*map(str, self.ids)}, {*self.labels})
        found = {name.strip().lstrip("#") for name in names} - set(self.ignore_columns)
        if whole:
            return any(found == these for these in known if these)
        return any(2 * len(found & these) > len(found) for these in known if these)


def order_by_names(names: Sequence[str], expected: Expected, where: str) -> tuple[np.ndarray | None, str]:
    """Returns which column of a file is each parcel's, and what there is to say about it.

    Args:
        names: Of the columns, as the file gives them.
        expected: With ids and labels.
        where: The file, for messages.

    Returns:
        Columns, (P,), or None where they stand in the right order already; and a remark, '' where none is needed.

    Raises:
        ValueError: The names are those of some parcels but not of all, or of none.
    """
    names = [name.strip() for name in names]
    labels, ids = list(expected.labels), [str(index) for index in expected.ids]
    plain = _plain_numbers(names)
    for kind, given, wanted in (("labels", names, labels), ("ids", plain, ids)):
        if given is None or not wanted or given == wanted:
            if given is not None and wanted:
                return None, ""
            continue
        if sorted(given) == sorted(wanted):
            return _reordered(given, wanted, kind, where)
    if plain is not None and _counted(plain) and len(plain) == expected.num_parcels:
        return None, f"column numbers {plain[0]} to {plain[-1]} in the file: columns taken in its order"
    unique = len(set(labels)) == len(labels)
    if plain is None or set(names) & set(labels):
        return _by_label(names, labels, expected, unique, where)
    if set(plain) & set(ids):
        raise ValueError(_differences(plain, ids, "ids", where))
    return None, f"numbers of regions in the file ({names[0]}, …) are not the atlas's: columns taken in its order"


def _by_label(
    names: list[str], labels: list[str], expected: Expected, unique: bool, where: str
) -> tuple[np.ndarray | None, str]:
    if not labels:
        return None, ""
    if not unique:
        return (
            None,
            f"names in the file ({names[0]}, …) were not compared: the atlas's labels are not unique",
        )
    raise ValueError(_differences(names, labels, "labels", where))


def _reordered(given: list[str], wanted: list[str], kind: str, where: str) -> tuple[np.ndarray, str]:
    if len(set(given)) < len(given):
        twice = sorted({name for name in given if given.count(name) > 1})
        raise ValueError(
            f"{where}: columns stand in another order than the atlas, and some more than once: "
            f"{twice[:MOST_NAMED]}; their order cannot be known; give every column its own "
            "name, or set `recordings.names: ignore`"
        )
    column_of = {name: column for column, name in enumerate(given)}
    moved = sum(a != b for a, b in zip(given, wanted, strict=True))
    order = np.array([column_of[name] for name in wanted])
    return order, f"columns put in the atlas's order by their {kind} ({moved} of {len(wanted)} moved)"


def _differences(names: list[str], wanted: list[str], kind: str, where: str) -> str:
    extra = [name for name in names if name not in set(wanted)]
    absent = [name for name in wanted if name not in set(names)]
    advice = "use the file's own atlas table, or set `recordings.names: ignore` to take the columns as they stand"
    if not absent:
        advice = f"if they are no parcels, set `recordings.ignore_columns: [{', '.join(extra[:MOST_NAMED])}]`"
    return (
        f"{where}: its {len(names)} columns are not the atlas's {len(wanted)} parcels, by their {kind}: "
        f"{len(extra)} only in the file {extra[:MOST_NAMED]}, {len(absent)} only in the atlas {absent[:MOST_NAMED]}; "
        f"{advice}"
    )


def _plain_numbers(names: Sequence[str]) -> list[str] | None:
    """Returns the numbers of `#1 #2`, `ROI_001 ROI_002`, `3.0 4.0`; None for other names."""
    found = [re.fullmatch(r"(\D*?)0*(\d+)(\.0*)?", name) for name in names]
    if not all(found) or len({match[1] for match in found if match}) != 1:
        return None
    return [match[2] for match in found if match]


def _counted(numbers: Sequence[str]) -> bool:
    values = np.array([int(number) for number in numbers])
    return values[0] in (0, 1) and bool((np.diff(values) == 1).all())
