"""Several atlases as one: the parcels of all of them, of which each recording has those of its own atlas.

Shapes: P parcels of the joined atlas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.scaling import CentreScale, ScalingStatistics


@dataclass(frozen=True)
class JoinedAtlas:
    """The parcels of one atlas or of several, one atlas after the other.

    Attributes:
        whole: all parcels. Of a single atlas it is that atlas itself; of several, indices count from 1 and labels begin
            with the name of the parcel's own atlas.
        parts: which parcels are an atlas's, by its ``sha256``.
    """

    whole: Atlas
    parts: dict[str, slice]

    @classmethod
    def of(cls, atlases: Sequence[Atlas]) -> "JoinedAtlas":
        """Joins atlases in the order of their first appearance; one that comes again is joined once."""
        different = list({atlas.sha256: atlas for atlas in atlases}.values())
        ends = np.cumsum([0, *(atlas.num_parcels for atlas in different)]).tolist()
        parts = {atlas.sha256: slice(*ends[at : at + 2]) for at, atlas in enumerate(different)}
        if len(different) == 1:
            return cls(different[0], parts)
        tables = [atlas.parcels.assign(label=atlas.name + ":" + atlas.parcels["label"]) for atlas in different]
        table = pd.concat(tables, ignore_index=True)
        names = " + ".join(atlas.name for atlas in different)
        return cls(Atlas(names, table.assign(index=np.arange(1, len(table) + 1))), parts)

    @property
    def is_single(self) -> bool:
        """True if all recordings have all parcels."""
        return len(self.parts) == 1

    def columns(self, atlas: Atlas) -> slice:
        """Which parcels of the whole are an atlas's."""
        return self.parts[atlas.sha256]


def joined_statistics(statistics: Sequence[ScalingStatistics]) -> ScalingStatistics:
    """Scaling statistics of all parcels from those of each part, in their order; recordings and subjects add up."""
    if len(statistics) == 1:
        return statistics[0]
    return ScalingStatistics(
        _joined([of.robust for of in statistics]),
        _joined([of.robust_centred for of in statistics]),
        sum(of.num_recordings for of in statistics),
        sum(of.num_subjects for of in statistics),
    )


def part_of_statistics(statistics: ScalingStatistics, columns: slice) -> ScalingStatistics:
    """Scaling statistics of some parcels; of how many recordings and subjects each part is, a whole does not know."""
    robust, centred = (
        CentreScale(of.centre[columns], of.scale[columns]) for of in (statistics.robust, statistics.robust_centred)
    )
    return ScalingStatistics(robust, centred, statistics.num_recordings, statistics.num_subjects)


def _joined(parts: Sequence[CentreScale]) -> CentreScale:
    return CentreScale(np.concatenate([of.centre for of in parts]), np.concatenate([of.scale for of in parts]))
