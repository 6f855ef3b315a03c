"""What `prepare` says when it is done: what the store holds, what was recognised, and what was left out and why."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from brainlm_lightning.data.convert import Outcome
from brainlm_lightning.data.split import SPLITS
from brainlm_lightning.data.store import Store
from brainlm_lightning.failure import printable

MOST_LISTED = 50  # recordings left out; dropped.csv has them all


def summarise(store: Store, dropped: pd.DataFrame, outcomes: Sequence[Outcome], remarks: Iterable[str]) -> None:
    """Prints what the store holds, and everything that a reader of the files should know.

    Args:
        store: As prepared.
        dropped: Recordings left out: `recording_id`, `problems`.
        outcomes: Of all recordings.
        remarks: About the tables.
    """
    console = Console(soft_wrap=True)
    console.print(_counts(store, dropped, sum(outcome.continued for outcome in outcomes)))
    recognised = Counter(_general(remark) for outcome in outcomes for remark in outcome.remarks.split(";") if remark)
    for text, count in recognised.most_common():
        console.print(escape(printable(f"{text}: {count} recordings")), highlight=False)
    for text in remarks:
        console.print(escape(printable(text)), highlight=False)
    dimensions = store.metadata["effective_dimensions"]
    if dimensions["dimensions"] is not None:
        console.print(
            f"{dimensions['dimensions']:.0f} of a window's {dimensions['window_frames']} frames are free in time "
            "(effective dimensions); the fewer, the easier reconstruction and forecasting",
            highlight=False,
        )
    unusable = int(np.isnan(store.statistics.robust.scale).sum())
    if unusable:
        console.print(f"{unusable} of {store.atlas.num_parcels} parcels have no range over the training subjects")
    _print_left_out(console, store, dropped)


def _counts(store: Store, dropped: pd.DataFrame, continued: int) -> Table:
    recordings = store.recordings
    table = Table("", "recordings", "subjects", title=f"{store.name}: {store.folder}", title_justify="left")
    for name in ("all", *SPLITS):
        rows = recordings if name == "all" else recordings[recordings["split"] == name]
        table.add_row(name, f"{len(rows)}", f"{rows['subject_id'].nunique()}")
    for problem, count in sorted(Counter(_kinds(recordings["problems"])).items()):
        table.add_row(problem, f"{count}", "")
    with_gaps = int((recordings["num_missing_frames"] > 0).sum())
    if with_gaps:
        table.add_row("with frames without data", f"{with_gaps}", "")
    for problem, count in sorted(Counter(_kinds(dropped["problems"])).items()):
        table.add_row(f"left out: {problem}", f"{count}", "")
    if continued:
        table.add_row("converted by an earlier call", f"{continued}", "")
    return table


def _print_left_out(console: Console, store: Store, dropped: pd.DataFrame) -> None:
    """Lists every recording that is not in the store, with its reason."""
    if dropped.empty:
        return
    console.print(f"{len(dropped)} recordings left out (all in {store.folder / 'dropped.csv'}):", highlight=False)
    for name, problems in dropped[["recording_id", "problems"]].head(MOST_LISTED).itertuples(index=False):
        console.print(escape(printable(f"  {name}: {problems}")), highlight=False)
    if len(dropped) > MOST_LISTED:
        console.print(f"  … and {len(dropped) - MOST_LISTED} more")


def _general(remark: str) -> str:
    """A remark without what differs from file to file, so that like ones are counted together."""
    return re.sub(r"\(\d+ of", "(some of", remark)


def _kinds(problems: pd.Series) -> Iterator[str]:
    for listed in problems:
        yield from (re.split("[=:]", problem)[0] for problem in listed.split(";") if problem)
