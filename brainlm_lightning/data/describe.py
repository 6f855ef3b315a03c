"""Writes a first manifest for a folder: what was found in it, and FILL_IN where only its owner can know."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from brainlm_lightning.data.atlas import read_parcels
from brainlm_lightning.data.read import read_table
from brainlm_lightning.data.survey import Survey, Table, naming_template, survey

FILL_IN = "FILL_IN"
WINDOW_FRAMES = 200  # the paper's
SMALL = 200  # subjects, below which a split has exact shares
NAMES = {  # how columns are usually called
    "index": ("index", "atlas_id", "roi_number", "roi", "id", "label_id", "parcel", "node"),
    "label": ("label", "labels", "name", "roi_name", "region", "harvard_oxford"),
    "network": ("network", "yeo7", "yeo_7network", "network_label", "modules"),
    "x": ("x", "x_mm", "centroid_x", "mni_x", "r"),
    "y": ("y", "y_mm", "centroid_y", "mni_y", "a"),
    "z": ("z", "z_mm", "centroid_z", "mni_z", "s"),
    "subject_id": ("participant_id", "subject", "subject_id", "sub", "eid", "person", "sub_id", "src_subject_id"),
    "recording_id": ("recording", "recording_id", "run", "rec", "scan", "participant_id", "file"),
    "session": ("session", "session_id", "ses", "visit"),
    "task": ("task", "task_id"),
    "site": ("site", "site_id", "scanner", "centre", "center"),
    "family": ("family", "family_id", "familyid"),
    "tr_s": ("tr", "tr_s", "repetition_time", "repetitiontime"),
}


def describe(folder: Path, atlas: Path | None = None) -> str:
    """Returns a commented manifest for what a folder holds.

    Args:
        folder: Derivatives of fMRIPrep or XCP-D, or series and a table.
        atlas: Its parcel table; looked for in the folder where None.

    Raises:
        NotADirectoryError: There is no such folder.
        ValueError: No recordings in it.
    """
    found = survey(folder)
    if not found.bids and not found.series:
        raise ValueError(f"{folder}: no series found; there is {_counted(found)}")
    table = _table_of_recordings(found)
    return "\n".join([
        *_comment(found),
        f"cohort: {re.sub(r'[^A-Za-z0-9_-]', '_', folder.resolve().name)}  # name of the store",
        f"root: {folder.resolve()}",
        "",
        *_atlas(found, atlas),
        "",
        *(_derivatives(found) if found.bids else _recordings(found, table)),
        "",
        *_rest(found, table),
        "",
    ])  # fmt: skip


def _comment(found: Survey) -> Iterator[str]:
    yield f"# Written by `describe` for {found.folder.name}. Lines with {FILL_IN} are what only you can know."
    for line in _counted(found).split("; "):
        yield f"#   found: {line}"
    if found.unopened:
        yield f"#   {found.unopened} more files were not opened"


def _counted(found: Survey) -> str:
    parts = []
    if found.series:
        frames = [entry.frames for entry in found.series]
        lengths = f"{min(frames)} to {max(frames)}" if min(frames) < max(frames) else f"{frames[0]}"
        first = found.series[0]
        names = f", named {', '.join(first.header[:3])}, …" if first.header else ""
        parts.append(f"{len(frames)} series of {lengths} frames × {first.columns} columns{names} (as {first.path})")
    if found.lengths:
        parts.append(
            f"recordings of {min(found.lengths)} to {max(found.lengths)} frames ({len(found.lengths)} looked at)"
        )
    parts += [f"{count} × {kind}" for kind, count in found.bids.most_common()]
    parts += [f"table {table.path} ({table.rows} rows)" for table in found.tables]
    parts += [f"{count} {kind}" for kind, count in found.others.most_common()]
    return "; ".join(parts) or "nothing that can be read"


def _atlas(found: Survey, given: Path | None) -> list[str]:
    columns = found.series[0].columns if found.series else next(iter(found.columns), None)
    candidates = [table for table in found.tables if table.parcels]
    fitting = [table for table in candidates if columns in (None, table.rows)] or candidates
    path = given if given is not None else found.folder / fitting[0].path if fitting else None
    if path is None:
        count = f"{columns} rows" if columns else "one row per parcel"
        return ["atlas:", f"  name: {FILL_IN}  # for instance Schaefer400",
                f"  table: {FILL_IN}  # parcel table below root: {count}, in the order of the series' columns",
                f"  index: {FILL_IN}  # its column with the parcel's integer", f"  label: {FILL_IN}  # with its name",
                f"  xyz_mm: [{FILL_IN}]  # with its centroid: three columns in mm",
                *_image(found, found.folder)]  # fmt: skip
    names = list(read_parcels(path).columns)
    headless = {"index": "1", "label": "2"} if names[:2] == ["1", "2"] else {}
    xyz = [_named(names, axis) for axis in "xyz"]
    lines = ["atlas:", f"  name: {path.stem}"]
    if not path.resolve().is_relative_to(found.folder.resolve()):
        lines += [f"  root: {path.resolve().parent}", f"  table: {path.name}"]
    else:
        lines.append(f"  table: {path.resolve().relative_to(found.folder.resolve())}")
    if headless:
        lines += [f'  {key}: "{column}"  # the table has no header line: its columns are numbered'
                  for key, column in headless.items()]  # fmt: skip
    else:
        lines += [f"  {key}: {_named(names, key) or FILL_IN}" for key in ("index", "label")]
    if None not in xyz:
        lines.append(f"  xyz_mm: [{', '.join(str(name) for name in xyz)}]")
    elif not found.bids:
        lines.append(f"  xyz_mm: [{FILL_IN}]  # columns with the centroid in mm; or name the label image in `image`")
    network = _named(names, "network")
    return lines + [f"  network: {network}"] * (network is not None) + _image(found, path.parent)


def _image(found: Survey, folder: Path) -> list[str]:
    """The label image that volumes need."""
    if not any(kind.endswith(("bold.nii.gz", "dtseries.nii")) for kind in found.bids):
        return []
    surface = found.bids.most_common(1)[0][0].endswith("dtseries.nii")
    images = sorted(path.name for path in folder.glob("*.nii*") if path.name.endswith(".dlabel.nii") == surface)
    name = images[0] if len(images) == 1 else f"{FILL_IN}  # there: {', '.join(images[:6]) or 'none'}"
    space = next((part[6:] for kind in found.bids for part in kind.split("_") if part.startswith("space-")), FILL_IN)
    return [f"  image: {name}  # label image below root", f"  space: {space}  # the space that the label image is in"]


def _derivatives(found: Survey) -> list[str]:
    kind, count = found.bids.most_common(1)[0]
    stem, _, extension = kind.partition(".")
    *entities, suffix = stem.split("_")
    pairs = {"suffix": suffix, "extension": f".{extension}"}
    pairs |= {key: value for key, _, value in (part.partition("-") for part in entities) if key not in ("stat",)}
    shown = ", ".join(f"{key}: {value}" for key, value in pairs.items())
    others = [f"  # or: {other} ({number})" for other, number in found.bids.most_common()[1:]]
    return ["recordings:", f"  derivatives: {{{shown}}}  # {count} recordings", *others,
            "  # tr_s comes from each recording's sidecar or header"]  # fmt: skip


def _recordings(found: Survey, table: Table | None) -> list[str]:
    names = [str(entry.path) for entry in found.series]
    tr = found.tr_s.most_common(1)
    tr_line = f"  tr_s: {tr[0][0] if tr else FILL_IN}  # seconds from frame to frame, as recorded"
    if table is None:
        return ["recordings:", f"  table: {FILL_IN}  # one row per recording, with a column that names its file",
                f'  file: "{FILL_IN}"  # for instance {{file}}; found: {", ".join(names[:3])}', "  columns:",
                f"    recording_id: {FILL_IN}", f"    subject_id: {FILL_IN}  # the person: splits are by subject",
                tr_line, *_orientation(found)]  # fmt: skip
    content = read_table(found.folder / table.path, text=table.columns)
    naming = naming_template(content, names)
    assert naming is not None
    template, column = naming
    own = _columns(content, column)
    lines = ["recordings:", f"  table: {table.path}", f'  file: "{template}"', "  columns:"]
    lines += [f"    {key}: {name}" for key, name in own.items()]
    if "tr_s" not in own:
        lines.append(tr_line)
    kept = [name for name in table.columns if name not in own.values() and content[name].notna().any()]
    lines.append(f"  phenotypes: [{', '.join(kept)}]  # take out what you do not need")
    return lines + _orientation(found)


def _columns(content: pd.DataFrame, naming: str) -> dict[str, str]:
    names = list(content.columns)
    subject = _named(names, "subject_id") or naming
    unique = [name for name in (_named(names, "recording_id"), naming, subject) if name and content[name].is_unique]
    own = {"recording_id": unique[0] if unique else FILL_IN, "subject_id": subject}
    found = {key: _named(names, key) for key in ("session", "task", "site", "family", "tr_s")}
    return own | {key: name for key, name in found.items() if name is not None}


def _orientation(found: Survey) -> list[str]:
    """Says how a file stores its series: the atlas's number of parcels tells, where there is an atlas."""
    columns, frames = ({getattr(entry, name) for entry in found.series} for name in ("columns", "frames"))
    parcels = {table.rows for table in found.tables if table.parcels}
    if parcels & columns:
        return ["  orientation: frames_parcels  # a row a frame"]
    if parcels & frames:
        return ["  orientation: parcels_frames  # one row per parcel"]
    if len(frames) == 1 and len(found.series) > 2 and min(frames) < max(columns):
        return [f"  orientation: {FILL_IN}  # a row a frame: frames_parcels; one row per parcel: parcels_frames"]
    return ["  orientation: frames_parcels  # a row a frame"]


