import contextlib

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse

from brainlm_lightning.data.read import Expected, read_series, read_table

SERIES = np.random.default_rng(0).normal(0, 100, (12, 3)).astype(np.float32)


def read(location, orientation="frames_parcels", num_parcels=3):
    return read_series(location, Expected(orientation, num_parcels)).series


def write(folder, kind):
    """Writes SERIES in one of the formats; returns its location."""
    path = folder / f"recording{kind}"
    if kind == ".npy":
        np.save(path, SERIES)
    elif kind == ".npz":
        np.savez(path, other=np.zeros(5), bold=SERIES)
        return f"{path}::bold"
    elif kind == ".h5":
        with h5py.File(path, "w") as file:
            file["sub/bold"] = SERIES
        return f"{path}::sub/bold"
    elif kind == ".mat":
        scipy.io.savemat(path, {"other": 1, "bold": SERIES})
        return f"{path}::bold"
    else:
        np.savetxt(path, SERIES, delimiter={".csv": ",", ".tsv": "\t"}.get(kind, " "), fmt="%.9g")
    return path


@pytest.mark.parametrize("kind", [".npy", ".npz", ".h5", ".mat", ".csv", ".tsv", ".1D", ".dat", ".txt"])
def test_every_format_gives_the_same_series(tmp_path, kind):
    series = read(write(tmp_path, kind))
    assert series.dtype == np.float32
    assert series.flags.c_contiguous
    np.testing.assert_array_equal(series, SERIES)


def test_matlab_7_3_keeps_the_orientation_that_matlab_shows(tmp_path):
    with h5py.File(tmp_path / "new.mat", "w", userblock_size=512) as file:
        file["bold"] = SERIES.T  # MATLAB writes column by column: a 12 x 3 matrix is a 3 x 12 dataset
    np.testing.assert_array_equal(read(tmp_path / "new.mat"), SERIES)


@pytest.mark.parametrize(
    ("top", "delimiter"),
    [("#1\t#2\t#40\n", "\t"), ("# comment\n# another\n\n", " "), ("L_V1,R_V1,nan\n", ","), ("a\ta\tb\n", "\t")],
)
def test_lines_above_the_numbers_are_left_out(tmp_path, top, delimiter):
    with (tmp_path / "x.txt").open("w") as file:
        file.write(top)
        np.savetxt(file, SERIES, delimiter=delimiter, fmt="%.9g")
    np.testing.assert_array_equal(read(tmp_path / "x.txt"), SERIES)


def test_blanks_of_any_width_and_missing_values_are_read(tmp_path):
    (tmp_path / "x.dat").write_text("  1.0   2.0 -3e0 \n 4 nan    6\n")
    np.testing.assert_array_equal(read(tmp_path / "x.dat"), np.float32([[1, 2, -3], [4, np.nan, 6]]))


def test_parcels_by_frames_are_turned(tmp_path):
    np.save(tmp_path / "x.npy", SERIES.T)
    np.testing.assert_array_equal(read(tmp_path / "x.npy", "parcels_frames"), SERIES)


def test_a_wrong_orientation_prints_both_shapes_and_the_remedy(tmp_path):
    np.save(tmp_path / "x.npy", SERIES.T)
    with pytest.raises(ValueError, match=r"got shape \(3, 12\), expected \(frames, 3\).*orientation: parcels_frames"):
        read(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=r"got shape \(3, 12\), expected \(5, frames\).*does not match the atlas"):
        read(tmp_path / "x.npy", "parcels_frames", num_parcels=5)


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="never unpickled"):
        read(tmp_path / "x.npy")


