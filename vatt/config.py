"""Nested dataclass configurations: from files, dictionaries and dotted overrides, and as a table of all settings.

Every configuration of the project is a plain (nested) dataclass. This module fills one from JSON or TOML files and from
``section.field=value`` strings, and refuses unknown keys by naming the nearest valid one. The comment behind a field is
its description in the reference of settings.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import io
import json
import textwrap
import tokenize
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from vatt.errors import UserError

Config = TypeVar("Config")


class ConfigError(UserError, ValueError):
    """A configuration that cannot be used. The message names the key, and the nearest valid one if it is unknown."""


def nearest(name: str, valid: typing.Iterable[str]) -> str:
    """A hint for an unknown ``name``: the nearest of ``valid``, or all of them when none is near."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(valid)}"


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain dictionaries and lists, ready for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[Config], values: dict[str, Any], where: str = "") -> Config:
    """Builds ``cls`` from a (nested) dictionary. Missing keys keep their defaults.

    Raises:
        ConfigError: unknown key, or a value of the wrong type; the message holds the dotted key.
    """
    return update(cls(), values, where)


def update(config: Config, values: dict[str, Any], where: str = "") -> Config:
    """A copy of ``config`` with the (nested) ``values`` put in."""
    hints = typing.get_type_hints(type(config))
    changes = {}
    for key, value in values.items():
        dotted = f"{where}{key}"
        if key not in hints:
            raise ConfigError(
                f"unknown configuration key {dotted!r}; {nearest(dotted, [where + name for name in hints])}"
            )
        current = getattr(config, key)
        if dataclasses.is_dataclass(current) and not isinstance(current, type):
            if not isinstance(value, dict):
                raise ConfigError(f"{dotted}: is a section, cannot be set to {value!r}; set {dotted}.<field>")
            changes[key] = update(current, value, f"{dotted}.")
        else:
            changes[key] = _convert(hints[key], value, dotted)
    try:
        return dataclasses.replace(config, **changes)  # type: ignore[type-var]
    except ConfigError:
        raise
    except ValueError as error:  # raised by a __post_init__ that checks its fields
        raise ConfigError(f"{where.rstrip('.') or type(config).__name__}: {error}") from error


def override(config: Config, assignments: typing.Sequence[str]) -> Config:
    """Applies ``section.field=value`` strings in order. Values are JSON where they parse as JSON, else text."""
    for assignment in assignments:
        dotted, nested = parse_override(assignment)
        for part in reversed(dotted.split(".")):
            nested = {part: nested}
        config = update(config, nested)
    return config


def parse_override(assignment: str) -> tuple[str, Any]:
    """The dotted name and the value of ``section.field=value``. Raises ConfigError: it is not of that form."""
    dotted, sign, text = assignment.partition("=")
    if not sign or not dotted:
        raise ConfigError(f"override {assignment!r} is not of the form section.field=value")
    try:
        return dotted, json.loads(text)
    except json.JSONDecodeError:
        return dotted, {"True": True, "False": False, "None": None}.get(text, text)


def load(path: str | Path) -> dict[str, Any]:
    """Reads a .json or .toml configuration file.

    Raises:
        ConfigError: the file is missing, of another kind, or does not parse; the message names the file.
    """
    path = Path(path)
    try:
        text = path.read_text()
        if path.suffix == ".toml":
            return tomllib.loads(text)
        if path.suffix == ".json":
            values = json.loads(text)
            if not isinstance(values, dict):
                raise ConfigError(f"{path}: expected an object of configuration sections")
            return values
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error}") from error
    raise ConfigError(f"{path}: configuration files end in .json or .toml")


def _convert(hint: Any, value: Any, dotted: str) -> Any:
    """Checks ``value`` against the annotation ``hint``; ints become floats and lists tuples where that is asked."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
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
        if value in args:
            return value
        raise ConfigError(f"{dotted}: {value!r} is not one of {', '.join(map(repr, args))}")
    elif origin in (tuple, list) and isinstance(value, list | tuple):
        inner = args[0] if args else Any
        return origin(_convert(inner, item, f"{dotted}[{i}]") for i, item in enumerate(value))
    elif origin is dict and isinstance(value, dict):
        return dict(value)
    elif hint is Any or (isinstance(hint, type) and type(value) is hint):
        return value
    elif hint is float and type(value) is int:
        return float(value)
    elif hint is int and type(value) is float and value.is_integer():
        return int(value)
    name = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise ConfigError(f"{dotted}: expected {name}, got {value!r}")


@dataclasses.dataclass(frozen=True)
class FieldInfo:
    """One setting, or a section of settings.

    ``key`` is dotted, and ``default`` written as in an override ("" for a section); ``type`` is the annotation, or
    "section"; ``description`` is the field's comment, for a section the first paragraph of its docstring.
    """

    key: str
    type: str
    default: str
    description: str


def describe_fields(cls: type) -> list[FieldInfo]:
    """All settings of a configuration class in order, each section before its fields."""
    return list(_describe(cls(), ""))


def _describe(config: Any, where: str) -> typing.Iterator[FieldInfo]:
    hints, comments = typing.get_type_hints(type(config)), _comments(type(config))
    for field in dataclasses.fields(config):
        value, key, comment = getattr(config, field.name), f"{where}{field.name}", comments.get(field.name, "")
        if dataclasses.is_dataclass(value):
            about = (type(value).__doc__ or "").partition("\n\n")[0]
            yield FieldInfo(key, "section", "", comment or " ".join(about.split()))
            yield from _describe(value, f"{key}.")
        else:
            default = "None" if value is None else json.dumps(value)
            yield FieldInfo(key, _type_name(hints[field.name]), default, comment)


def _type_name(hint: Any) -> str:
    """The annotation as it is written; a Literal as its values."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
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
