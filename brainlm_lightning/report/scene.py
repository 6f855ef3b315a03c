"""Rotatable brains: what one shows, as plain data, and the pages that draw it without a network.

One copy of plotly (the one that nilearn carries) and of the cortex serves any number of brains on a page; each is drawn
when it comes into view, because browsers draw few at once. Shapes: P parcels.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.colors import to_hex
from nilearn.datasets import load_fsaverage
from nilearn.plotting import view_markers
from numpy.typing import NDArray

from brainlm_lightning.report.template import read, rendered

SCALE_STOPS = 21  # colours of a colour bar
SIZE_RANGE = 4.0, 12.0  # of markers, from the value 0 to the largest
MESH_UNIT_MM = 0.01  # 16-bit integers reach 327 mm


@dataclass(frozen=True)
class Scene:
    """What a rotatable brain shows.

    Attributes:
        title: of the figure.
        unit: of the values, at the colour bar.
        xyz_mm: one point per parcel shown.
        labels: of the points, seen on hover.
        values: colour of the points; their size follows the absolute value.
        edges: pairs of points with a value, (first, second, value); with any, these carry the colours.
    """

    title: str
    unit: str
    xyz_mm: NDArray[Any]
    labels: Sequence[str]
    values: NDArray[Any]
    edges: Sequence[tuple[int, int, float]] = field(default_factory=list)

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the colour scale: symmetric about 0 for values of both signs."""
        coloured = np.array([value for *_, value in self.edges]) if self.edges else np.asarray(self.values)
        largest = float(np.abs(coloured).max(initial=0)) or 1.0
        if (coloured < 0).any() and (coloured > 0).any():
            return -largest, largest
        return (-largest, 0.0) if (coloured < 0).any() else (0.0, largest)

    @property
    def colours(self) -> list[list[Any]]:
        """The colour scale as plotly takes it: red-blue for both signs, viridis for one."""
        low, high = self.limits
        name = "RdBu_r" if low < 0 < high else "viridis_r" if low < 0 else "viridis"
        return [[float(stop), to_hex(colormaps[name](float(stop)))] for stop in np.linspace(0, 1, SCALE_STOPS)]

    def data(self) -> dict[str, Any]:
        """Everything that the page's script needs, as plain values; labels are escaped, since plotly reads markup."""
        values = np.asarray(self.values, np.float64)
        largest = float(np.abs(values).max(initial=0)) or 1.0
        low, high = self.limits
        small, large = SIZE_RANGE
        return {
            "title": html.escape(self.title),
            "unit": html.escape(self.unit),
            "xyz": np.asarray(self.xyz_mm, np.float64).round(1).tolist(),
            "labels": [html.escape(str(label)) for label in self.labels],
            "values": values.round(6).tolist(),
            "sizes": (small + (large - small) * np.abs(values) / largest).round(1).tolist(),
            "edges": [[int(a), int(b), round(float(value), 8)] for a, b, value in self.edges],
            "low": low,
            "high": high,
            "colours": self.colours,
        }


def in_script(data: Any) -> Markup:
    """JSON that can stand in a `<script type="application/json">`: no label can end the element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def scene_page(scene: Scene) -> str:
    """A page of its own with one brain, as wide as the window; works offline."""
    return rendered("brain.html.j2", title=scene.title, scene=in_script(scene.data()), **drawing())


def drawing() -> dict[str, Markup]:
    """What a page with brains holds once: plotly, the cortex, the script that draws, and what may run in the page.

    `policy` is a content security policy that names the two scripts by their digests: no other script runs, and nothing
    is loaded from anywhere.
    """
    scripts = plotly(), read("brain.js")
    digests = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts
    )
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-eval' {digests}"
    plotly_script, draw = (Markup(each) for each in scripts)  # noqa: S704
    return {"plotly": plotly_script, "draw": draw, "mesh": in_script(mesh()), "policy": Markup(policy)}  # noqa: S704


@cache
def plotly() -> str:
    """The plotly that nilearn's own pages carry.

    Raises:
        RuntimeError: nilearn's pages carry none any more.
    """
    page = view_markers(np.zeros((1, 3))).html
    scripts = [
        script for script in re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL) if "plotly.js" in script
    ]
    if not scripts:
        raise RuntimeError(
            "nilearn's view_markers carries no plotly; expected it in nilearn 0.14, install that version"
        )
    return str(max(scripts, key=len))


@cache
def mesh() -> dict[str, Any]:
    """The cortex of fsaverage5 in MNI space: vertices as 16-bit integers, faces as numbers of vertices."""
    cortex = load_fsaverage("fsaverage5")["pial"].parts
    hemispheres = {
        side: {
            "vertices": _packed((np.asarray(part.coordinates) / MESH_UNIT_MM).round().astype("<i2")),
            "faces": _packed(np.asarray(part.faces).astype("<u2")),
        }
        for side, part in cortex.items()
    }
    return {"unit_mm": MESH_UNIT_MM, "hemispheres": hemispheres}


def _packed(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()
