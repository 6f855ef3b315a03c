"""One series in every dialect, order, encoding and container reads back the same, or is one clear error."""

import gzip
from dataclasses import dataclass

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brainlm_lightning.data.read import Expected, read_series

PARCELS, FRAMES = 7, 24
IDS = (3, 1, 10, 200, 5, 41, 7)
LABELS = ("L_V1", "R_V1", "Área 55", "a-b", "PFC (l)", "x.y", "R_Hip,post")
SERIES = np.round(np.random.default_rng(0).normal(0, 100, (FRAMES, PARCELS)), 3)
SERIES[5] = np.nan  # a censored frame
SERIES[9, 2] = np.nan


@dataclass(frozen=True)
class Dialect:
    delimiter: str
    decimal: str
    exponent: str
    quote: bool
    encoding: str
    newline: str
    header: str
    index: str
    comments: bool
    trailing: bool
    missing: str
    gz: bool
    turned: bool
    order: tuple[int, ...]


DIALECTS = st.builds(
    Dialect,
    delimiter=st.sampled_from(["\t", ",", ";", "|", " ", "   "]),
    decimal=st.sampled_from([".", ","]),
    exponent=st.sampled_from(["", "e", "E", "D"]),
    quote=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    header=st.sampled_from(["none", "labels", "ids", "#ids", "ROI_ids", "counted", "from 0"]),
    index=st.sampled_from(["none", "from 0", "from 1", "seconds", "names"]),
    comments=st.booleans(),
    trailing=st.booleans(),
    missing=st.sampled_from(["n/a", "NaN", "nan", "NA", ""]),
    gz=st.booleans(),
    turned=st.booleans(),
    order=st.permutations(range(PARCELS)).map(tuple),
)


def number(value, dialect):
    if np.isnan(value):
        return dialect.missing or ("nan" if dialect.delimiter.strip(" ") == "" else "")
    text = f"{value:.3f}" if not dialect.exponent else f"{value:.8e}".replace("e", dialect.exponent)
    return text.replace(".", dialect.decimal)


def names_of(dialect):
    """Names of the parcels in the file's order, and whether the file says the order."""
    kinds = {
        "labels": [LABELS[place] for place in dialect.order],
        "ids": [str(IDS[place]) for place in dialect.order],
        "#ids": [f"#{IDS[place]}" for place in dialect.order],
        "ROI_ids": [f"ROI_{IDS[place]:03d}" for place in dialect.order],
        "counted": [str(place + 1) for place in range(PARCELS)],
        "from 0": [str(place) for place in range(PARCELS)],
        "none": None,
    }
    return kinds[dialect.header], dialect.header in ("labels", "ids", "#ids", "ROI_ids")


def text_of(dialect):
    """The file's text; None where a dialect cannot be written without ambiguity."""
    names, says_order = names_of(dialect)
    blanks = dialect.delimiter.strip(" ") == ""
    quoted = dialect.quote or (dialect.delimiter == "," and dialect.decimal == ",")
    if blanks and (dialect.header == "labels" or quoted or dialect.trailing):
        return None  # labels hold blanks
    if dialect.header == "labels" and dialect.delimiter == "," and not quoted:
        return None  # a label holds a comma
    if dialect.delimiter == "," and dialect.decimal == ",":
        return None  # "1,486" may be thousands: refused, see below
    values = SERIES[:, list(dialect.order)] if says_order else SERIES
    rows = [[number(value, dialect) for value in row] for row in (values.T if dialect.turned else values)]
    rows = named_rows(rows, names, dialect)
    mark = '"' if quoted else ""
    lines = [dialect.delimiter.join(f"{mark}{cell}{mark}" for cell in row) for row in rows]
    lines = [line + dialect.delimiter * dialect.trailing for line in lines]
    if dialect.comments:
        lines = ["# made by hand", *lines[:4], "# more", *lines[4:]]
    return dialect.newline.join(lines) + dialect.newline


