"""The parcel table: which region stands in which column of a series, and where in the brain it lies."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from brainlm_lightning.data.parcellation import AXES, UNKNOWN_NETWORK, centroids
from brainlm_lightning.data.read import read_table

COLUMNS = ("index", "label", "network", *AXES)
FARTHEST_MM = 200.0  # no head reaches farther from the origin of MNI space: beyond it, the unit is not mm


_NUMBERED = " (it has no header line, so its columns are numbered)"


def read_parcels(path: Path | str, text: Collection[str] = ()) -> pd.DataFrame:
    """Reads a table of parcels; one without a header line, as Schaefer's are published, has columns `1`, `2`, ….

    Args:
        path: csv, tsv or txt.
        text: Columns that stay text.
    """
    return read_table(path, text=text, headless=True)


@dataclass(frozen=True, eq=False)
class Atlas:
    """An ordered table of parcels: row i describes column i of every series.

    Attributes:
        name: What the atlas is called, for instance `A424`.
        parcels: Columns `index` (the label's integer in the atlas volume), `label`, `network` ('none' where unknown)
            and the centroid `x_mm, y_mm, z_mm` in MNI space.
    """

    name: str
    parcels: pd.DataFrame

    def __post_init__(self) -> None:
        """Refuses a table that cannot be a parcel table."""
        missing = [column for column in COLUMNS if column not in self.parcels.columns]
        if missing or self.parcels.empty:
            raise ValueError(
                f"atlas {self.name}: expected at least one row and the columns {list(COLUMNS)}, "
                f"got {len(self.parcels)} rows and the columns {list(self.parcels.columns)}"
            )
        self._check_index()
        self._check_coordinates()

    @classmethod
    def from_table(
        cls,
        name: str,
        path: Path | str,
        *,
        index: str,
        label: str,
        xyz_mm: Sequence[str] | None,
        network: str | None = None,
        image: Path | None = None,
    ) -> "Atlas":
        """Reads a csv or tsv whose rows stand in the order of the series' columns.

        Args:
            name: Name of the atlas.
            path: The table.
            index: Column with the parcel's integer in the atlas; in a table without a header line its number, `1`.
            label: Column with its name.
            xyz_mm: The three columns of its centroid, in mm; None takes centroids from the image.
            network: Column with its functional network; None or an empty cell is 'none'.
            image: The label image, where centroids are to come from it.

        Raises:
            ValueError: A column is absent, an index is there twice, or a coordinate is not a place in a head.
        """
        table = read_parcels(path, text={label, network or label} - {index})
        wanted = [index, label, *(xyz_mm or ()), *([network] if network else [])]
        missing = [column for column in wanted if column not in table.columns]
        if missing:
            raise ValueError(
                f"{path}: no column {missing}; the atlas table has {list(table.columns)}"
                f"{_NUMBERED if table.columns[0] == '1' else ''}"
            )
        if xyz_mm is None:
            if image is None:
                raise ValueError(f"atlas {name}: name columns of centroids in `xyz_mm`, or its label image in `image`")
            table = table.join(centroids(image, table[index]))
            xyz_mm = AXES
        if len(xyz_mm) != len(AXES) or len(set(xyz_mm)) != len(AXES):
            raise ValueError(f"atlas {name}: xyz_mm names the three columns x, y and z, got {list(xyz_mm)}")
        networks = table[network].fillna(UNKNOWN_NETWORK) if network else UNKNOWN_NETWORK
        columns = {"index": table[index], "label": table[label].fillna("").astype(str), "network": networks}
        columns |= {axis: table[column] for axis, column in zip(AXES, xyz_mm, strict=True)}
        return cls(name, pd.DataFrame(columns))

    @classmethod
    def load(cls, name: str, path: Path | str) -> "Atlas":
        """Reads what `save` wrote."""
        return cls.from_table(name, path, index="index", label="label", network="network", xyz_mm=AXES)

    def save(self, path: Path | str) -> None:
        """Writes the table as csv; `load` gives it back exactly."""
        self.parcels.loc[:, list(COLUMNS)].to_csv(path, index=False, lineterminator="\n")

    @property
    def num_parcels(self) -> int:
        """Number of parcels, P."""
        return len(self.parcels)

    @cached_property
    def xyz_mm(self) -> np.ndarray:
        """Centroids, (P, 3) float32, in mm."""
        return self.parcels.loc[:, list(AXES)].to_numpy(np.float32)

    @cached_property
    def networks(self) -> np.ndarray:
        """Network of each parcel, (P,) strings."""
        return self.parcels["network"].to_numpy(str)

    @cached_property
    def sha256(self) -> str:
        """Identity of the parcels and of their order: indices, labels and coordinates to 0.01 mm.

        Networks are left out: a parcel stays the same parcel under another scheme of networks.
        """
        digest = hashlib.sha256()
        columns = (self.parcels[name] for name in ("index", "label", *AXES))
        for index, label, *xyz_mm in zip(*columns, strict=True):
            # Adding 0.0 turns -0.0 into 0.0, which would be written with a sign.
            xyz = " ".join(f"{round(float(value), 2) + 0.0:.2f}" for value in xyz_mm)
            digest.update(f"{index}\t{label}\t{xyz}\n".encode())
        return digest.hexdigest()

    def _check_index(self) -> None:
        index = self.parcels["index"]
        if not pd.api.types.is_integer_dtype(index):
            raise ValueError(f"atlas {self.name}: index holds whole numbers, got {index.tolist()[:5]}")
        twice = index[index.duplicated()].tolist()
        if twice:
            raise ValueError(f"atlas {self.name}: index {twice[:5]} stands more than once; each parcel has its own")

    def _check_coordinates(self) -> None:
        for axis in AXES:
            values = pd.to_numeric(self.parcels[axis], errors="coerce").to_numpy(float)
            wrong = np.flatnonzero(~(np.abs(values) < FARTHEST_MM))
            if wrong.size:
                row = self.parcels.iloc[wrong[0]]
                raise ValueError(
                    f"atlas {self.name}: {axis} of parcel {row['index']} is {row[axis]}; "
                    f"expected finite mm, nearer than {FARTHEST_MM:.0f} mm to the origin"
                )
