"""Text files to rows of cells: encoding, compression, delimiter, quotes and comments are found out, once, for all.

Series and tables are read through here, so that a file means the same to both.
"""

import codecs
import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from brainlm_lightning.data.read.selector import check_claim

SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
GZIP = b"\x1f\x8b"
LARGEST_TEXT = 1 << 31  # bytes once decompressed: no recording is that long, and a small file can claim it
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SAMPLE_LINES = 500
COMMENT = re.compile(r" *(#|%|//)")
REMARK = re.compile(r"\s+#\s.*$")  # behind the numbers of a row
DECIMAL_COMMA = re.compile(r"[+-]?(\d*,\d+|\d+)([eEdD][+-]?\d+)?")


@dataclass(frozen=True, eq=False)
class Rows:
    r"""The cells of a text file.

    Attributes:
        path: The file.
        cells: A list a row; blanks around a cell and quotes are gone.
        lines: The row's line in the file, counted from 1.
        comments: Lines that begin with `#`, `%` or `//`: their line, and the text behind it.
        delimiter: `\t`, `;`, `|`, `,`, or '' for blanks of any width.
        encoding: As decoded.
        ended: The last line has an end.
    """

    path: Path
    cells: list[list[str]]
    lines: list[int]
    comments: list[tuple[int, str]]
    delimiter: str
    encoding: str
    ended: bool

    @cached_property
    def width(self) -> int:
        """The number of cells that most rows have; 0 without rows."""
        return Counter(map(len, self.cells)).most_common(1)[0][0] if self.cells else 0

    def split(self, line: str) -> list[str]:
        """Returns the cells of a further line."""
        return [cell.strip() for cell in _cells(line, self.delimiter)]

    def check_widths(self, first: int = 0) -> None:
        """Raises ValueError where a row from `first` on has another number of cells than most."""
        for cells, line in zip(self.cells[first:], self.lines[first:], strict=True):
            if len(cells) != self.width:
                raise ValueError(
                    f"{self.path}, line {line}: {len(cells)} cells where the other rows have {self.width}; the row is "
                    "cut short or damaged. Copy or export the file again"
                )


def read_rows(path: Path, remarks: bool = False) -> Rows:
    """Reads a text file (plain or gzip) into cells.

    Args:
        path: The file.
        remarks: A `#` behind a row's cells begins a remark, as AFNI writes; in a table it may be text.

    Raises:
        ValueError: Not text, or a damaged archive; the file is named.
    """
    text, encoding = _decode(path, _read_bytes(path))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    ended = not lines[-1].strip()
    told = re.fullmatch(r"sep=(.)", lines[0].strip(" "))  # as spreadsheets announce their delimiter
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip(" ")][bool(told) :]
    comments = [(number, line.lstrip(" ")) for number, line in numbered if COMMENT.match(line)]
    comments = [(number, line.removeprefix("//")[line[0] in "#%" :]) for number, line in comments]
    data = [(number, line) for number, line in numbered if not COMMENT.match(line)]
    if not data:  # rows whose names begin with `#`
        data = [(number, line.lstrip(" ")) for number, line in numbered if line.lstrip(" ")[1:2].strip()]
    if remarks and "#" in text:
        data = [(number, REMARK.sub("", line)) for number, line in data]
    delimiter = told[1] if told else find_delimiter([line for _, line in data[:SAMPLE_LINES]])
    if not delimiter or delimiter != "\t":  # a line of tabs alone is a row of empty cells only between tabs
        data = [(number, line) for number, line in data if line.strip()]
    cells, numbers = _split_all(data, delimiter, path)
    return Rows(path, cells, numbers, comments, delimiter, encoding, ended)


def find_delimiter(lines: Sequence[str]) -> str:
    """Returns what separates cells; '' for blanks.

    It is the first of tab, semicolon and bar that most lines hold equally often, and the first line, too. Commas come
    last, because they may be decimal marks.
    """
    bare = [re.sub(r'"[^"]*"', "x", line) if '"' in line else line for line in lines]
    candidates = [mark for mark in ("\t", ";", "|", ",") if _separates(mark, bare)]
    candidates.sort(key=lambda mark: not _opens(mark, bare))  # stable: the order of preference stays
    if candidates and candidates[0] != ",":
        return candidates[0]
    return "," if candidates and not _blanks_and_decimal_commas(bare) else ""


