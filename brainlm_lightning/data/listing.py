"""The recordings of a cohort: a row each, with its file, its subject's side of the split and what is known of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from brainlm_lightning.data.derivatives import find_recordings
from brainlm_lightning.data.identifiers import similar
from brainlm_lightning.data.manifest import Manifest
from brainlm_lightning.data.phenotypes import check_columns, read_phenotypes
from brainlm_lightning.data.read import read_table
from brainlm_lightning.data.split import assign_splits, split_remarks, units_of
from brainlm_lightning.data.store import COLUMNS

TEXTS = ("session", "task", "site", "family")


@dataclass(frozen=True, eq=False)
class Listing:
    """Recordings that a manifest names.

    Attributes:
        table: One row per recording: the store's identifiers, `split`, `source_tr_s`, `location`, then phenotypes.
        remarks: What was found out about the tables.
    """

    table: pd.DataFrame
    remarks: tuple[str, ...]


def list_recordings(manifest: Manifest) -> Listing:
    """Reads the tables of a cohort; the order of the table of recordings stays.

    Raises:
        ValueError: A column is absent, a name stands twice, subjects are nearly the same, tr_s is no time in seconds,
            or a file lies outside of the root.
    """
    source = manifest.recordings
    path, table, texts = _tables(manifest)
    named = {
        key: column for key, column in asdict(source.named_columns).items() if column is not None and key != "tr_s"
    }
    wanted = [*named.values(), *([source.named_columns.tr_s] if source.named_columns.tr_s else []), *source.phenotypes]
    check_columns(path, table, wanted)
    keys = ("recording_id", "subject_id", *TEXTS)
    listed = pd.DataFrame({key: table[named[key]] if key in named else "" for key in keys}, table.index)
    listed[list(TEXTS)] = listed[list(TEXTS)].fillna("")
    _check_identifiers(path, listed, manifest.similar_subjects)
    phenotypes, remarks = read_phenotypes(manifest, table)
    _check_names(phenotypes)
    units = units_of(listed)
    assigned = assign_splits(units, **asdict(manifest.split))
    listed["split"] = assigned.loc[units].to_numpy()
    listed["source_tr_s"] = table[source.named_columns.tr_s] if source.named_columns.tr_s else source.tr_s
    if source.tr_s is not None or source.named_columns.tr_s is not None:
        _check_tr_s(path, listed)
    listed["location"] = [_location(manifest, row) for row in texts.to_dict("records")]
    related = [name for name in table.columns if re.search(r"famil|household|twin|sibling", name, re.IGNORECASE)]
    if related and source.named_columns.family is None:
        remarks.append(f"{path.name}: column {related[0]!r} may hold families, which a split by subject tears: if so, "
                       f"set `columns.family: {related[0]}`")  # fmt: skip
    remarks += split_remarks(assigned, **asdict(manifest.split))
    return Listing(pd.concat([listed, phenotypes], axis=1), tuple(remarks))


def _tables(manifest: Manifest) -> tuple[Path, pd.DataFrame, pd.DataFrame]:
    """Returns the table of recordings, with numbers and as text; where a folder is indexed, its files are the table."""
    source = manifest.recordings
    if not Path(manifest.root).is_dir():
        raise FileNotFoundError(f"{manifest.root}: no such folder; `root` names the folder of the recordings (--root)")
    if source.table is None:
        assert source.derivatives is not None
        wanted = dict(source.derivatives)
        if manifest.atlas.space and wanted.setdefault("space", manifest.atlas.space) != manifest.atlas.space:
            raise ValueError(
                f"recordings are in space {wanted['space']!r} and the atlas in {manifest.atlas.space!r}; use one space"
            )
        root = Path(manifest.root).absolute()
        found = find_recordings(root, wanted)
        return root, found, found
    path = manifest.below_root(source.table)
    texts = tuple(
        column for key, column in asdict(source.named_columns).items() if column is not None and key != "tr_s"
    )
    return path, read_table(path, text=texts, codes=manifest.missing_values), _all_text(path)


def _all_text(path: Path) -> pd.DataFrame:
    return read_table(path, text=read_table(path).columns)


def _location(manifest: Manifest, row: Mapping[Any, Any]) -> str:
    """Fills columns of the table into `recordings.file`; a number in braces is a MATLAB cell, no column."""
    template, filled = manifest.recordings.file, {key: cell for key, cell in row.items() if isinstance(cell, str)}

    def fill(found: re.Match[str]) -> str:
        name = found[1]
        if name in filled:
            return filled[name]
        if name.isdigit():
            return found[0]
        raise ValueError(
            f"recordings.file {template!r}: no column {name!r} in the table, or its cell is empty for "
            f"{row[manifest.recordings.named_columns.recording_id]!r}; the table has {list(row)}"
        )

    file, separator, selector = re.sub(r"\{([^{}]+)\}", fill, template).partition("::")
    return str(manifest.below_root(file)) + separator + selector


def _check_names(phenotypes: pd.DataFrame) -> None:
    twice = phenotypes.columns[phenotypes.columns.duplicated()].tolist()
    reserved = [name for name in phenotypes.columns if name in COLUMNS] + twice
    if reserved:
        raise ValueError(f"phenotype columns {reserved} stand twice, or are the store's own ({', '.join(COLUMNS)})")


def _check_identifiers(path: Path, listed: pd.DataFrame, accept_similar: bool) -> None:
    if listed.empty:
        raise ValueError(f"{path}: no recordings in the table")
    for key in ("recording_id", "subject_id"):
        if listed[key].isna().any():
            raise ValueError(f"{path}: row {listed.index[listed[key].isna()][0] + 1} has no {key}")
    twice = listed.loc[listed["recording_id"].duplicated(), "recording_id"].tolist()
    if twice:
        raise ValueError(
            f"{path}: {len(twice)} recording_id stand more than once: {twice[:10]}; each recording has its own"
        )
    groups = [] if accept_similar else similar(listed["subject_id"])
    if groups:
        raise ValueError(
            f"{path}: subjects that are nearly the same would be torn by the split: {groups[:5]}; write one "
            "person one way, or set `similar_subjects: true` if they are different people"
        )
    _check_families(path, listed)


def _check_families(path: Path, listed: pd.DataFrame) -> None:
    several = listed.groupby("subject_id")["family"].nunique()
    if (several > 1).any():
        subject = several.index[several > 1][0]
        families = sorted(set(listed.loc[listed["subject_id"] == subject, "family"]))
        raise ValueError(f"{path}: subject {subject!r} stands in several families: {families}")
    groups: Sequence[list[str]] = similar(name for name in listed["family"] if name)
    if groups:
        raise ValueError(f"{path}: families that are nearly the same: {groups[:5]}; write one family one way")


def _check_tr_s(path: Path, listed: pd.DataFrame) -> None:
    seconds = pd.to_numeric(listed["source_tr_s"], errors="coerce")
    wrong = listed.loc[~((seconds > 0) & (seconds < 60)), "recording_id"].tolist()
    if wrong:
        raise ValueError(f"{path}: tr_s of {wrong[:10]} is not between 0 and 60 s (in seconds, not milliseconds)")
    listed["source_tr_s"] = seconds.astype(float)
