"""A configuration that is put together setting by setting, each with a reason; what was set by hand stays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vatt.config import Section, update

Config = TypeVar("Config", bound=Section)

BY_HAND = "set by you"
_WHOLE, _MOST = 100, 34  # columns of the table, and of its first two at most


@dataclass(frozen=True)
class Choice:
    """A row of the table: what is set, to what, and why."""

    setting: str
    value: str
    reason: str


class Choosing(Generic[Config]):
    """Args:
    config: to begin with; what was set by hand is put over it.
    given: dotted settings that were set by hand, with their values.
    """

    def __init__(self, config: Config, given: Mapping[str, Any]) -> None:
        self.given = dict(given)
        self.config = update(config, nested(given))
        self.choices: list[Choice] = []

    def is_given(self, *settings: str) -> bool:
        """Whether one of them was set by hand."""
        return any(setting in self.given for setting in settings)

    def tell(self, setting: str, value: str, reason: str) -> None:
        """A row."""
        self.choices.append(Choice(setting, value, reason))

    def set(self, setting: str, value: Any, reason: str, show: str | None = None, label: str | None = None) -> None:
        """Sets one setting, unless it was set by hand, and tells it.

        Args:
            show: the value for people, where it is chosen.
            label: what the row is called, if not by the name of the setting.
        """
        if self.is_given(setting):
            self.tell(label or setting, shown(self.get(setting)), BY_HAND)
            return
        self.put({setting: value})
        self.tell(label or setting, shown(value) if show is None else show, reason)

    def put(self, values: Mapping[str, Any]) -> list[str]:
        """Sets those that were not set by hand, and returns the others."""
        self.config = update(self.config, nested({key: x for key, x in values.items() if key not in self.given}))
        return [key for key in values if key in self.given]

    def get(self, setting: str) -> Any:
        """The value of a dotted setting."""
        value: Any = self.config
        for part in setting.split("."):
            value = getattr(value, part)
        return value


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings as sections."""
    found: dict[str, Any] = {}
    for dotted, value in values.items():
        *sections, name = dotted.split(".")
        at = found
        for section in sections:
            at = at.setdefault(section, {})
        at[name] = value
    return found


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Sections as dotted settings."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found


def shown(value: Any) -> str:
    """A value for people, as it may be typed."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)


def table(choices: list[Choice]) -> str:
    """Rows of fixed width, at most 100 columns; a long reason goes on below itself."""
    rows = [Choice("setting", "chosen", "why"), *choices]
    widths = [min(_MOST, max(map(len, column))) for column in zip(*((c.setting, c.value) for c in rows), strict=True)]
    at = sum(widths) + 4
    lines = []
    for choice in rows:
        reason = _wrapped(choice.reason, _WHOLE - at)
        lines.append(f"{choice.setting:<{widths[0]}}  {choice.value:<{widths[1]}}  {reason[0]}".rstrip())
        lines += [" " * at + line for line in reason[1:]]
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines
