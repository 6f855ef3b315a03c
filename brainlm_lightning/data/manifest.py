"""A cohort in one YAML: where its files are, its atlas, its columns and its split. Never the data themselves."""

import hashlib
import json
import math
import os.path
import re
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from jsonargparse import ArgumentParser
from omegaconf.errors import OmegaConfBaseException

from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.read import Orientation, read_table
from brainlm_lightning.data.split import assign_split, check_shares
from brainlm_lightning.data.store import COLUMNS


@dataclass(frozen=True)
class AtlasSource:
    """The parcel table, one row per column of the series and in their order.

    Attributes:
        name: What the atlas is called.
        table: csv or tsv below root.
        index: Column with the parcel's integer in the atlas.
        label: Column with its name.
        xyz_mm: The three columns of its centroid in mm.
        network: Column with its functional network, where there is one.
    """

    name: str
    table: str
    index: str
    label: str
    xyz_mm: list[str]
    network: str | None = None


@dataclass(frozen=True)
class RecordingColumns:
    """Which columns of the table of recordings hold what.

    Attributes:
        recording_id: Unique name of the recording.
        subject_id: The person.
        session: Visit, where there are several.
        task: rest or the name of a task.
        site: Scanner or centre.
        tr_s: Seconds from frame to frame as recorded; or one `recordings.tr_s` for all.
    """

    recording_id: str
    subject_id: str
    session: str | None = None
    task: str | None = None
    site: str | None = None
    tr_s: str | None = None


@dataclass(frozen=True)
class RecordingsSource:
    """The recordings: a table with a row each, and where the series of a row is.

    Attributes:
        table: csv or tsv below root; the store keeps its order.
        file: Series below root, with columns of the table in braces: `timeseries.npz::{recording}`.
        columns: Which columns hold what.
        orientation: Of the series in their files.
        tr_s: Seconds from frame to frame as recorded, where all recordings share it.
        phenotypes: Further columns to keep, under their names.
    """

    table: str
    file: str
    columns: RecordingColumns
    orientation: Orientation = "frames_parcels"
    tr_s: float | None = None
    phenotypes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PhenotypeSource:
    """A further table with a row a subject.

    Attributes:
        table: csv or tsv below root.
        subject_id: Its column with the subject.
        columns: Columns to keep, under their names.
    """

    table: str
    subject_id: str
    columns: list[str]


@dataclass(frozen=True)
class SplitPlan:
    """How subjects are split: by a keyed hash of their name.

    Attributes:
        key: Another key is another split; cohorts that share subjects share the key.
        val: Share of subjects that validate.
        test: Share of subjects that test.
    """

    key: str = "brainlm"
    val: float = 0.1
    test: float = 0.1


