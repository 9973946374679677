"""Head, loss and input of an official configuration (google-research/vatt/configs/{head,loss,multimodal}.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vatt.models.config import InputConfig
from vatt.released.errors import ReleasedError


def only_bridge(model: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The one entry of ``section.bridge``. Raises ReleasedError: none, or several."""
    entries = model[section]["bridge"]
    if len(entries) != 1:
        raise ReleasedError(f"{section}.bridge: {len(entries)} entries cannot be honoured; exactly one")
    return dict(entries[0])


def head_config(bridge: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of our `HeadConfig` from an official bridge. Raises ReleasedError: it cannot be honoured."""
    kinds = {"mlp_fac": "fac", "mlp_joint": "joint"}
    kind = _one_of("head_config.bridge.name", bridge["name"], kinds)
    video, audio, text = (
        bridge[f"{key}_kwargs"]["d_model"] for key in ("vid_to_aud_txt", "aud_to_vid_txt", "txt_to_vid_aud")
    )
    if audio != video or (kind == "joint" and text != video):
        raise ReleasedError(f"head_config.bridge: d_model {video}, {audio}, {text}: these spaces must be of one size")
    norm = bridge.get("bn_config", {})
    if norm.get("scale", True) is not True:
        raise ReleasedError("head_config.bridge.bn_config.scale=False cannot be honoured; only True")
    sync = bridge.get("use_xreplica_bn", True)
    return {
        "kind": kind,
        "d_va": video,
        "d_vat": text,
        "bn_momentum": 0.9 if sync else norm.get("momentum", 0.9),  # the official cross-replica norm fixes it
        "bn_epsilon": norm.get("epsilon", 1e-5),
        "sync_bn": sync,
    }


def loss_config(bridge: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of our `LossConfig` from an official bridge loss. Raises ReleasedError: it cannot be honoured."""
    values = dict(bridge)
    kind = _one_of(
        "loss_config.bridge.name", values.pop("name"), {"asymmetric_nce": "asymmetric", "symmetric_nce": "symmetric"}
    )
    if values.pop("loss_weight", 1.0) != 1:
        raise ReleasedError(f"loss_config.bridge.loss_weight={bridge['loss_weight']!r} cannot be honoured; only 1")
    return {"kind": kind, **values}


def input_config(official: Mapping[str, Any], default: InputConfig) -> InputConfig:
    """The clip that the network reads, from ``input_shapes`` and ``overrides`` as far as they say it.

    The number of frames a second is not recorded: it follows where both frames and sound are known.

    Raises:
        ReleasedError: frames that are not square.
    """
    shapes, given = official.get("input_shapes") or {}, official.get("overrides") or {}
    names = {"num_frames": "frames", "frame_size": "size", "sample_rate": "sample_rate", "max_num_words": "words"}
    found: dict[str, Any] = {ours: given[theirs] for theirs, ours in names.items() if theirs in given}
    clip = shapes.get("video") or shapes.get("images")
    if clip:
        _, found["frames"], found["size"], width, _ = clip
        if width != found["size"]:
            raise ReleasedError(f"input_shapes: frames of {found['size']} x {width} cannot be honoured; only squares")
    if shapes.get("text"):
        found["words"] = shapes["text"][1]
    made = dataclasses.replace(default, **found)
    if shapes.get("audio"):
        seconds = shapes["audio"][1] / made.sample_rate
        if "frames" not in found:
            made.frames = max(1, round(seconds * default.fps))
        made.fps = made.frames / seconds
    return made


def _one_of(what: str, value: Any, known: Mapping[str, str]) -> str:
    if value not in known:
        raise ReleasedError(f"{what}={value!r} cannot be honoured; only {', '.join(known)}")
    return known[value]
