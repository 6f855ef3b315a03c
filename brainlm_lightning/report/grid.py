"""A table before it is printed: for the terminal, or as Markdown."""

from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Grid:
    """Words and numbers in rows.

    Attributes:
        title: what stands above.
        rows: of cells; the first row is the header.
        notes: what stands below, a line each.
    """

    title: str
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def rich(self) -> Table:
        """For the terminal: breaks lines where they read well in a narrow one, and hides no digits."""
        # Text: rich would read [words] in a name as markup.
        notes = Text("\n".join(self.notes))
        table = Table(title=Text(self.title), caption=notes, caption_justify="left", show_lines=True)
        for name in self.rows[0]:
            table.add_column(Text(name), overflow="fold")
        for name, *cells in self.rows[1:]:
            table.add_row(Text(name.replace("_", " ")), *(Text(cell.replace(" [", "\n[")) for cell in cells))
        return table

    def markdown(self) -> str:
        """For a page."""
        header, *rows = ([_escaped(cell.replace("\n", ", ")) for cell in row] for row in self.rows)
        lines = [f"### {_escaped(self.title)}", ""]
        lines += [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
        return "\n".join([*lines, "", *(_escaped(note) + "  " for note in self.notes), ""])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