def test_only_the_named_array_of_an_archive_is_read(tmp_path):
    np.savez(tmp_path / "x.npz", bold=SERIES, trap=np.array([{}], dtype=object))  # reading the trap would raise
    np.testing.assert_array_equal(read(f"{tmp_path / 'x.npz'}::bold"), SERIES)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("x.npz", r"several arrays and none is named; it holds 2: a \(12, 3\) float32; b \(12, 3\) float32"),
        ("x.npz::c", "no array 'c'; it holds 2"),
        ("x.txt::c", "leave out ::c"),
        ("x.img.gz", "cannot read .gz"),
        ("absent.npy", "no such file; compare `root`"),
        ("wordz.csv", "no such file \\(there is 'words.csv'\\); compare `root`"),
        ("words.csv", "line 2 holds no numbers: 'd,e,f'"),
        ("empty.csv", "no line of numbers"),
        ("text.npy", "expected real numbers, got <U1"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, location, message):
    np.savez(tmp_path / "x.npz", a=SERIES, b=SERIES)
    np.savetxt(tmp_path / "x.txt", SERIES)
    (tmp_path / "words.csv").write_text("a,b,c\nd,e,f\n1,2,3\n")
    (tmp_path / "empty.csv").write_text("a,b,c\n")
    np.save(tmp_path / "text.npy", np.array([["a"]]))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(tmp_path / location)


def test_tables_keep_leading_zeros_and_know_missing_values(tmp_path):
    (tmp_path / "t.tsv").write_text("id\tsubject\tage\tsex\tgroup\n1\t0050649\t22.5\tM\t1\n2\t0050653\tn/a\t\t2\n")
    table = read_table(tmp_path / "t.tsv", text=("id",))
    assert table["id"].tolist() == ["1", "2"]
    assert table["subject"].tolist() == ["0050649", "0050653"]
    assert table["age"].dtype == np.float64
    assert table["group"].tolist() == [1, 2]
    assert table[["age", "sex"]].isna().to_numpy().tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("value", ["0.25", "-0.5", "0", "1e-3"])
def test_numbers_that_start_with_zero_are_numbers(tmp_path, value):
    (tmp_path / "t.csv").write_text(f"x\n{value}\n")
    assert read_table(tmp_path / "t.csv")["x"].tolist() == [float(value)]


@pytest.mark.parametrize("name", ["NYU_0050954", "Olin_0050107"])
def test_a_published_1d_file_is_the_series_of_the_archive(real_data, name):
    from_text = read(real_data / "originals" / f"{name}_rois_cc400.1D", num_parcels=392)
    from_archive = read(f"{real_data / 'abide_cc400' / 'timeseries.npz'}::abide_{name}", num_parcels=392)
    np.testing.assert_allclose(from_text, from_archive, rtol=2**-11, atol=1e-4)  # the archive is float16


def test_a_global_signal_beside_the_parcels_is_refused_with_both_shapes(real_data):
    path = real_data / "originals" / "essen-002_pumi-43_pumi+044.tsv"
    with pytest.raises(ValueError, match=r"\(290, 123\), expected \(frames, 122\)"):
        read(path, num_parcels=122)
    named = pd.read_csv(path, sep="\t").to_numpy(np.float32)
    np.testing.assert_array_equal(read(path, num_parcels=123), named)


