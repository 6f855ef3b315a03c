"""A window as the image that the published ViT-MAE models take, and back.

Rows are parcels sorted by their y coordinate, stably, columns are frames; a margin of −1 fills a square; patches are
squares, and three equal channels stand for colours. 16 or 14 neighbours in y are not neighbours in the brain.

Shapes: B batch, P parcels, T frames, L patches of the image (row-major), X pixels of a patch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MARGIN = -1.0  # inside of the range of the data, as published
CHANNELS = 3


@dataclass(frozen=True, eq=False)
class ImageGrid:
    """The layout of an image.

    Attributes:
        order_P: parcels from the lowest y to the highest.
        num_frames: T.
        side: pixels of the image in either direction.
        patch: pixels of a patch in either direction; divides the side.
    """

    order_P: Tensor
    num_frames: int
    side: int
    patch: int

    @classmethod
    def of(cls, xyz_mm: Tensor, num_frames: int, side: int, patch: int) -> "ImageGrid":
        """The layout for parcels at some places.

        Raises:
            ValueError: the image is too small, cannot be centred, or does not divide into patches.
        """
        margins = side - len(xyz_mm), side - num_frames
        if min(margins) < 0 or any(margin % 2 for margin in margins) or side % patch:
            raise ValueError(
                f"{len(xyz_mm)} parcels and {num_frames} frames do not fit an image of {side} pixels in patches of "
                f"{patch}: the margins are {margins}, expected even numbers, and a side that the patch divides"
            )
        return cls(torch.argsort(xyz_mm[:, 1], stable=True), num_frames, side, patch)

    @property
    def across(self) -> int:
        """Patches in either direction."""
        return self.side // self.patch

    @property
    def margins(self) -> tuple[int, int]:
        """Pixels above the first parcel and before the first frame."""
        return (self.side - len(self.order_P)) // 2, (self.side - self.num_frames) // 2

    def patches(self, signal_BPT: Tensor, margin: float = MARGIN) -> Tensor:
        """Pixels of every patch, (B, L, X); a margin surrounds the signal."""
        above, before = self.margins
        image_BRC = torch.nn.functional.pad(signal_BPT[:, self.order_P], (before, before, above, above), value=margin)
        cut = torch.unflatten(torch.unflatten(image_BRC, 2, (self.across, -1)), 1, (self.across, -1))
        return cut.transpose(2, 3).flatten(3).flatten(1, 2)

    def signal(self, patches_BLX: Tensor) -> Tensor:
        """The inverse of `patches`, without the margin: (B, P, T)."""
        above, before = self.margins
        cut = torch.unflatten(patches_BLX, 2, (self.patch, self.patch))
        cut = torch.unflatten(cut, 1, (self.across, self.across))
        image_BRC = cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        sorted_BPT = image_BRC[:, above : above + len(self.order_P), before : before + self.num_frames]
        return sorted_BPT[:, self.order_P.argsort()]

    def carries_signal(self) -> Tensor:
        """True for patches with at least one value of a parcel, (L,)."""
        one_1PT = torch.ones(1, len(self.order_P), self.num_frames, device=self.order_P.device)
        return self.patches(one_1PT, 0.0)[0].amax(1) > 0
