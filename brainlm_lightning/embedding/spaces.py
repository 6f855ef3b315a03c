"""Embeddings that have their place among others': spaces are fitted on training recordings, and all are brought there.

Shapes: G groups of windows (recordings, halves of what was recorded), F features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from brainlm_lightning.embedding.definitions import Space, WindowEmbedding

Values = Mapping[str, NDArray[Any]]  # name -> (G, F); NaN for groups without a window


@dataclass(frozen=True)
class FittedSpaces:
    """The spaces of those embeddings that have one.

    Attributes:
        of: name of the embedding -> its space.
    """

    of: Mapping[str, Space]

    @classmethod
    def fit(cls, embeddings: Mapping[str, WindowEmbedding], training: Values) -> Self:
        """Fits them.

        Args:
            embeddings: by name.
            training: of training subjects alone.
        """
        of: dict[str, Space] = {}
        for name, embedding in embeddings.items():
            space = embedding.space()
            if space is not None:
                of[name] = space.fit(training[name][_known(training[name])])
        return cls(of)

    def place(self, values: Values) -> dict[str, NDArray[Any]]:
        """Brings the embeddings of anybody to their spaces; those without one stay as they are."""
        return {name: self._placed(name, values_GF) for name, values_GF in values.items()}

    def _placed(self, name: str, values_GF: NDArray[Any]) -> NDArray[Any]:
        if name not in self.of:
            return values_GF
        known_G = _known(values_GF)
        placed = self.of[name].transform(values_GF[known_G])
        whole = np.full((len(values_GF), placed.shape[1]), np.nan)
        whole[known_G] = placed
        return whole


def _known(values_GF: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(values_GF).all(1))
