"""Damages that files suffer: bytes flipped, cut, doubled; values replaced by what nobody expects."""

import json
import random
from typing import Any

ODD: list[Any] = [
    *(None, "", "x", -1, 0, 10**9, 10**30, 1e308, float("nan"), True, [], {}, [1], {"a": 1}, "../../etc/passwd"),
    *("\x1b[2J", "=1+1", "ä\u2028", -(10**12), 0.5, "null", "1e400", [[]], "a" * 5000),
]
ODD_TEXT = [
    *("", "null", "x", "-1", "0", "1e309", "nan", "[]", "{}", "[1, 2", '"', "\t", "\x1b[2J", "=1+1", "../.."),
    "9" * 40,
]


def bytes_damaged(raw: bytes, chance: random.Random) -> bytes:
    """Some bytes flipped, a piece cut out, put in twice or replaced by noise, or the end lost."""
    data = bytearray(raw)
    place = chance.randrange(max(len(data), 1))
    size = chance.choice((1, 4, 64, 1000))
    match chance.randrange(6):
        case 0:
            for _ in range(chance.choice((1, 1, 2, 8))):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case 1:
            del data[place:]
        case 2:
            del data[place : place + size]
        case 3:
            data[place:place] = data[place : place + size]
        case 4:
            data[place : place + size] = chance.randbytes(size)
        case _:
            early = chance.randrange(min(len(data), 256))
            data[early] = chance.randrange(256)
    return bytes(data)


def lines_damaged(text: str, chance: random.Random) -> str:
    """A line lost, doubled, moved, or one of its words replaced."""
    lines = text.split("\n")
    place = chance.randrange(max(len(lines) - 1, 1))
    match chance.randrange(5):
        case 0:
            del lines[place]
        case 1:
            lines.insert(place, lines[place])
        case 2:
            lines.insert(chance.randrange(len(lines)), lines.pop(place))
        case _:
            words = lines[place].replace("\t", "\t ").split(" ")
            words[chance.randrange(len(words))] = chance.choice(ODD_TEXT)
            lines[place] = " ".join(words).replace("\t ", "\t")
    return "\n".join(lines)


def json_damaged(text: str, chance: random.Random) -> str:
    """One value of a JSON file replaced, or one entry lost."""
    content = json.loads(text)
    holders = [content]
    for holder in holders:
        parts = holder.values() if isinstance(holder, dict) else holder
        holders += [part for part in parts if isinstance(part, dict | list) and part]
    holder = chance.choice(holders)
    key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    if chance.random() < 0.3:
        del holder[key]
    else:
        holder[key] = chance.choice(ODD)
    return json.dumps(content)
