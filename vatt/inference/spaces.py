"""The common spaces by name: where video and text meet, where video and audio meet (paper, section 3.4)."""

from __future__ import annotations

from typing import Literal

from vatt.errors import UserError
from vatt.models.config import VATTConfig

Modality = Literal["video", "audio", "text"]
MODALITIES: tuple[Modality, ...] = ("video", "audio", "text")
FEATURES = "features"  # the pooled output of the backbone, before the head
DEFAULTS: dict[str, str] = {"video": "text", "audio": "video", "text": "video"}

# What a head gives, by modality and by the modality that is met there. A joint head has one space for all three.
_FAC = {"video": {"text": "totxt", "audio": "toaud"}, "audio": {"video": "tovid"}, "text": {"video": "tovid"}}
_JOINT = {
    "video": {"text": "totxt", "audio": "toaud"},
    "audio": {"video": "tovid", "text": "totxt"},
    "text": {"video": "tovid", "audio": "toaud"},
}


class SpaceError(UserError, ValueError):
    """A space that a model does not have for a modality. The message names those that it has."""


def spaces_of(config: VATTConfig) -> dict[str, dict[str, int]]:
    """For each modality its spaces and their dimensions: {"video": {"text": 256, "audio": 512, "features": 768}}.

    A space has the name of the modality that it is shared with: a video embedded with "text" is compared with a
    sentence embedded with "video".
    """
    head = config.head
    table = _FAC if head.kind == "fac" else _JOINT
    features = config.feature_widths
    found: dict[str, dict[str, int]] = {}
    for modality in MODALITIES:
        spaces = dict.fromkeys(table[modality], head.d_va)
        if head.kind == "fac":
            spaces |= {name: head.d_vat for name in table[modality] if "text" in (modality, name)}
        found[modality] = {**spaces, FEATURES: features[modality]}
    return found


def output_name(config: VATTConfig, modality: str, space: str | None = None) -> str:
    """The key of `VATT.forward`'s result that holds a space; None is the default one of the modality.

    Raises:
        SpaceError: the model has no such space; a model with a fine and a coarse space has none of audio and text.
    """
    space = space or DEFAULTS[modality]
    table = (_FAC if config.head.kind == "fac" else _JOINT)[modality]
    if space == FEATURES:
        return f"{modality}/features_pooled"
    if space not in table:
        raise SpaceError(f"space: {config.name} has no {space!r} for {modality}, but {', '.join([*table, FEATURES])}")
    return f"{modality}/{table[space]}"


def width_of(config: VATTConfig, modality: str, space: str | None = None) -> int:
    """Dimensions of a space. Raises SpaceError, see `output_name`."""
    output_name(config, modality, space)
    return spaces_of(config)[modality][space or DEFAULTS[modality]]