def named_rows(rows, names, dialect):
    if dialect.turned:
        return rows if names is None else [[name, *row] for name, row in zip(names, rows, strict=True)]
    steps = {
        "from 0": [str(number) for number in range(FRAMES)],
        "from 1": [str(number + 1) for number in range(FRAMES)],
        "seconds": [f"{number * 0.72:.2f}".replace(".", dialect.decimal) for number in range(FRAMES)],
        "names": [f"volume{number}" for number in range(FRAMES)],
    }.get(dialect.index)
    top = [] if names is None else [names]
    if steps is not None:
        rows = [[step, *row] for step, row in zip(steps, rows, strict=True)]
        top = [["", *line] if dialect.delimiter.strip(" ") else line for line in top]
    return top + rows


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dialect=DIALECTS)
def test_a_series_reads_the_same_from_every_dialect(tmp_path, dialect):
    text = text_of(dialect)
    if text is None or (dialect.encoding == "cp1252" and not text.isascii() and dialect.header != "labels"):
        return
    raw = text.encode(dialect.encoding)
    path = tmp_path / ("series.txt.gz" if dialect.gz else "series.txt")
    path.write_bytes(gzip.compress(raw) if dialect.gz else raw)
    expected = Expected("parcels_frames" if dialect.turned else "frames_parcels", PARCELS, IDS, LABELS)
    np.testing.assert_allclose(read_series(path, expected).series, SERIES, rtol=1e-5, atol=1e-4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dialect=DIALECTS,
    row=st.integers(1, FRAMES - 1),
    damage=st.sampled_from(["short", "long", "word"]),
)
def test_a_damaged_row_is_one_error_with_its_line(tmp_path, dialect, row, damage):
    text = text_of(dialect)
    if text is None or dialect.turned or dialect.comments:
        return
    lines = text.split(dialect.newline)
    place = row + (dialect.header != "none")
    mark = dialect.delimiter
    cells = lines[place].split(mark)
    cells = {"short": cells[:-3], "long": [*cells, cells[-1], "1"], "word": [*cells[:3], "oops", *cells[4:]]}[damage]
    lines[place] = mark.join(cells)
    (tmp_path / "series.txt").write_bytes(dialect.newline.join(lines).encode(dialect.encoding))
    with pytest.raises(ValueError, match=rf"series.txt.*line {place + 1}\b"):
        read_series(tmp_path / "series.txt", Expected("frames_parcels", PARCELS, IDS, LABELS))


def test_a_decimal_comma_that_may_group_thousands_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text('"1,486","2,500"\n"1,487","2,501"\n' * 3)
    with pytest.raises(ValueError, match="may be thousands or decimals"):
        read_series(tmp_path / "x.csv", Expected("frames_parcels", 2))


@pytest.mark.parametrize(
    "names",
    [
        [*LABELS[:6], "L_V2"],
        [f"7Networks_{name}" for name in LABELS],
        [str(index) for index in (*IDS[:6], 9)],
    ],
)
def test_names_that_are_not_the_atlas_s_are_an_error_that_names_the_differences(tmp_path, names):
    rows = ["\t".join(names), *("\t".join(f"{value:.3f}" for value in row) for row in np.ones((9, PARCELS)))]
    (tmp_path / "x.tsv").write_text("\n".join(rows) + "\n")
    expected = Expected("frames_parcels", PARCELS, IDS, LABELS)
    with pytest.raises(ValueError, match=r"only in the file \['?.*only in the atlas .*recordings.names: ignore"):
        read_series(tmp_path / "x.tsv", expected)


def test_a_column_that_is_no_parcel_is_left_out_where_told(tmp_path):
    rows = [["GlobSig", *LABELS[::-1]], *([0.5, *range(PARCELS)] for _ in range(9))]
    (tmp_path / "x.tsv").write_text("\n".join("\t".join(map(str, row)) for row in rows) + "\n")
    with pytest.raises(ValueError, match=r"1 only in the file \['GlobSig'\].*ignore_columns: \[GlobSig\]"):
        read_series(tmp_path / "x.tsv", Expected("frames_parcels", PARCELS, IDS, LABELS))
    reading = read_series(
        tmp_path / "x.tsv", Expected("frames_parcels", PARCELS, IDS, LABELS, ignore_columns=("GlobSig",))
    )
    assert reading.series[0].tolist() == list(range(PARCELS))[::-1]
    assert "order by their labels" in " ".join(reading.remarks)


