"""Checks that a MATLAB file of version 5 is what it says, before scipy reads it.

scipy trusts the sizes and types in a file: one damaged byte can end the whole process. So every element is walked
first: it lies within the one that holds it, and holds as many values as its dimensions say.
"""

import math
import struct
import zlib
from pathlib import Path

from brainlm_lightning.data.read.selector import check_claim

HEADER_BYTES = 128
MATRIX, COMPRESSED = 14, 15  # MATLAB's numbers of kinds of elements
SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}  # bytes of a value, by its type
TEXT_TYPES = (1, 2, 3, 4, 16, 17, 18)
CELL, STRUCT, OBJECT, CHAR, FIRST_NUMBER, LAST_NUMBER = 1, 2, 3, 4, 6, 15  # classes of arrays
COMPLEX = 8  # flag
DEEPEST = 20


class DamagedError(ValueError):
    """A file that is not what it says."""


def sound_variables(path: Path) -> list[str] | None:
    """Returns the variables that can be read; None for a file of version 4, which has no structure to walk.

    Objects of classes, functions and sparse arrays are left out: they hold no series.

    Raises:
        ValueError: The file is damaged, or claims to hold far more than its size.
    """
    raw = memoryview(path.read_bytes())  # views of it cost nothing
    if len(raw) < HEADER_BYTES or 0 in raw[:4]:
        return None
    order = "<" if bytes(raw[126:128]) == b"IM" else ">"
    names, offset = [], HEADER_BYTES
    try:
        while offset < len(raw):
            kind, first, size, offset = _element(raw, offset, len(raw), order)
            body = raw[first : first + size]
            if kind == COMPRESSED:
                body = _unpacked(body, path)
                kind, first, size, _ = _element(body, 0, len(body), order)
                body = body[first : first + size]
            if kind != MATRIX:
                raise DamagedError(f"an element of type {kind} at the top")
            name, readable = _matrix(body, order, 0)
            names += [name] * bool(name and readable)
    except (DamagedError, struct.error, zlib.error) as error:
        raise ValueError(f"{path}: damaged MATLAB file ({error}); copy or save it again") from error
    return names


def _element(raw: memoryview, offset: int, end: int, order: str) -> tuple[int, int, int, int]:
    """Returns an element's type, where its data begin, how many bytes they are, and where the next one begins."""
    (word,) = struct.unpack_from(f"{order}I", raw, offset)
    if word >> 16:  # the small form: type and size in one word, data in the next
        kind, size, first = word & 0xFFFF, word >> 16, offset + 4
        following = offset + 8
        if size > 4:
            raise DamagedError(f"{size} bytes in a small element")
    else:
        kind, first = word, offset + 8
        (size,) = struct.unpack_from(f"{order}I", raw, offset + 4)
        following = first + size + (0 if kind == COMPRESSED else -size % 8)
    if first + size > end:
        raise DamagedError(f"an element of {size:,} bytes where {max(end - first, 0):,} are left")
    return kind, first, size, min(following, end)


def _matrix(body: memoryview, order: str, depth: int) -> tuple[str, bool]:
    """Checks an array and all that it holds; returns its name, and whether scipy may read it."""
    if not body:
        return "", True  # an empty cell
    if depth > DEEPEST:
        raise DamagedError("arrays within arrays without end")
    kind, first, size, offset = _element(body, 0, len(body), order)
    if kind != 6 or size != 8:
        raise DamagedError("an array without flags")
    (flags,) = struct.unpack_from(f"{order}I", body, first)
    array_class, is_complex = flags & 0xFF, bool((flags >> 8) & COMPLEX)
    if array_class not in (CELL, STRUCT, OBJECT, CHAR, *range(FIRST_NUMBER, LAST_NUMBER + 1)):
        return "", False
    kind, first, size, offset = _element(body, offset, len(body), order)
    if kind != 5 or size % 4 or size < 8:
        raise DamagedError("an array without dimensions")
    shape = struct.unpack_from(f"{order}{size // 4}i", body, first)
    if min(shape) < 0:
        raise DamagedError(f"dimensions {shape}")
    kind, first, size, offset = _element(body, offset, len(body), order)
    if kind != 1:
        raise DamagedError("an array without a name")
    name = bytes(body[first : first + size]).decode("latin-1")
    return name, _contents(body, offset, order, (array_class, is_complex, math.prod(shape)), depth)


def _contents(body: memoryview, offset: int, order: str, what: tuple[int, bool, int], depth: int) -> bool:
    """Checks what stands behind an array's name; returns whether scipy may read all of it."""
    array_class, is_complex, count = what
    if array_class in (CELL, STRUCT, OBJECT):
        if array_class == OBJECT:
            offset = _element(body, offset, len(body), order)[3]  # the name of the class
        if array_class != CELL:
            fields, offset = _fields(body, offset, order)
            count *= fields
        return _matrices(body, offset, order, count, depth)
    if array_class >= FIRST_NUMBER:
        for _ in range(1 + is_complex):
            kind, _, size, offset = _element(body, offset, len(body), order)
            if size != count * SIZES.get(kind, -1):
                raise DamagedError(f"{size:,} bytes of type {kind} for {count:,} values")
    elif array_class == CHAR and count:
        kind, _, _, offset = _element(body, offset, len(body), order)
        if kind not in TEXT_TYPES:
            raise DamagedError(f"text of type {kind}")
    return True


def _fields(body: memoryview, offset: int, order: str) -> tuple[int, int]:
    """Returns how many fields a struct has."""
    kind, first, size, offset = _element(body, offset, len(body), order)
    length = struct.unpack_from(f"{order}i", body, first)[0] if (kind, size) == (5, 4) else 0
    kind, _, size, offset = _element(body, offset, len(body), order)
    if length <= 0 or kind != 1 or size % length:
        raise DamagedError("a struct without names of fields")
    return size // length, offset


def _matrices(body: memoryview, offset: int, order: str, count: int, depth: int) -> bool:
    if count > len(body) // 8:
        raise DamagedError(f"{count:,} arrays in {len(body):,} bytes")
    readable = True
    for _ in range(count):
        kind, first, size, offset = _element(body, offset, len(body), order)
        if kind != MATRIX:
            raise DamagedError(f"an element of type {kind} where an array belongs")
        readable &= _matrix(body[first : first + size], order, depth + 1)[1]
    return readable


def _unpacked(body: memoryview, path: Path) -> memoryview:
    """Returns what zlib packed, unless that is far more than measured values could be."""
    packer, held, rest = zlib.decompressobj(), bytearray(), bytes(body)
    while rest:
        held += packer.decompress(rest, 1 << 24)
        check_claim(len(held), len(body), str(path))
        rest = packer.unconsumed_tail
    return memoryview(held)
