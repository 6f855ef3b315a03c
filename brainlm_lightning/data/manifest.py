"""A cohort in one YAML: where its files are, its atlas, its columns and its split. Never the data themselves."""

import hashlib
import json
import math
import os.path
import re
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from jsonargparse import ArgumentParser
from omegaconf.errors import OmegaConfBaseException

from brainlm_lightning.data.atlas import Atlas, read_parcels
from brainlm_lightning.data.clean import CleaningPlan
from brainlm_lightning.data.manifest_help import with_nearest
from brainlm_lightning.data.parcellation import UNKNOWN_NETWORK, networks_by_overlap
from brainlm_lightning.data.read import Expected
from brainlm_lightning.data.sources import AtlasSource, NetworkSource, PhenotypeSource, RecordingsSource, SplitPlan
from brainlm_lightning.data.split import check_shares


@dataclass(frozen=True)
class Manifest:
    """A cohort and how it is prepared.

    Attributes:
        cohort: Name of the store's folder.
        root: Folder that holds every file named here.
        atlas: The parcels.
        recordings: The recordings.
        phenotypes: A further table with one row per subject.
        tr_s: Seconds from frame to frame in the store; recordings with another are resampled. The paper's is 1.
        dtype: Of the stored series; float16 halves disk and transfer.
        split: Which subjects train, validate and test.
        policy: What becomes of a recording with a problem: stop, leave it out, or keep it with the problem noted and
            unusable parcels marked as unobserved.
        missing_values: Further codes of missing values in the tables, for instance `-9999`.
        recode: By phenotype column, what to write instead of a class: `{sex: {m: M, f: F}}`.
        missing_frames: Frames without data (censored, scrubbed, padded) are interpolated; `mark` lists them as well,
            and keeps them out of scaling statistics and windows; `interpolate` takes what was interpolated as data.
        cleaning: What is removed from each recording, at its own tr_s.
        publisher: How the recordings were cleaned before, in words; kept in store.json.
        max_mean_fd_mm: Recordings with a larger mean framewise displacement are left out.
        max_missing: Share of frames without data from which on a recording has a problem.
        similar_subjects: Subjects whose names differ in case, zeros or `sub-` alone are different people.
        max_left_out: Share of recordings left out from which on `prepare` ends with exit status 3.
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
    missing_values: list[str] = field(default_factory=list)
    recode: dict[str, dict[str, str]] = field(default_factory=dict)
    missing_frames: Literal["mark", "interpolate"] = "mark"
    cleaning: CleaningPlan = field(default_factory=CleaningPlan)
    publisher: str = ""
    max_mean_fd_mm: float | None = None
    max_missing: float = 0.5
    similar_subjects: bool = False
    max_left_out: float = 0.5
    min_frames: int = 200
    truth: str | None = None

    def __post_init__(self) -> None:
        """Refuses what no cohort can be prepared from."""
        check_shares(key=self.split.key, val=self.split.val, test=self.split.test)
        if not self.cohort or Path(self.cohort).name != self.cohort:
            raise ValueError(f"cohort is {self.cohort!r}; expected the name of one folder")
        if not 0 < self.tr_s < math.inf or self.min_frames < 1:
            raise ValueError(f"tr_s is {self.tr_s}, min_frames {self.min_frames}; expected both above 0")
        source = self.recordings
        if source.tr_s is not None and source.named_columns.tr_s is not None:
            raise ValueError(
                "the recorded tr_s is in `recordings.tr_s` or in `recordings.columns.tr_s`: name one of them"
            )
        if source.table is not None and source.columns is None:
            raise ValueError("`recordings.columns` is absent: name at least recording_id and subject_id")
        if (source.table is None) == (source.derivatives is None):
            raise ValueError("recordings come from `recordings.table` or `recordings.derivatives`: name one of them")
        if self.recordings.skip_frames < 0 or not 0 <= self.max_missing <= 1 or not 0 <= self.max_left_out <= 1:
            raise ValueError("skip_frames is at least 0, max_missing and max_left_out are shares from 0 to 1")

    @cached_property
    def sha256(self) -> str:
        """Identity of the preparation; the same wherever the files are."""
        content = {key: value for key, value in asdict(self).items() if key != "root"}
        content["atlas"] = {key: value for key, value in content["atlas"].items() if key != "root"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def below_root(self, relative: str) -> Path:
        """Returns the place of a file of the cohort, absolute: workers need not stand in the same folder.

        Links below root are followed (large studies are linked together); names that climb out of it are not.
        """
        return _below(self.root, relative)

    def of_atlas(self, relative: str) -> Path:
        """Returns the place of a file of the atlas."""
        return _below(self.atlas.root or self.root, relative)

    def expected(self, atlas: Atlas) -> Expected:
        """Returns what every file should hold."""
        source = self.recordings
        ids, labels = (tuple(atlas.parcels[name].tolist()) for name in ("index", "label"))
        ignored = tuple(source.ignore_columns)
        image = str(self.of_atlas(self.atlas.image)) if self.atlas.image else ""
        return Expected(
            *(source.orientation, atlas.num_parcels, ids, labels, source.names, ignored, source.square),
            *(image, self.atlas.min_voxels),
        )

    def read_atlas(self) -> Atlas:
        """Reads the parcel table."""
        columns = {
            key: value for key, value in asdict(self.atlas).items() if key in ("index", "label", "xyz_mm", "network")
        }
        image = self.of_atlas(self.atlas.image) if self.atlas.image else None
        atlas = Atlas.from_table(self.atlas.name, self.of_atlas(self.atlas.table), image=image, **columns)
        return atlas if self.atlas.networks is None else self._with_networks(atlas, self.atlas.networks, image)

    def _with_networks(self, atlas: Atlas, other: NetworkSource, image: Path | None) -> Atlas:
        if image is None:
            raise ValueError(
                "`atlas.networks` finds networks by overlap and needs the label image of the parcels in `image`"
            )
        table = read_parcels(self.of_atlas(other.table), text=(other.network,))
        names = dict(zip(table[other.index], table[other.network].fillna(UNKNOWN_NETWORK), strict=True))
        names = {index: name for index, name in names.items() if name != UNKNOWN_NETWORK}
        networks = networks_by_overlap(image, atlas.parcels["index"], self.of_atlas(other.image), names)
        return Atlas(atlas.name, atlas.parcels.assign(network=networks))


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
    _check_filled_in(Path(path))
    try:
        values = parser.parse_args([f"--config={path}", *overrides])
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}, `{error.full_key}`: {_unresolved(str(error))}") from error
    except ArgumentError as error:
        raise ValueError(f"{path}: {with_nearest(str(error), Manifest)}") from error
    values.pop("config")
    try:
        manifest = Manifest(**vars(parser.instantiate(values)))
    except TypeError as error:  # the parser lets null pass where a default is given
        raise ValueError(f"{path}: a key has no value (null), or one of another type: {error}") from error
    empty = [*_without_value(manifest)]
    if empty:
        raise ValueError(f"{path}: {', '.join(empty)} has no value (null); write one, or leave the key out")
    return manifest


def _without_value(settings: Any, prefix: str = "") -> Iterator[str]:
    """Full names of the keys that are null and may not be."""
    for name, kind in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if value is None and type(None) not in get_args(kind):
            yield f"{prefix}{name}"
        elif is_dataclass(value):
            yield from _without_value(value, f"{prefix}{name}.")


def _below(root: str, relative: str) -> Path:
    path = os.path.normpath(relative)
    if os.path.isabs(path) or path.split(os.sep)[0] == "..":
        raise ValueError(f"{relative!r} is outside of the cohort's root {root}")
    return Path(root).absolute() / path


def _check_filled_in(path: Path) -> None:
    """Refuses a manifest that is not finished, or is no text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}; save the manifest as UTF-8") from error
    missing = [number for number, line in enumerate(lines, 1) if "FILL_IN" in line.partition("#")[0]]
    if missing:
        shown = "; ".join(f"line {number}: {lines[number - 1].strip()}" for number in missing[:8])
        raise ValueError(f"{path}: {len(missing)} keys still say FILL_IN ({shown}); write what only you can know")


def _unresolved(reason: str) -> str:
    unset = re.search(r"Environment variable '(\w+)' not found", reason)
    if unset is None:
        return reason.splitlines()[0]
    return f"the environment variable {unset[1]} is not set; export {unset[1]}=FOLDER, as the manifest's comments say"
