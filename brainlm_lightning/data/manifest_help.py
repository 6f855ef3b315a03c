"""Every key of a manifest, from the dataclasses that define them: for people, and for typos."""

import difflib
import re
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any

import docstring_parser

UNKNOWN = (  # how the parser says that it does not know a key
    r"Group '([\w.]+)' does not accept option '([\w.]+)'",
    r"[Kk]ey '([\w.]+)' is not",
    r"'([\w.]+)' is not accepted",
    r"[Uu]nrecognized arguments?: --([\w.]+)",
)


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        name: With those above it: `recordings.columns.site`.
        kind: What it holds.
        default: As in YAML; `required` where there is none.
        text: What it means.
    """

    name: str
    kind: str
    default: str
    text: str


def keys_of(cls: type, above: str = "") -> Iterator[Key]:
    """Yields the keys of a manifest's dataclass, nested ones below the key that holds them."""
    types = typing.get_type_hints(cls)
    texts = {entry.arg_name: entry.description or "" for entry in docstring_parser.parse(cls.__doc__ or "").params}
    for entry in fields(cls):
        name = f"{above}{entry.name}"
        yield Key(name, _kind(types[entry.name]), _default(entry), " ".join(texts.get(entry.name, "").split()))
        inner = _nested(types[entry.name])
        if inner is not None:
            yield from keys_of(inner, f"{name}.")


def reference(cls: type) -> str:
    """Returns the page `docs/manifest.md`."""
    rows = [f"| `{key.name}` | {key.kind} | {key.default} | {key.text} |" for key in keys_of(cls)]
    return "\n".join([
        "# Every key of a manifest",
        "",
        "A manifest says where a cohort's recordings, people and parcels are, and what `prepare` does with them: one",
        "YAML file for each cohort, like those in `data_manifests/`. `python -m brainlm_lightning.cli describe FOLDER`",
        "writes a first one; any key is also an option of `prepare`: `--split.test 0.3`. This page is",
        "generated from the dataclasses in `brainlm_lightning/data/manifest.py` and `sources.py`.",
        "",
        "| key | holds | default | meaning |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
    ])  # fmt: skip


def plain_reference(cls: type) -> str:
    """Returns the same for a terminal."""
    return "\n".join(f"  {key.name}: {key.text} ({key.kind}; {key.default})" for key in keys_of(cls))


def with_nearest(message: str, cls: type) -> str:
    """Adds the nearest keys to a message about an unknown one."""
    unknown = next((found for pattern in UNKNOWN if (found := re.search(pattern, message))), None)
    if unknown is None:
        return message
    given = ".".join(filter(None, unknown.groups()))
    names = [key.name for key in keys_of(cls)]
    last = {name.rpartition(".")[2]: name for name in names}
    near = difflib.get_close_matches(given, names, 2, 0.6) or [
        last[name] for name in difflib.get_close_matches(given.rpartition(".")[2], list(last), 2, 0.6)
    ]
    advice = f"did you mean {' or '.join(near)}?" if near else "docs/manifest.md lists every key"
    return f"{message}; {advice}"


def _nested(kind: Any) -> type | None:
    for candidate in (kind, *typing.get_args(kind)):
        if isinstance(candidate, type) and is_dataclass(candidate):
            return candidate
    return None


def _kind(kind: Any) -> str:
    choices = [argument for argument in typing.get_args(kind) if argument is not type(None)]
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(f"`{choice}`" for choice in choices)
    if _nested(kind) is not None:
        return "keys below"
    origin = typing.get_origin(kind)
    if origin in (list, dict):
        return f"{origin.__name__} of {' to '.join(_kind(choice) for choice in choices)}"
    return " or ".join(_kind(choice) for choice in choices) or getattr(kind, "__name__", str(kind))


def _default(entry: Field[Any]) -> str:
    if entry.default is not MISSING:
        value = entry.default
    elif entry.default_factory is not MISSING:
        value = entry.default_factory()
    else:
        return "required"
    if is_dataclass(value):
        return ""
    return "none" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value or repr(value)}`"