def containers(folder):
    """SERIES in every container; yields locations."""
    np.save(folder / "a.npy", SERIES)
    np.save(folder / "stack.npy", np.stack([SERIES * 0, SERIES]))
    np.savez_compressed(folder / "a.npz", **{"sub.01": SERIES, "stack": np.stack([SERIES * 0, SERIES])})
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = SERIES * 0, SERIES
    people = np.zeros((1, 2), [("ts", object)])
    people[0, 0]["ts"], people[0, 1]["ts"] = SERIES * 0, SERIES
    content = {"tc": cells, "data": {"run": {"ts": SERIES}, "tr": 2.0}, "people": people}
    scipy.io.savemat(folder / "v5.mat", content, do_compression=True)
    with h5py.File(folder / "a.h5", "w") as file:
        file["rest/sub-01/ts"] = SERIES
        file["stack"] = np.stack([SERIES * 0, SERIES])
        file["link"] = h5py.SoftLink("/rest/sub-01")
    with h5py.File(folder / "v73.mat", "w", userblock_size=512) as file:
        file["data/ts"] = SERIES.T
        file["#refs#/a"], file["#refs#/b"] = (SERIES * 0).T, SERIES.T
        references = [[file["#refs#/a"].ref], [file["#refs#/b"].ref]]
        file.create_dataset("tc", data=references, dtype=h5py.ref_dtype)
    return [
        *("a.npy", "stack.npy::[1]", "a.npz::sub.01", "a.npz::stack[1]", "v5.mat::tc{2}", "v5.mat::data.run.ts"),
        *("v5.mat::data/run/ts", "v5.mat::people(2).ts", "a.h5::rest/sub-01/ts", "a.h5::rest.sub-01.ts"),
        *("a.h5::link/ts", "a.h5::stack[1]", "v73.mat::data.ts", "v73.mat::tc{2}"),
    ]


