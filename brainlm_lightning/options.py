"""Full names of the options of an experiment, and suggestions for mistyped ones."""

import collections.abc
import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from pydoc import locate
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf

from brainlm_lightning.experiment_files import read_experiment
from brainlm_lightning.settings import flatten

Options = dict[str, Any]  # full name -> value: model.init_args.optimisation.learning_rate -> 0.001
ALWAYS = ("config", "help", "print_config")


def given_options(args: Sequence[str]) -> Options:
    """The options that a command gives, in its ``--config`` files and on the command line; interpolations stay text."""
    options: Options = {}
    for number, argument in enumerate(args):
        name, assigned, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not name:
            continue
        if not assigned and number + 1 < len(args):
            value = args[number + 1]
        if name == "config" and Path(value).is_file():
            loaded = read_experiment(Path(value))
            options |= flatten(OmegaConf.to_container(loaded))  # type: ignore[arg-type]
        else:
            options[name.removesuffix("+")] = value
    return options


def files_first(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates ``--config`` files from the other arguments; both keep their order."""
    files: list[str] = []
    others: list[str] = []
    named = False
    for argument in args:
        is_file = named or argument in ("-c", "--config") or argument.startswith("--config=")
        (files if is_file else others).append(argument)
        named = not named and argument in ("-c", "--config")
    return files, others


def known_options(parser_options: Sequence[str], given: Options) -> list[str]:
    """All options of a command, including those of the classes given by ``class_path``.

    Args:
        parser_options: options that the parser knows before any class is given.
        given: see `given_options`.
    """
    classes = _classes(given)
    branches = {"model": classes["model"]} if "model" in classes else {}
    known = [name for name in parser_options if name not in branches]
    for name, kind in branches.items():
        known += [f"{name}.class_path", *_parameters(f"{name}.init_args", kind, classes)]
    return known


def _classes(given: Options) -> dict[str, type]:
    """Option -> the class given for it, by ``class_path`` or as a plain path."""
    paths = {name.removesuffix(".class_path"): value for name, value in given.items() if "." in str(value)}
    located = {name: locate(path) for name, path in paths.items() if isinstance(path, str)}
    return {name: found for name, found in located.items() if isinstance(found, type)}


def _parameters(prefix: str, kind: type, classes: Mapping[str, type], skip: int = 0) -> Iterator[str]:
    """The options of a class or dataclass, without its first `skip` parameters, which the package itself passes."""
    try:
        hints = get_type_hints(kind if is_dataclass(kind) else kind.__init__)  # type: ignore[misc]
    except NameError:  # an annotation that is imported for type checkers only
        hints = {}
    for parameter in list(inspect.signature(kind).parameters.values())[skip:]:
        yield from _options(f"{prefix}.{parameter.name}", hints.get(parameter.name), parameter.default, classes)


def _options(name: str, hint: Any, default: Any, classes: Mapping[str, type]) -> Iterator[str]:
    kinds = (hint, *get_args(hint))
    kind = classes.get(name, default if isinstance(default, type) else inspect.Parameter.empty)
    if kind is not inspect.Parameter.empty:
        made_from = [get_args(of)[0] for of in kinds if get_origin(of) is collections.abc.Callable]
        yield f"{name}.class_path"
        yield from _parameters(f"{name}.init_args", kind, classes, len(made_from[0]) if made_from else 0)
        return
    plans = [of for of in kinds if isinstance(of, type) and is_dataclass(of)]
    for plan in plans:
        yield from _parameters(name, plan, classes)
    if not plans:
        yield name


def unknown_options(given: Options, known: Sequence[str]) -> list[str]:
    """The given options that the command does not have; any key is allowed inside a mapping."""

    def is_known(name: str) -> bool:
        inside_or_above = (f"{option}.".startswith(f"{name}.") or name.startswith(f"{option}.") for option in known)
        return name.split(".")[0] in ALWAYS or any(inside_or_above)

    return [name for name in given if not is_known(name)]


def nearest(option: str, known: Sequence[str], count: int = 3) -> list[str]:
    """Up to ``count`` known options with a similar last word, the most similar first."""
    word, by_word = option.rsplit(".", 1)[-1], collections.defaultdict(list)
    for name in known:
        by_word[name.rsplit(".", 1)[-1]].append(name)
    words = [word] if word in by_word else difflib.get_close_matches(word, by_word, count)
    found = [name for one in words for name in by_word[one]]
    return sorted(found, key=lambda name: -difflib.SequenceMatcher(None, option, name).ratio())[:count]


def explain_unknown(given: Options, parser_options: Sequence[str], error: str) -> str | None:
    """A message about the unknown options that caused a parser error, with suggestions; None if none did."""
    known = known_options(parser_options, given)
    unknown = [name for name in unknown_options(given, known) if name.rsplit(".", 1)[-1] in error]
    lines = []
    for name in unknown:
        meant = " or ".join(f"--{option}" for option in nearest(name, known))
        lines.append(f"unknown option --{name}" + (f"; did you mean {meant}?" if meant else ""))
    return "\n".join(lines) or None
