"""One way to name what is inside a file, whatever the file: `::data.ts`, `::tc{3}`, `::ts[0]`, `::group/ts`.

.name or /name   a member: an array of an archive, an HDF5 group or dataset, a MATLAB variable or field
{3} or (3)       a MATLAB cell or element of a struct array, counted from 1 as MATLAB does
[0]              one recording of a stack: a place on the array's first axis, counted from 0
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np

CheckShape = Callable[[tuple[int, ...]], None]
ITEM = re.compile(r"\{(?P<cell>\d+)\}|\((?P<element>\d+)\)|\[(?P<row>\d+)\]")
MOST_LISTED = 20
MOST_COUNTED = 1000
DEEPEST = 6
UNPACKED_BYTES = 1 << 28  # what a file may hold unpacked before it must be plausible
UNPACKED_RATIO = 100  # measured values never compress so far: a file that claims more holds none


class Node(Protocol):
    """A place in a file. Nothing but names and shapes is read before `read`."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of the array or of the cells; None for what only has members."""

    @property
    def dtype(self) -> np.dtype | None:
        """Of an array; None for anything else."""

    def names(self) -> list[str]:
        """Members, in the file's order."""

    def member(self, name: str) -> "Node":
        """One of them."""

    def item(self, number: int) -> "Node":
        """A cell, an element or a recording of a stack, counted from 0."""

    def read(self) -> np.ndarray:
        """The array."""


def select(root: Node, selector: str, where: str, check_shape: CheckShape) -> np.ndarray:
    """Returns the array that is named; the only array of the file where nothing is named.

    Args:
        root: What the file holds.
        selector: The name.
        where: The file, for messages.
        check_shape: Raises ValueError on a shape that no recording has, before any value is read.

    Raises:
        ValueError: It is not there, or several are and none is named; what is there is listed with its shapes.
    """
    node, rest = root, selector.strip()
    while rest:
        node, rest = _step(root, node, rest, where, selector)
    node = _only_array(root, node, where, selector)
    dtype = node.dtype
    if dtype is None or dtype.kind not in "fiub":
        kind = "Python objects, which are never unpickled" if dtype is not None and dtype.kind == "O" else f"{dtype}"
        raise ValueError(f"{where}: expected real numbers, got {kind}")
    check_shape(node.shape or ())
    return np.asarray(node.read())


def check_claim(bytes_claimed: int, bytes_on_disk: int, where: str) -> None:
    """Raises ValueError where a small file claims to hold far more than measured values could."""
    if bytes_claimed > max(UNPACKED_BYTES, UNPACKED_RATIO * bytes_on_disk):
        raise ValueError(
            f"{where}: {bytes_on_disk:,} bytes on disk claim to hold {bytes_claimed:,}; no recording is stored so; "
            "export it again"
        )


def not_there(what: str, root: Node, where: str) -> ValueError:
    """The error that lists what there is."""
    listed = list(islice(_listing(root, "", DEEPEST), MOST_COUNTED))
    more = f"; … ({len(listed)}{' or more' * (len(listed) == MOST_COUNTED)} in all)" * (len(listed) > MOST_LISTED)
    shown = "; ".join(f"{path} {kind}" for path, kind in listed[:MOST_LISTED]) + more
    example = listed[0][0] if listed else "data.ts"
    return ValueError(
        f"{where}: {what}; it holds {len(listed)}: {shown or 'no arrays'}. Name one, for instance FILE::{example}"
    )


def array_row(shape: tuple[int, ...], number: int) -> tuple[int, ...]:
    """Returns the shape of one recording of a stack.

    Raises:
        IndexError: There is none of that number.
    """
    if not shape or number >= shape[0]:
        raise IndexError(number)
    return shape[1:]


def _step(root: Node, node: Node, rest: str, where: str, selector: str) -> tuple[Node, str]:
    """Takes one step along a selector."""
    if rest[0] in "./" and len(rest) > 1:
        rest = rest[1:]
    found = ITEM.match(rest)
    if found:
        first = 0 if found["row"] is not None else 1
        number = int(next(text for text in found.groups() if text is not None)) - first
        try:
            return node.item(number), rest[found.end() :]
        except IndexError as error:
            size = f"has the shape {node.shape}" if node.shape is not None else "has no items"
            raise not_there(f"no {found[0]} in {selector!r}, which {size}", root, where) from error
    fitting = [name for name in node.names() if rest.startswith(name) and rest[len(name) :][:1] in ("", *"./{[(")]
    if not fitting:
        hint = f" (a recording of a stack is [{rest}])" if rest.isdigit() else ""
        raise not_there(f"no array {selector!r}{hint}", root, where)
    name = max(fitting, key=len)
    return node.member(name), rest[len(name) :]


def _only_array(root: Node, node: Node, where: str, selector: str) -> Node:
    """Follows members while there is but one."""
    for _ in range(DEEPEST):
        if node.dtype is not None:
            return node
        names = node.names()
        if len(names) == 1:
            node = node.member(names[0])
        elif not names and node.shape is not None and int(np.prod(node.shape)) == 1:
            node = node.item(0)
        else:
            break
    if node.dtype is not None:
        return node
    what = f"{selector!r} is no array but holds others" if selector else "several arrays and none is named"
    raise not_there(what if node.names() or node.shape else "no array", root, where)


def _listing(node: Node, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """Yields selectors with shapes, nested."""
    if node.dtype is not None:
        yield path or "[0]" * (len(node.shape or ()) > 2), f"{node.shape} {node.dtype}"
        return
    if not depth:
        return
    for name in node.names():
        yield from _listing_of(node, name, f"{path}.{name}" if path else name, depth)
    if not node.names() and node.shape is not None:
        count = int(np.prod(node.shape))
        for number in range(min(count, 3)):
            yield from _listing(node.item(number), f"{path}{{{number + 1}}}", depth - 1)
        if count > 3:
            yield f"{path}{{{count}}}", f"the last of {count}"


def _listing_of(node: Node, name: str, path: str, depth: int) -> Iterator[tuple[str, str]]:
    try:
        yield from _listing(node.member(name), path, depth - 1)
    except ValueError as error:  # what is refused is named all the same
        yield path, f"refused: {str(error).rpartition(': ')[2]}"


class ArrayNode:
    """An array that is held already, or a row of one."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)

    def names(self) -> list[str]:
        """None."""
        return []

    def member(self, name: str) -> Any:
        """There is none."""
        raise KeyError(name)

    def item(self, number: int) -> "ArrayNode":
        """A place on the first axis."""
        array_row(self.array.shape, number)
        return ArrayNode(self.array[number])

    def read(self) -> np.ndarray:
        """The array."""
        return self.array


class Members:
    """What only has members.

    Args:
        children: By name.
    """

    shape = None
    dtype = None

    def __init__(self, children: dict[str, Any]) -> None:
        self.children = children

    def names(self) -> list[str]:
        """Members."""
        return list(self.children)

    def member(self, name: str) -> Any:
        """One of them; what is callable is made first."""
        child = self.children[name]
        return child() if callable(child) else child

    def item(self, number: int) -> Any:
        """There is none."""
        raise IndexError(number)

    def read(self) -> np.ndarray:
        """There is none."""
        raise ValueError("no array")


def plain(names: Sequence[str]) -> list[str]:
    """Names without those that a program keeps for itself."""
    return [name for name in names if not name.startswith(("#", "__"))]