def test_a_series_reads_the_same_from_every_container(tmp_path):
    for location in containers(tmp_path):
        reading = read_series(tmp_path / location, Expected("frames_parcels", PARCELS))
        np.testing.assert_array_equal(reading.series, SERIES.astype(np.float32), err_msg=location)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("v5.mat", r"tc\{1\} \(24, 7\) float64; tc\{2\} .*data.run.ts \(24, 7\) float64; data.tr .*people\{1\}.ts"),
        ("v73.mat::tc{3}", r"no \{3\} in 'tc\{3\}', which has the shape \(1, 2\); it holds 3"),
        ("a.h5::rest/sub-02", r"no array 'rest/sub-02'.*rest.sub-01.ts \(24, 7\) float64; stack \(2, 24, 7\)"),
        ("a.npz::stack[2]", r"no \[2\] in 'stack\[2\]', which has the shape \(2, 24, 7\)"),
        ("stack.npy", r"got shape \(2, 24, 7\).*a stack of 2"),
    ],
)
def test_what_is_not_there_lists_what_is_with_shapes(tmp_path, location, message):
    containers(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_series(tmp_path / location, Expected("frames_parcels", PARCELS))


def hide_elsewhere(folder):
    """HDF5 files whose values lie outside of them."""
    np.asarray(SERIES).tofile(folder / "raw.bin")
    with h5py.File(folder / "canary.h5", "w") as file:
        file["x"] = SERIES
    with h5py.File(folder / "odd.h5", "w") as file:
        file["external"] = h5py.ExternalLink("canary.h5", "x")
        file["soft"] = h5py.SoftLink("/external")
        file.create_dataset("raw", SERIES.shape, "f8", external=[(str(folder / "raw.bin"), 0, SERIES.nbytes)])
        layout = h5py.VirtualLayout(SERIES.shape, "f8")
        layout[:] = h5py.VirtualSource("canary.h5", "x", SERIES.shape)
        file.create_virtual_dataset("virtual", layout)


@pytest.mark.parametrize("name", ["external", "soft", "raw", "virtual"])
def test_hdf5_reads_nothing_outside_of_its_file(tmp_path, name):
    hide_elsewhere(tmp_path)
    with pytest.raises(ValueError, match="another file, which is not followed"):
        read_series(f"{tmp_path / 'odd.h5'}::{name}", Expected("frames_parcels", PARCELS))


@pytest.mark.parametrize("kind", ["npz", "mat", "h5", "gz"])
def test_a_small_file_that_claims_gigabytes_is_refused(tmp_path, kind):
    zeros = np.zeros((50_000_000, PARCELS), np.uint8)
    path = tmp_path / f"x.{'txt.gz' if kind == 'gz' else kind}"
    if kind == "npz":
        np.savez_compressed(path, x=zeros)
    elif kind == "mat":
        scipy.io.savemat(path, {"x": zeros}, do_compression=True)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("x", (500_000_000, PARCELS), "f4", chunks=(1000, PARCELS))
    else:
        path.write_bytes(gzip.compress(b"0 " * PARCELS + b"\n", 1) + gzip.compress(b"\0" * 400_000_000, 1))
    with pytest.raises(ValueError, match="claim to hold"):
        read_series(path, Expected("frames_parcels", PARCELS))


@pytest.mark.parametrize("kind", ["npy", "npz", "h5", "mat"])
def test_nothing_is_read_of_an_array_of_another_shape(tmp_path, kind, monkeypatch):
    values, path = np.ones((30, PARCELS + 1)), tmp_path / f"x.{kind}"
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file["x"] = values
    elif kind == "mat":
        with h5py.File(path, "w") as file:  # as MATLAB's version 7.3
            file["x"] = values.T
    else:
        (np.save if kind == "npy" else np.savez)(path, values)

    def read(*given, **options):
        raise AssertionError("values were read")

    monkeypatch.setattr("numpy.lib.format.read_array", read)
    monkeypatch.setattr("h5py.Dataset.__getitem__", read)
    monkeypatch.setattr("brainlm_lightning.data.read.arrays._Unread.read", read)
    with pytest.raises(ValueError, match=rf"got shape \(30, {PARCELS + 1}\), expected \(frames, {PARCELS}\)"):
        read_series(path, Expected("frames_parcels", PARCELS))


@pytest.mark.parametrize("form", ["{:.3f}", "{:.6g}", "{!r}"])
def test_a_file_that_ends_within_a_number_is_refused(tmp_path, form):
    values = np.random.default_rng(3).normal(0, 10, (40, PARCELS)).astype(float).tolist()
    values[-1][-1] = 12.345678912345678
    text = "\n".join("\t".join(form.format(value) for value in row) for row in values) + "\n"
    whole, cut = tmp_path / "whole.tsv", tmp_path / "cut.tsv"
    whole.write_text(text[:-1])  # without the end of the last line, which many programs leave out
    cut.write_text(text[: text.rindex(".") + 2])
    expected = Expected("frames_parcels", PARCELS)
    np.testing.assert_allclose(read_series(whole, expected).series, values, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"cut.tsv, line 40: the file ends within the number '12.3'"):
        read_series(cut, expected)


def test_grouped_thousands_with_decimal_commas_are_read(tmp_path):
    (tmp_path / "x.csv").write_text("1.234,50;-2.000,25\n987,00;1.000.000,00\n3,50;4,25\n")
    values = read_series(tmp_path / "x.csv", Expected("frames_parcels", 2)).series
    np.testing.assert_array_equal(values, [[1234.5, -2000.25], [987, 1e6], [3.5, 4.25]])
