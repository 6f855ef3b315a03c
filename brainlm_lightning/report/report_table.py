"""A table of a report, rendered for the terminal or as Markdown."""

from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.failure import printable


@dataclass(frozen=True)
class ReportTable:
    """One table of a report.

    Attributes:
        title: the heading.
        rows: the cells of each row; the first row is the header.
        notes: lines below the table.
        conditions: conditions that it shows, as `MetricName(cohort, condition)`; these get no generic table.
        paper: the paper's rows, shown below the others where there is room: with the same columns.
    """

    title: str
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    conditions: tuple[MetricName, ...] = ()
    paper: list[list[str]] = field(default_factory=list)

    def rich(self) -> Table:
        """Renders for the terminal; intervals go on a second line, so that narrow terminals do not truncate them."""
        # As Text, since rich would interpret [words] in a string as markup.
        notes = Text("\n".join(self.notes))
        table = Table(title=Text(self.title), caption=notes, caption_justify="left", show_lines=True)
        for name in self.rows[0]:
            table.add_column(Text(printable(name)), overflow="fold")
        for name, *cells in self.rows[1:]:
            shown = [printable(cell).replace(" [", "\n[") for cell in cells]
            table.add_row(Text(printable(name).replace("_", " ")), *map(Text, shown))
        return table

    def markdown(self) -> str:
        """Renders as Markdown."""
        header, *rows = ([_escaped(cell) for cell in row] for row in self.rows)
        lines = [f"### {_escaped(self.title)}", ""]
        lines += [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
        return "\n".join([*lines, "", *(_escaped(note) + "  " for note in self.notes), ""])


def _escaped(text: str) -> str:
    return text.replace("\n", ", ").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