def _rest(found: Survey, table: Table | None) -> list[str]:
    subjects = table.rows if table else len(found.series) or found.bids.most_common(1)[0][1]
    shortest = min([entry.frames for entry in found.series] + found.lengths, default=WINDOW_FRAMES)
    tr = found.tr_s.most_common(1)
    lines = []
    further = _further_table(found, table)
    if further is not None:
        key = _named(further.columns, "subject_id")
        visit = _named(further.columns, "session")
        kept = [name for name in further.columns if name not in (key, visit)]
        lines += ["phenotypes:", f"  table: {further.path}", f"  subject_id: {key}",
                  *([f"  session: {visit}"] if visit else []), f"  columns: [{', '.join(kept)}]", ""]  # fmt: skip
    same = f"{tr[0][0]}" if tr else FILL_IN
    lines += [
        f"tr_s: {same}  # of the store: recordings with another are resampled; the paper's is 1.0",
        "dtype: float32",
        'publisher: ""  # how the recordings were filtered and cleaned before, in words',
        f"min_frames: {min(shortest, WINDOW_FRAMES)}  # at the store's tr_s; no window is longer than its recording",
    ]
    exact = "  # exact shares: a hash may leave a small cohort without test subjects" if subjects < SMALL else ""
    method = "exact" if subjects < SMALL else "hash"
    return [*lines, f"split: {{method: {method}, val: 0.1, test: 0.2}}{exact}"]


def _further_table(found: Survey, own: Table | None) -> Table | None:
    """Returns another table with a column of subjects, if there is one."""
    others = [table for table in found.tables if table is not own and not table.parcels]
    return next((table for table in others if _named(table.columns, "subject_id")), None)


def _table_of_recordings(found: Survey) -> Table | None:
    """Returns the table that names the files."""
    names = [str(entry.path) for entry in found.series]
    naming = []
    for table in found.tables:
        if names and not table.parcels:
            content = read_table(found.folder / table.path, text=table.columns)
            template = naming_template(content, names)
            if template is not None:
                naming.append((bool(content[template[1]].is_unique), table))
    return max(naming, key=lambda pair: pair[0])[1] if naming else None


def _named(names: Sequence[str], key: str) -> str | None:
    lower = {str(name).lower(): str(name) for name in names}
    return next((lower[usual] for usual in NAMES[key] if usual in lower), None)
