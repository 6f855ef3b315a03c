"""A page on a prepared cohort: what is in it, how good it is, and which recordings differ from all others."""

import base64
import html
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from brainlm_lightning.data.store import COLUMNS, Store

PAGE = "quality.html"
MOST_MEASURED = 300  # recordings whose connectivity is averaged: more change no picture
OUTLYING = 6.0  # robust standard deviations
MOST_LISTED = 30
STYLE = "body{font:15px sans-serif;margin:2em} td,th{padding:.2em .8em;text-align:right}"


def write_page(store: Store) -> Path:
    """Writes `quality.html` into a store's folder; the same store gives the same bytes."""
    measures, connectivity = measure(store)
    sections = [*_sections(store, measures), ("Mean connectivity, parcels in the order of their networks", "")]
    body = "".join(f"<h2>{html.escape(title)}</h2>{content}" for title, content in sections)
    title = html.escape(f"{store.name}: quality of the prepared recordings")
    picture = _picture(connectivity[np.ix_(_by_network(store), _by_network(store))])
    head = f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
    text = f"{head}{body}{picture}"
    path = store.folder / PAGE
    path.write_text(text + "\n", encoding="utf-8")
    return path


def measure(store: Store) -> tuple[pd.DataFrame, np.ndarray]:
    """Measures recordings spread over a cohort.

    Returns:
        One row per recording: `recording_id`, `median_sd` (of its parcels, in the recording's units), `lag1` (median
        autocorrelation of neighbouring frames) and `mean_r` (mean correlation of two parcels); and the mean
        connectivity, (P, P), NaN where no recording has both parcels.
    """
    rows = np.unique(np.linspace(0, len(store) - 1, MOST_MEASURED).astype(int)).tolist()
    total, count = np.zeros((store.atlas.num_parcels,) * 2), np.zeros((store.atlas.num_parcels,) * 2)
    table = []
    for row in store.by_shard(rows):
        values = store.centred(row)
        values, seen = values[np.isfinite(values).any(axis=1)], store.observed(row)
        if not values.size:
            continue
        spread = values[:, seen].std(axis=0, dtype=np.float64)
        scaled = values[:, seen] / np.where(spread > 0, spread, 1)
        r = scaled.T @ scaled / len(scaled)
        total[np.ix_(seen, seen)] += r
        count[np.ix_(seen, seen)] += 1
        off = r[~np.eye(len(r), dtype=bool)]
        lag1 = (scaled[1:] * scaled[:-1]).mean(axis=0)
        numbers = [float(np.median(part)) if part.size else np.nan for part in (spread, lag1)]
        table.append([store.recordings["recording_id"][row], *numbers, float(off.mean()) if off.size else np.nan])
    with np.errstate(invalid="ignore"):
        return pd.DataFrame(table, columns=["recording_id", "median_sd", "lag1", "mean_r"]), total / count


def outlying(measures: pd.DataFrame) -> pd.DataFrame:
    """Returns the recordings that are far from all others in a measure, with how far in robust standard deviations."""
    numbers = measures.set_index("recording_id")
    numbers = numbers.assign(median_sd=np.log(numbers["median_sd"].where(numbers["median_sd"] > 0)))
    middle = numbers.median()
    spread = 1.4826 * (numbers - middle).abs().median()
    far = ((numbers - middle) / spread.where(spread > 0)).round(1)
    return far[(far.abs() > OUTLYING).any(axis=1)].reset_index()


def _sections(store: Store, measures: pd.DataFrame) -> Iterator[tuple[str, str]]:
    table = store.recordings
    for by in ("split", "site", "task"):
        if table[by].nunique() > 1 or by == "split":
            grouped = table.groupby(by).agg(recordings=("recording_id", "size"), subjects=("subject_id", "nunique"))
            yield f"Recordings by {by}", _html(grouped.reset_index())
    motion = [name for name in ("mean_fd_mm", "mean_fd") if name in table.select_dtypes("number")]
    numbers = table[["num_frames", "num_missing_frames", "num_unobserved", *motion]]
    lengths = numbers.describe().loc[["min", "50%", "max"]]
    yield f"Lengths (tr_s {store.tr_s}), frames and parcels without data, motion", _html(lengths.round(3).reset_index())
    dimensions = store.metadata.get("effective_dimensions", {})
    yield "Free dimensions in time", _html(pd.DataFrame([dimensions]))
    unseen = np.sum([~store.observed(row) for row in store.by_shard(range(len(store)))], axis=0)
    worst = store.atlas.parcels.assign(recordings=unseen).nlargest(10, "recordings")
    yield "Parcels most often without data", _html(worst.loc[worst["recordings"] > 0, ["index", "label", "recordings"]])
    yield f"Recordings far from all others ({OUTLYING:.0f} robust sd)", _html(outlying(measures).head(MOST_LISTED))
    known = [name for name in table if name not in COLUMNS]
    counts = pd.DataFrame({"phenotype": known, "known": [int(table[name].notna().sum()) for name in known]})
    yield f"Phenotypes known, of {len(table)} recordings", _html(counts)


def _html(table: pd.DataFrame) -> str:
    return "<p>none</p>" if table.empty else table.to_html(index=False, escape=True, border=0, na_rep="")


def _by_network(store: Store) -> np.ndarray:
    return np.argsort(store.atlas.networks, kind="stable")


def _picture(connectivity: np.ndarray) -> str:
    """Returns a matrix from -0.6 (blue) to 0.6 (red) as a picture within the page."""
    from matplotlib import colormaps, image  # slow to import

    pixels = colormaps["RdBu_r"]((np.nan_to_num(connectivity) / 0.6 + 1) / 2, bytes=True)
    file = io.BytesIO()
    image.imsave(file, pixels, format="png", metadata={"Software": ""})
    encoded = base64.b64encode(file.getvalue()).decode()
    return f'<img style="width:40em;image-rendering:pixelated" src="data:image/png;base64,{encoded}">'
