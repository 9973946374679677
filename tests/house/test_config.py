"""Nested configurations: files, overrides, and errors that name the key."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from train.config.finetuning import FinetuneConfig
from train.config.pretraining import PretrainConfig
from vatt.config import ConfigError, FieldInfo, describe_fields, from_dict, load, override, to_dict
from vatt.models.config import VATTConfig
from vatt.presets import PRESETS, preset


@dataclass
class Base:
    rate: float = 0.5  # a share


@dataclass
class Inner(Base):
    """Of an inner part,
    in two lines.

    And more.
    """

    kind: Literal["a", "b"] = "a"
    name: str | None = None  # of it # all


@dataclass
class Outer:
    steps: int = 3  # of a run
    levels: tuple[float, ...] = (
        1.0,
        2.0,
    )  # ascending
    paths: list[str] = field(default_factory=list)
    inner: Inner = field(default_factory=Inner)


def test_round_trip_of_every_preset():
    for name in PRESETS:
        config = preset(name)
        assert from_dict(VATTConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_overrides_convert_and_do_not_change_the_original():
    base = Outer()
    changed = override(base, ["inner.rate=1", "levels=[3, 4]", "inner.name=x=y", 'paths=["p"]', "steps=5e0"])
    assert changed == Outer(5, (3.0, 4.0), ["p"], Inner(1.0, "a", "x=y"))
    assert base == Outer()
    assert override(changed, ["inner.name=null"]).inner.name is None


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("inner.rat=1", r"unknown configuration key 'inner.rat'; did you mean 'inner.rate'\?"),
        ("stepz=1", r"did you mean 'steps'\?"),
        ("inner.steps=1", r"unknown configuration key 'inner.steps'; did you mean 'steps'\?"),
        ("steps=many", "steps: expected int, got 'many'"),
        ("steps=1.5", "steps: expected int, got 1.5"),
        ("steps=true", "steps: expected int, got True"),
        ("inner.kind=c", "inner.kind: 'c' is not one of 'a', 'b'"),
        ("inner=3", "inner: is a section"),
        ('levels=[1, "x"]', r"levels\[1\]: expected float"),
        ("steps", "not of the form section.field=value"),
        ("steps.more=1", "steps: expected int"),
    ],
)
def test_errors_name_the_key(assignment, message):
    with pytest.raises(ConfigError, match=message):
        override(Outer(), [assignment])


def test_files(tmp_path):
    (tmp_path / "a.toml").write_text("steps = 7\n[inner]\nkind = 'b'\n")
    assert from_dict(Outer, load(tmp_path / "a.toml")) == Outer(7, inner=Inner(kind="b"))
    for name, text in {"bad.json": "{", "bad.toml": "=", "list.json": "[]", "x.yaml": "a: 1"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=name):
            load(tmp_path / name)
    with pytest.raises(ConfigError, match=r"absent\.json"):
        load(tmp_path / "absent.json")


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'vatt-base'"):
        preset("vat-base")


def test_fields_are_described():
    assert describe_fields(Outer) == [
        FieldInfo("steps", "int", "3", "of a run"),
        FieldInfo("levels", "tuple[float, ...]", "[1.0, 2.0]", "ascending"),
        FieldInfo("paths", "list[str]", "[]", ""),
        FieldInfo("inner", "section", "", "Of an inner part, in two lines."),
        FieldInfo("inner.rate", "float", "0.5", "a share"),
        FieldInfo("inner.kind", '"a" | "b"', '"a"', ""),
        FieldInfo("inner.name", "str | None", "None", "of it # all"),
    ]


@pytest.mark.parametrize("cls", [PretrainConfig, FinetuneConfig])
def test_every_setting_has_a_description(cls):
    """And its default, given as an override, changes nothing."""
    found = describe_fields(cls)
    assert [field.key for field in found if not field.description] == []
    assignments = [f"{field.key}={field.default}" for field in found if field.type != "section"]
    assert override(cls(), assignments) == cls()
    assert len(set(assignments)) == len(assignments) > 10
