"""Looks at a tree of BIDS derivatives: what kinds of recordings it holds, and what some of them say."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brainlm_lightning.data.read.expected import Expected
from brainlm_lightning.data.read.lines import read_cells
from brainlm_lightning.data.read.sidecar import sidecar_tr_s

MOST_SAMPLED = 10  # recordings of a tree
KINDS = ("space", "desc", "seg", "atlas", "den", "res", "stat")  # entities that tell kinds of files apart


@dataclass(frozen=True, eq=False)
class Sample:
    """What some recordings of a tree say.

    Attributes:
        lengths: Frames of each.
        columns: Columns of each table of parcels.
        tr_s: Seconds from frame to frame that sidecars or headers say, with how many say so.
        unreadable: Why some could not be read.
    """

    lengths: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    tr_s: Counter[float] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)


def bids_kinds(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields what each file of a derivatives tree is, without what tells recordings apart, and the file."""
    for path in folder.glob("sub-*/**/func/sub-*"):
        parts = path.name.partition(".")[0].split("_")
        suffix, ending = parts[-1], path.name[len(path.name.partition(".")[0]) :]
        recordings = (suffix == "bold" and ending in (".nii.gz", ".dtseries.nii")) or (
            suffix == "timeseries" and ending in (".tsv", ".ptseries.nii") and "desc-confounds" not in parts
        )
        if recordings:
            yield "_".join([*(part for part in parts[1:-1] if part.partition("-")[0] in KINDS), suffix]) + ending, path


def sample(paths: Sequence[Path]) -> Sample:
    """Looks at some recordings: their lengths, columns, and seconds from frame to frame."""
    found = Sample()
    for path in paths[:: max(len(paths) // MOST_SAMPLED, 1)]:
        try:
            said = sidecar_tr_s(path)
            if path.suffix == ".tsv":
                cells = read_cells(path, Expected("frames_parcels", 0))
                frames = len(cells.values)
                found.columns.append(cells.values.shape[1])
            else:
                frames, header = _header_of_image(path)
                said = header if said is None else said
        except Exception as error:  # a file that cannot be read is found out by `prepare --dry-run`
            found.unreadable.append(f"{path.name}: {error}")
            continue
        found.lengths.append(frames)
        if said is not None:
            found.tr_s[said] += 1
    return found


def _header_of_image(path: Path) -> tuple[int, float | None]:
    """Returns the number of frames and the seconds from one to the next that a header says."""
    import nibabel  # slow to import

    from brainlm_lightning.data.read.surfaces import series_tr_s
    from brainlm_lightning.data.read.volumes import header_tr_s

    image: Any = nibabel.load(path)
    if len(image.shape) == 4:
        return int(image.shape[3]), header_tr_s(image)
    return int(image.shape[0]), series_tr_s(image.header.get_axis(0))