def _separates(mark: str, lines: Sequence[str]) -> bool:
    counts = Counter(line.count(mark) for line in lines)
    if not counts:
        return False
    usual, times = counts.most_common(1)[0]
    return usual > 0 and times >= 0.5 * len(lines)


def _opens(mark: str, lines: Sequence[str]) -> bool:
    usual = Counter(line.count(mark) for line in lines).most_common(1)[0][0]
    return lines[0].count(mark) > 0 and abs(lines[0].count(mark) - usual) <= 1


def _blanks_and_decimal_commas(lines: Sequence[str]) -> bool:
    """True for `1,5 2,5`, which blanks separate; not for `1, 2`."""
    rows = [line.split() for line in (lines[1:] or lines)]
    cells = [cell for row in rows for cell in row[1:]]  # the first may name its row
    numbers = [cell for cell in cells if any(character.isdigit() for character in cell)]
    return all(len(row) > 1 for row in rows) and bool(numbers) and all(map(DECIMAL_COMMA.fullmatch, numbers))


def _split_all(data: Sequence[tuple[int, str]], delimiter: str, path: Path) -> tuple[list[list[str]], list[int]]:
    if not any('"' in line for _, line in data):
        numbers = [number for number, _ in data]
        if not delimiter:
            return [line.split() for _, line in data], numbers
        return [[cell.strip() for cell in line.split(delimiter)] for _, line in data], numbers
    if not delimiter:
        return [[cell.strip(' "') for cell in line.split()] for _, line in data], [number for number, _ in data]
    reader = csv.reader((line + "\n" for _, line in data), delimiter=delimiter, skipinitialspace=True)
    cells, numbers, used = [], [], 0
    try:
        for row in reader:
            cells.append([cell.strip() for cell in row])
            numbers.append(data[used][0])
            used = reader.line_num
    except csv.Error as error:
        raise ValueError(f"{path}, line {data[min(used, len(data) - 1)][0]}: {error}") from error
    return cells, numbers


def _cells(line: str, delimiter: str) -> list[str]:
    return line.split(delimiter) if delimiter else line.split()


def _read_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        if file.read(2) != GZIP:
            file.seek(0)
            return _bounded(iter(lambda: file.read(1 << 24), b""), path)
        file.seek(0)
        try:
            with gzip.open(file) as archive:
                blocks = iter(lambda: archive.read(1 << 24), b"")
                return _bounded(blocks, path, packed_bytes=path.stat().st_size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: a gzip file that is cut short or damaged ({error}); copy it again") from error


def _bounded(blocks: Iterator[bytes], path: Path, packed_bytes: int | None = None) -> bytes:
    held = bytearray()
    for block in blocks:
        held += block
        if packed_bytes is not None:
            check_claim(len(held), packed_bytes, str(path))
        if len(held) > LARGEST_TEXT:
            raise ValueError(f"{path}: more than {LARGEST_TEXT >> 30} GiB of text; expected one table or recording")
    return bytes(held)


def _decode(path: Path, raw: bytes) -> tuple[str, str]:
    """Returns the text and its encoding: by its byte order mark, as UTF-8, or as Windows-1252."""
    encoding = next((name for mark, name in MARKS if raw.startswith(mark)), None) or _unmarked(path, raw)
    try:
        return raw.decode(encoding), encoding
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(f"{path}: not {encoding} at byte {error.start}; save it as UTF-8") from error
    try:
        return raw.decode("cp1252"), "cp1252"
    except UnicodeDecodeError:
        return raw.decode("latin-1"), "latin-1"


def _unmarked(path: Path, raw: bytes) -> str:
    head = raw[:4096]
    if 0 not in head:
        return "utf-8"
    half = max(len(head) // 2, 1)
    for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if head[start::2].count(0) > 0.7 * half and head[1 - start :: 2].count(0) < 0.1 * half:
            return name
    if raw.startswith(SPREADSHEETS):
        raise ValueError(f"{path}: a spreadsheet or archive, no text; export it as csv")
    raise ValueError(f"{path}: not text (it holds zero bytes); is its ending right?")
