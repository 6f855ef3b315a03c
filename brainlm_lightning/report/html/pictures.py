"""Figures, brains and tables of a page, ready to stand in HTML."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib import color_sequences, rc_context
from matplotlib.figure import Figure

from brainlm_lightning.report.page import ReportFile
from brainlm_lightning.report.scene import Scene, in_script

LARGEST_SVG = 150_000  # bytes; a figure of more marks is a PNG
DOTS_PER_INCH = 130
ROWS_SHOWN = 15  # of a CSV table; the run folder has the whole
# Colours that people of any colour vision can tell apart (Petroff 2021), and the same bytes for the same figure.
STYLE: dict[Any, Any] = {
    "axes.prop_cycle": f"cycler('color', {list(color_sequences['petroff10'])})",
    "svg.hashsalt": "brainlm",
}


@dataclass(frozen=True)
class Picture:
    """Something to see.

    Attributes:
        kind: image, brain, table or page.
        caption: what is seen and how it was computed.
        paper: figure of the paper that shows the same; "" if none does.
        content: address of an image, data of a brain, an HTML page as text.
        rows: of a table, the header first.
        more: rows that are not shown.
    """

    kind: str
    caption: str
    paper: str = ""
    content: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    more: int = 0


def picture(file: ReportFile) -> Picture:
    """Draws a file of a page.

    Raises:
        TypeError: it is of no kind that can be shown.
    """
    with rc_context(STYLE):
        made = file.make()
        caption = file.caption or file.name.replace("_", " ")
        if isinstance(made, Figure):
            return Picture("image", caption, file.paper, _image(made))
    if isinstance(made, Scene):
        return Picture("brain", caption, file.paper, in_script(made.data()))
    if isinstance(made, pd.DataFrame):
        shown = made.head(ROWS_SHOWN)
        rows = [tuple(map(str, shown.columns)), *(tuple(map(_cell, row)) for row in shown.itertuples(index=False))]
        return Picture("table", caption, file.paper, rows=tuple(rows), more=len(made) - len(shown))
    if isinstance(made, str):
        return Picture("page", caption, file.paper, made)
    raise TypeError(f"{file.name!r} is a {type(made).__name__}; expected a Figure, a Scene, a DataFrame or HTML text")


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _image(figure: Figure) -> str:
    """The figure as an address that holds it: SVG, or PNG where that would be large."""
    file, name = io.BytesIO(), "svg+xml"
    figure.savefig(file, format="svg", dpi=DOTS_PER_INCH, metadata={"Date": None})
    if file.tell() > LARGEST_SVG:
        file, name = io.BytesIO(), "png"
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    return f"data:image/{name};base64,{base64.b64encode(file.getvalue()).decode()}"


def markup(content: str) -> Markup:
    """Text that this package itself made safe: JSON of `in_script`."""
    return Markup(content)  # noqa: S704
