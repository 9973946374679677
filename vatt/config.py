"""Nested dataclass configurations: from files, dictionaries and dotted overrides, and as a table of all settings.

Every configuration of the project is a (nested) dataclass, a `Section`. This module fills one from JSON or TOML files
and from ``section.field=value`` strings, and refuses unknown keys by naming the nearest valid one. The comment behind a
field is its description in the reference of settings.

What a field takes stands in its annotation, ``Annotated[int, Range(1, 4096)]``, and one function holds all values to
it: those of files, overrides, named recipes, model folders, and of a section that is made in Python.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import io
import json
import math
import re
import textwrap
import tokenize
import tomllib
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from vatt.errors import UserError
from vatt.json_files import JSONError, parse_json, read_bounded

Config = TypeVar("Config")
MOST_BYTES = 4 * 2**20  # of a configuration file; the names of 22,000 classes take a tenth
MOST_TEXT, MOST_ITEMS = 4096, 100_000  # characters of a text, items of a list
_TOO_NESTED = re.compile(
    rb"(?:[\w\"'-]+[ \t]*\.[ \t]*){32}|(?:[\[{][ \t\r\n]*){32}"
)  # in TOML; its parser is slow at both


class ConfigError(UserError, ValueError):
    """A configuration that cannot be used. The message names the key, and the nearest valid one if it is unknown."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a field takes, from ``least`` to ``most``; ``above`` and ``below`` leave an end out."""

    least: float
    most: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        over = value > self.least if self.above else value >= self.least
        return over and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        least, most = _number(self.least), _number(self.most)
        if self.above:
            return f"above {least}, {'below' if self.below else 'at most'} {most}"
        return f"from {least}, below {most}" if self.below else f"from {least} to {most}"


Count = typing.Annotated[int, Range(1, 1_000_000_000)]
CountOrNone = typing.Annotated[int, Range(0, 1_000_000_000)]
Share = typing.Annotated[float, Range(0.0, 1.0)]
NotAll = typing.Annotated[float, Range(0.0, 1.0, below=True)]


class Section:
    """Base of every configuration class: its fields are checked whenever one is made.

    A class that checks more in its own ``__post_init__`` calls this one first.
    """

    def __post_init__(self) -> None:
        check(self, nested=False)


def check(config: Any, where: str = "", nested: bool = True) -> None:
    """Raises ConfigError: a field holds what its annotation does not let it hold; the message has the dotted key, the
    value and what is allowed. Sections inside are checked, too, if ``nested``: they may have been changed since.
    """
    hints = _hints(config)
    for field in dataclasses.fields(config):
        value, hint, dotted = getattr(config, field.name), hints[field.name], f"{where}{field.name}"
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, typing.cast(type, hint)):
                raise ConfigError(f"{dotted}: is a section, cannot be set to {show(value)}")
            if nested:
                check(value, f"{dotted}.")
        else:
            _convert(hint, value, dotted)
    if nested and isinstance(config, Section):
        try:
            config.__post_init__()
        except ValueError as error:
            raise _of_section(where, config, error) from error


def _hints(config: Any) -> dict[str, Any]:
    cls: Any = type(config)
    return _hints_of(cls)