@dataclass(frozen=True)
class Manifest:
    """A cohort and how it is prepared.

    Attributes:
        cohort: Name of the store's folder.
        root: Folder that holds every file named here.
        atlas: The parcels.
        recordings: The recordings.
        phenotypes: A further table with a row a subject.
        tr_s: Seconds from frame to frame in the store; recordings with another are resampled. The paper's is 1.
        dtype: Of the stored series; float16 halves disk and transfer.
        split: Which subjects train, validate and test.
        policy: What becomes of a recording with a problem: stop, leave it out, or keep it with the problem noted and
            unusable parcels marked as unobserved.
        min_frames: Shorter recordings (at the store's tr_s) are a problem; the paper's windows have 200 frames.
        truth: File below root that is copied into the store as `truth.npz`; simulated cohorts have one.
    """

    cohort: str
    root: str
    atlas: AtlasSource
    recordings: RecordingsSource
    phenotypes: PhenotypeSource | None = None
    tr_s: float = 1.0
    dtype: Literal["float16", "float32"] = "float16"
    split: SplitPlan = field(default_factory=SplitPlan)
    policy: Literal["error", "drop_recording", "mark"] = "mark"
    min_frames: int = 200
    truth: str | None = None

    def __post_init__(self) -> None:
        """Refuses what no cohort can be prepared from."""
        check_shares(**asdict(self.split))
        if not self.cohort or Path(self.cohort).name != self.cohort:
            raise ValueError(f"cohort is {self.cohort!r}; expected the name of one folder")
        if not 0 < self.tr_s < math.inf or self.min_frames < 1:
            raise ValueError(f"tr_s is {self.tr_s}, min_frames {self.min_frames}; expected both above 0")
        if (self.recordings.tr_s is None) == (self.recordings.columns.tr_s is None):
            raise ValueError(
                "the recorded tr_s is in `recordings.tr_s` or in `recordings.columns.tr_s`: name one of them"
            )

    @cached_property
    def sha256(self) -> str:
        """Identity of the preparation; the same wherever the files are."""
        content = {key: value for key, value in asdict(self).items() if key != "root"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def below_root(self, relative: str) -> Path:
        """Returns the place of a file of the cohort.

        Links below root are followed (large studies are linked together); names that climb out of it are not.
        """
        path = os.path.normpath(relative)
        if os.path.isabs(path) or path.split(os.sep)[0] == "..":
            raise ValueError(f"{relative!r} is outside of the cohort's root {self.root}")
        return Path(self.root) / path

    def read_atlas(self) -> Atlas:
        """Reads the parcel table."""
        columns = {key: value for key, value in asdict(self.atlas).items() if key not in ("name", "table")}
        return Atlas.from_table(self.atlas.name, self.below_root(self.atlas.table), **columns)

    def list_recordings(self) -> pd.DataFrame:
        """Reads the tables.

        Returns:
            A row a recording, in the table's order: `recording_id, subject_id, session, task, site, split, source_tr_s`
            (as recorded), `location` (for `read_series`), then the phenotypes.

        Raises:
            ValueError: An identifier or tr_s is absent, a recording stands twice, or a column is not there.
        """
        source, path = self.recordings, self.below_root(self.recordings.table)
        named = {key: column for key, column in asdict(source.columns).items() if column is not None and key != "tr_s"}
        table = read_table(path, text=tuple(named.values()))
        phenotypes = _joined_phenotypes(self, table)
        _check_columns(path, table, [*named.values(), *([source.columns.tr_s] if source.columns.tr_s else [])])
        listed = pd.DataFrame({key: table[named[key]] if key in named else "" for key in COLUMNS[:5]}, table.index)
        listed[["session", "task", "site"]] = listed[["session", "task", "site"]].fillna("")
        _check_identifiers(path, listed)
        listed["split"] = [assign_split(subject, **asdict(self.split)) for subject in listed["subject_id"]]
        listed["source_tr_s"] = table[source.columns.tr_s] if source.columns.tr_s else source.tr_s
        _check_tr_s(path, listed)
        listed["location"] = [self._location(row) for row in read_table(path, text=table.columns).to_dict("records")]
        return pd.concat([listed, phenotypes], axis=1)

    def _location(self, row: Mapping[Any, Any]) -> str:
        file, separator, member = self.recordings.file.partition("::")
        filled = {key: value for key, value in row.items() if isinstance(value, str)}  # an empty cell names no file
        try:
            return str(self.below_root(file.format_map(filled))) + separator + member.format_map(filled)
        except KeyError as error:
            raise ValueError(
                f"recordings.file {self.recordings.file!r}: no column {error} in the table, or its cell is empty for "
                f"{row[self.recordings.columns.recording_id]!r}; the table has {list(row)}"
            ) from error


def load_manifest(path: Path | str, overrides: Sequence[str] = ()) -> Manifest:
    """Loads a manifest; `${oc.env:NAME}` and other interpolations are resolved.

    Args:
        path: The YAML.
        overrides: As on a command line: `--split.test=0.2`.

    Raises:
        ValueError: An unknown key, a wrong type, an absent key (each is named) or an environment variable that is not
            set.
    """
    parser = ArgumentParser(parser_mode="omegaconf", exit_on_error=False)
    parser.add_class_arguments(Manifest, as_group=False)
    parser.add_argument("--config", action="config")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such manifest")
    try:
        values = parser.parse_args([f"--config={path}", *overrides])
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}, `{error.full_key}`: {_unresolved(str(error))}") from error
    except ArgumentError as error:
        raise ValueError(f"{path}: {error}") from error
    values.pop("config")
    return Manifest(**vars(parser.instantiate(values)))


def _unresolved(reason: str) -> str:
    unset = re.search(r"Environment variable '(\w+)' not found", reason)
    if unset is None:
        return reason.splitlines()[0]
    return f"the environment variable {unset[1]} is not set; export {unset[1]}=FOLDER, as the manifest's comments say"


def _joined_phenotypes(manifest: Manifest, table: pd.DataFrame) -> pd.DataFrame:
    """Returns the phenotype columns, a row a recording."""
    source = manifest.recordings
    _check_columns(manifest.below_root(source.table), table, [*source.phenotypes, source.columns.subject_id])
    joined = table[source.phenotypes]
    if manifest.phenotypes is not None:
        path, key = manifest.below_root(manifest.phenotypes.table), manifest.phenotypes.subject_id
        further = read_table(path, text=(key,))
        _check_columns(path, further, [key, *manifest.phenotypes.columns])
        twice = further.loc[further[key].duplicated(), key].tolist()
        if twice:
            raise ValueError(f"{path}: subject {twice[0]!r} stands more than once; expected a row a subject")
        further = further.set_index(key)[manifest.phenotypes.columns].reindex(table[source.columns.subject_id])
        joined = pd.concat([joined, further.set_axis(table.index)], axis=1)
    reserved = [name for name in joined.columns if name in COLUMNS] + joined.columns[
        joined.columns.duplicated()
    ].tolist()
    if reserved:
        raise ValueError(f"phenotype columns {reserved} stand twice, or are the store's own ({', '.join(COLUMNS)})")
    return joined


def _check_columns(path: Path, table: pd.DataFrame, wanted: Sequence[str]) -> None:
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise ValueError(f"{path}: no column {missing}; the table has {list(table.columns)}")


def _check_identifiers(path: Path, listed: pd.DataFrame) -> None:
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


def _check_tr_s(path: Path, listed: pd.DataFrame) -> None:
    seconds = pd.to_numeric(listed["source_tr_s"], errors="coerce")
    wrong = listed.loc[~((seconds > 0) & (seconds < 60)), "recording_id"].tolist()
    if wrong:
        raise ValueError(f"{path}: tr_s of {wrong[:10]} is not between 0 and 60 s (in seconds, not milliseconds)")
    listed["source_tr_s"] = seconds.astype(float)
