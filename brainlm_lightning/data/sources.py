"""The parts of a manifest: what holds the atlas, the recordings, the phenotypes and the split."""

from dataclasses import dataclass, field
from typing import Literal

from brainlm_lightning.data.read import Orientation


@dataclass(frozen=True)
class NetworkSource:
    """Another atlas, whose networks the parcels take by overlap.

    Attributes:
        image: Its label image below root, in the space of the parcels' own.
        table: Its parcel table below root.
        index: Column with the label's integer.
        network: Column with the network.
    """

    image: str
    table: str
    index: str
    network: str


@dataclass(frozen=True)
class AtlasSource:
    """The parcel table, one row per column of the series and in their order.

    Attributes:
        name: What the atlas is called.
        table: csv, tsv or txt below root. Columns of a table without a header line are called `1`, `2`, ….
        index: Column with the parcel's integer in the atlas.
        label: Column with its name.
        xyz_mm: The three columns of its centroid in mm; without them, centroids come from `image`.
        network: Column with its functional network, where there is one.
        networks: Another atlas to take networks from, by overlap, where the table has none; needs `image`.
        image: Label image (3-D NIfTI, or .dlabel.nii) below root, for volumes and grayordinates.
        space: What the image's space is called in file names, for instance MNI152NLin6Asym; checked where they say it.
        min_voxels: Voxels that a parcel must have in a recording's field of view to count as measured.
        root: Folder that holds the atlas's files, where it is not the cohort's root.
    """

    name: str
    table: str
    index: str
    label: str
    xyz_mm: list[str] | None = None
    network: str | None = None
    networks: NetworkSource | None = None
    image: str | None = None
    space: str | None = None
    min_voxels: int = 1
    root: str | None = None


@dataclass(frozen=True)
class RecordingColumns:
    """Which columns of the table of recordings hold what.

    Attributes:
        recording_id: Unique name of the recording.
        subject_id: The person.
        session: Visit, where there are several.
        task: rest or the name of a task.
        site: Scanner or centre.
        family: Relatives share one: no family is torn by a split. A subject without one is its own.
        tr_s: Seconds from frame to frame as recorded; or one `recordings.tr_s` for all.
    """

    recording_id: str
    subject_id: str
    session: str | None = None
    task: str | None = None
    site: str | None = None
    family: str | None = None
    tr_s: str | None = None


ENTITY_COLUMNS = RecordingColumns("recording", "subject", "session", "task")  # of a derivatives folder


@dataclass(frozen=True)
class RecordingsSource:
    """The recordings: a table with a row each, and where the series of a row is.

    Attributes:
        table: csv or tsv below root; the store keeps its order. None with `derivatives`.
        file: Series below root, with columns of the table in braces: `timeseries.npz::{recording}`. What is inside a
            file is named as `::data.ts`, `::tc{3}` (a MATLAB cell, from 1) or `::ts[0]` (of a stack, from 0).
        derivatives: Instead of a table, which files of a BIDS derivatives folder (fMRIPrep, XCP-D) are recordings:
            suffix, extension and entities, for instance `{suffix: bold, space: MNI152NLin6Asym, desc: preproc}`.
        columns: Which columns hold what; with `derivatives`, the entities do.
        orientation: Of the series in their files.
        tr_s: Seconds from frame to frame as recorded, where all recordings share it; None where each file's header
            or sidecar says it.
        phenotypes: Further columns to keep, under their names.
        names: `use`: where a file names its columns they are put in the atlas's order, and must be the atlas's;
            `ignore`: columns are taken as they stand.
        ignore_columns: Columns of the files that are no parcels, by name, for instance a global signal.
        square: A series with as many frames as parcels is taken as `orientation` says; otherwise it is refused.
        skip_frames: First frames of every file that are left out, for instance before the steady state.
    """

    table: str | None = None
    file: str = "{file}"
    columns: RecordingColumns | None = None
    derivatives: dict[str, str] | None = None
    orientation: Orientation = "frames_parcels"
    tr_s: float | None = None
    phenotypes: list[str] = field(default_factory=list)
    names: Literal["use", "ignore"] = "use"
    ignore_columns: list[str] = field(default_factory=list)
    square: bool = False
    skip_frames: int = 0

    @property
    def named_columns(self) -> RecordingColumns:
        """The columns as given, or those of a derivatives folder."""
        return self.columns or ENTITY_COLUMNS


@dataclass(frozen=True)
class PhenotypeSource:
    """A further table with one row per subject, or one row per subject and session.

    Attributes:
        table: csv or tsv below root.
        subject_id: Its column with the subject.
        columns: Columns to keep, under their names.
        session: Its column with the visit, where it has one row per visit.
        match: `exact`: subjects must be written alike; `loose`: case, leading zeros and `sub-` may differ.
    """

    table: str
    subject_id: str
    columns: list[str]
    session: str | None = None
    match: Literal["exact", "loose"] = "exact"


@dataclass(frozen=True)
class SplitPlan:
    """How subjects (or families) are split: by a keyed hash of their name.

    Attributes:
        key: Another key is another split; cohorts that share subjects share the key.
        val: Share of subjects that validate.
        test: Share of subjects that test.
        method: `hash`: adding recordings never moves a subject, and the shares hold on average; `exact`: the shares
            hold exactly, for small cohorts, and adding subjects may move others.
    """

    key: str = "brainlm"
    val: float = 0.1
    test: float = 0.1
    method: Literal["hash", "exact"] = "hash"