@cache
def _hints_of(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def show(value: Any) -> str:
    """A value for a message: as Python writes it, in printable characters, and not endless."""
    text = ascii(value[:100] if isinstance(value, str | list | tuple) else value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**12 else f"{value:.2g}"
    return f"{value:g}"


def nearest(name: str, valid: typing.Iterable[str]) -> str:
    """A hint for an unknown ``name``: the nearest of ``valid``, or all of them when none is near."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name[:100], valid, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(valid)}"


def _nearest_setting(key: str, where: str, names: list[str], root: Any) -> str:
    """A hint for a setting that its section does not have: a name of that section that is nearly the same, else a
    setting of another section that is called so, or begins so (``data.batch``: run.batch_size), else the nearest."""
    if close := difflib.get_close_matches(key[:100], names, n=1, cutoff=0.75):
        return f"did you mean {where + close[0]!r}?"
    settings = [(dotted, dotted.rpartition(".")[2]) for dotted in _dotted(root)]
    alike = [dotted for dotted, name in settings if name == key]
    alike += [dotted for dotted, name in settings if len(key) > 2 and name.startswith(f"{key}_")]
    return f"did you mean {alike[0]!r}?" if alike else nearest(where + key, [where + name for name in names])


def _dotted(config: Any, where: str = "") -> Iterator[str]:
    """The names of all settings, in their order."""
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(value := getattr(config, field.name)):
            yield from _dotted(value, f"{where}{field.name}.")
        else:
            yield where + field.name


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain dictionaries and lists, ready for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[Config], values: dict[str, Any], where: str = "") -> Config:
    """Builds ``cls`` from a (nested) dictionary. Missing keys keep their defaults.

    Raises:
        ConfigError: unknown key, or a value of the wrong type; the message holds the dotted key.
    """
    return update(cls(), values, where)


def update(config: Config, values: dict[str, Any], where: str = "", root: Any = None) -> Config:
    """A copy of ``config`` with the (nested) ``values`` put in. ``root``: the whole that it is a section of, of whose
    names hints are made."""
    root = config if root is None else root
    hints = _hints(config)
    changes = {}
    for key, value in values.items():
        dotted = f"{where}{key}"
        if key not in hints:
            hint = _nearest_setting(key, where, list(hints), root)
            raise ConfigError(f"unknown configuration key {show(dotted)}; {hint}")
        current = getattr(config, key)
        if dataclasses.is_dataclass(current) and not isinstance(current, type):
            if not isinstance(value, dict):
                raise ConfigError(f"{dotted}: is a section, cannot be set to {show(value)}; set {dotted}.<field>")
            changes[key] = update(current, value, f"{dotted}.", root)
        else:
            changes[key] = _convert(hints[key], value, dotted)
    try:
        return dataclasses.replace(config, **changes)  # type: ignore[type-var]
    except ValueError as error:  # raised by a __post_init__ that checks fields against each other
        raise _of_section(where, config, error) from error


def _of_section(where: str, config: Any, error: ValueError) -> ConfigError:
    return ConfigError(f"{where.rstrip('.') or type(config).__name__}: {error}")


def override(config: Config, assignments: typing.Sequence[str]) -> Config:
    """Applies ``section.field=value`` strings; the last one of a field counts. Values are JSON where they parse as
    JSON, else text."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        dotted, value = parse_override(assignment)
        *sections, name = dotted.split(".")
        place = values
        for section in sections:
            inner = place.setdefault(section, {})
            if not isinstance(inner, dict):
                inner = place[section] = {}
            place = inner
        place[name] = value
    return update(config, values)  # at once: fields are checked against each other when all are set


def parse_override(assignment: str) -> tuple[str, Any]:
    """The dotted name and the value of ``section.field=value``. Raises ConfigError: it is not of that form."""
    dotted, sign, text = assignment.partition("=")
    if not sign or not dotted or dotted.count(".") > 16:
        raise ConfigError(f"override {show(assignment)} is not of the form section.field=value")
    try:
        return dotted, parse_json(text, dotted, surrogates=True)
    except JSONError:  # NaN, too, stays a text, which no number is
        return dotted, {"True": True, "False": False, "None": None}.get(text, text)


def load(path: str | Path) -> dict[str, Any]:
    """Reads a .json or .toml configuration file.

    Raises:
        ConfigError: the file is missing, of another kind or too large, or does not parse; the message names the file.
    """
    path = Path(path)
    if path.suffix not in (".json", ".toml"):
        raise ConfigError(f"{path}: configuration files end in .json or .toml")
    try:
        content = read_bounded(path, MOST_BYTES)
        if path.suffix == ".json":
            return typing.cast(dict[str, Any], parse_json(content, path, dict, surrogates=True))
        if _TOO_NESTED.search(content):
            raise ConfigError(f"{path}: cannot read the configuration: it is nested too deep")
        return tomllib.loads(content.decode("utf-8-sig"))
    except JSONError as error:
        raise ConfigError(str(error)) from error
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot read the configuration: {error}") from error


def _convert(hint: Any, value: Any, dotted: str, within: Range | None = None) -> Any:
    """Checks ``value`` against the annotation ``hint``; ints become floats and lists tuples where that is asked."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _convert(args[0], value, dotted, next((item for item in args[1:] if isinstance(item, Range)), None))
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        for option in args:
            if option is not type(None):
                try:
                    return _convert(option, value, dotted)
                except ConfigError:
                    continue
    elif origin is typing.Literal:
        if any(value == item and type(value) is type(item) for item in args):
            return value
        raise ConfigError(f"{dotted}: {show(value)} is not one of {', '.join(map(repr, args))}")
    elif origin in (tuple, list) and isinstance(value, list | tuple) and len(value) <= MOST_ITEMS:
        inner = args[0] if args else Any
        return origin(_convert(inner, item, f"{dotted}[{i}]") for i, item in enumerate(value))
    elif hint is str and isinstance(value, str):
        if len(value) <= MOST_TEXT and "\0" not in value:
            return value
    elif hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value) and (hint is float or value == int(value)) and (within is None or value in within):
            return value if isinstance(value, hint) else hint(value)
    elif hint is Any or (isinstance(hint, type) and type(value) is hint):
        return value
    raise ConfigError(f"{dotted}: expected {_wanted(hint, within)}, got {show(value)}")


def _wanted(hint: Any, within: Range | None) -> str:
    if hint is float and within is None:
        return "float that is finite"
    if hint is str:
        return f"str of at most {MOST_TEXT} characters"
    if typing.get_origin(hint) is list:
        return f"{_type_name(hint)} of at most {MOST_ITEMS:,}"
    return _type_name(hint) + (f" {within}" if within else "")


@dataclasses.dataclass(frozen=True)
class FieldInfo:
    """One setting, or a section of settings.

    ``key`` is dotted, and ``default`` written as in an override ("" for a section); ``type`` is the annotation, or
    "section"; ``description`` is the field's comment, for a section the first paragraph of its docstring; ``range`` is
    what a number must be, in words.
    """

    key: str
    type: str
    default: str
    description: str
    range: str = ""


def describe_fields(cls: type) -> list[FieldInfo]:
    """All settings of a configuration class in order, each section before its fields."""
    return list(_describe(cls(), ""))


def _describe(config: Any, where: str) -> typing.Iterator[FieldInfo]:
    hints, comments = _hints(config), _comments(type(config))
    for field in dataclasses.fields(config):
        value, key, comment = getattr(config, field.name), f"{where}{field.name}", comments.get(field.name, "")
        if dataclasses.is_dataclass(value):
            about = (type(value).__doc__ or "").partition("\n\n")[0]
            yield FieldInfo(key, "section", "", comment or " ".join(about.split()))
            yield from _describe(value, f"{key}.")
        else:
            default = "None" if value is None else json.dumps(value)
            hint = hints[field.name]
            within = ", ".join(str(found) for found in _ranges(hint))
            yield FieldInfo(key, _type_name(hint), default, comment, within)


def _ranges(hint: Any) -> Iterator[Range]:
    for part in typing.get_args(hint):
        if isinstance(part, Range):
            yield part
        else:
            yield from _ranges(part)


def _type_name(hint: Any) -> str:
    """The annotation as it is written, without ranges; a Literal as its values."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _type_name(args[0])
    if origin in (list, tuple):
        return f"{origin.__name__}[{', '.join('...' if item is ... else _type_name(item) for item in args)}]"
    if origin is typing.Literal:
        return " | ".join(map(json.dumps, args))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_type_name, args))
    if hint is type(None):
        return "None"
    return hint.__name__ if origin is None and isinstance(hint, type) else str(hint)


def _comments(cls: type) -> dict[str, str]:
    """Field -> the comment behind it. A class inherits the comments of its bases, as it does the fields."""
    found: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        source = textwrap.dedent(inspect.getsource(base))
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        by_line = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
        (definition,) = ast.parse(source).body
        for node in typing.cast(ast.ClassDef, definition).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno in by_line:
                found[node.target.id] = by_line[node.end_lineno]
    return found