@pytest.mark.parametrize(
    "text",
    [
        "1.5 2.5 3.5\n# between\n4.5 5.5 6.5  # behind\n% matlab\n// afni\n7.5 8.5 9.5\n0.5 0.5 0.25\n",
        "sep=;\n1.5;2.5;3.5\n4.5;5.5;6.5\n7.5;8.5;9.5\n0.5;0.5;0.25\n",
        "\n\n1.5,2.5,3.5\n4.5,5.5,6.5\n7.5,8.5,9.5\n0.5,0.5,0.25",
        '"";"1";"2";"3"\n"1";1.5;2.5;3.5\n"2";4.5;5.5;6.5\n"3";7.5;8.5;9.5\n"4";0.5;0.5;0.25\n',
        "time\ta\tb\tc\n0\t1.5\t2.5\t3.5\n2.5\t4.5\t5.5\t6.5\n5\t7.5\t8.5\t9.5\n7.5\t0.5\t0.5\t0.25\n",
    ],
)
def test_comments_and_rows_of_programs_are_no_data(tmp_path, text):
    (tmp_path / "x.1D").write_text(text)
    expected = [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5], [7.5, 8.5, 9.5], [0.5, 0.5, 0.25]]
    np.testing.assert_array_equal(read(tmp_path / "x.1D"), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04\0\0\0", "a spreadsheet or archive, no text; export it as csv"),
        (b"\0\1\2\3" * 20, "not text"),
        (b"\x1f\x8b\x08\0\0\0", "cut short or damaged"),
    ],
)
def test_what_is_no_text_says_so(tmp_path, content, message):
    (tmp_path / "x.csv").write_bytes(content)
    for reader in (read, read_table):
        with pytest.raises(ValueError, match=rf"x.csv: .*{message}"):
            reader(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("id;age;city\ns1;23,5;Köln\ns2;n/a;Graz\n", "cp1252"),
        ("id,age,city\r\ns1,23.5,Köln\r\ns2, ,Graz\r\n", "utf-16"),
        ("# a remark\nid\tage\tcity\ns1 \t23.5\tKöln\ns2\tNA\tGraz\n", "utf-8-sig"),
        ('"id","age","city"\n"s1","23.5","Köln"\n"s2","","Graz"\n', "utf-8"),
        ("#id\tage\tcity\ns1\t23.5\tKöln\ns2\t-\tGraz\n", "utf-8"),
        ("id|age|city|\ns1|23.5|Köln|\ns2|.|Graz|\n", "utf-8"),
    ],
)
def test_a_table_is_the_same_in_every_dialect(tmp_path, text, encoding):
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    table = read_table(tmp_path / "t.csv", text=("id",))
    assert table.columns.tolist() == ["id", "age", "city"]
    assert table["id"].tolist() == ["s1", "s2"]
    np.testing.assert_array_equal(table["age"], [23.5, np.nan])
    assert table["city"].tolist() == ["Köln", "Graz"]


def test_a_row_of_another_length_is_an_error_with_its_line(tmp_path):
    (tmp_path / "t.csv").write_text("id,age,note\ns1,3,x\ns2,4,y,z\ns3,5,x\n")
    with pytest.raises(ValueError, match=r"t.csv, line 3: 4 cells, and the header has 3"):
        read_table(tmp_path / "t.csv")


def test_a_file_that_links_to_itself_is_listed_to_an_end(tmp_path):
    with h5py.File(tmp_path / "loop.h5", "w") as file:
        for number in range(12):
            file[f"g{number}"] = file["/"]
        file["a"], file["b"] = SERIES, SERIES
    with pytest.raises(ValueError, match=r"several arrays and none is named; it holds \d+"):
        read(tmp_path / "loop.h5")


@pytest.mark.parametrize("kind", [".npy", ".npz", ".h5", ".mat"])
def test_whatever_byte_is_damaged_it_is_an_error_of_the_file(tmp_path, kind):
    location = str(write(tmp_path, kind))
    path = tmp_path / f"recording{kind}"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 150).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError, OSError):
            assert read(location).shape == SERIES.shape


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_struct_or_cell_never_ends_the_process(tmp_path, compressed):
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = SERIES, "text"
    content = {"s": {"ts": SERIES, "c": cells, "z": SERIES + 1j}, "i": SERIES.astype(np.int16)}
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, content, do_compression=compressed)
    np.testing.assert_array_equal(read(f"{path}::s.ts"), SERIES)
    whole = path.read_bytes()
    for place in range(128, len(whole), 3):
        for mask in (0xFF, 0x01, 0x80):
            damaged = bytearray(whole)
            damaged[place] ^= mask
            path.write_bytes(damaged)
            with contextlib.suppress(ValueError, OSError):
                read(f"{path}::s.ts")


def test_functions_objects_and_sparse_arrays_hide_no_series(tmp_path):
    content = {"bold": SERIES, "mask": scipy.sparse.csc_array(np.eye(4)), "note": "text", "empty": np.zeros((0, 0))}
    scipy.io.savemat(tmp_path / "x.mat", content)
    np.testing.assert_array_equal(read(f"{tmp_path / 'x.mat'}::bold"), SERIES)
    with pytest.raises(ValueError, match=r"no array 'mask'; it holds 3: bold \(12, 3\)"):
        read(f"{tmp_path / 'x.mat'}::mask")
