"""Configurations of the official code, as dictionaries, to ours.

An official configuration (google-research/vatt/configs) as JSON has ``model_config`` (all or some of the fields of its
configuration class), ``model_arch``, and optionally ``input_shapes`` and ``overrides`` (num_frames, sample_rate, ...).
Field names are the same in both, so what is done here is to refuse what our models do not have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from vatt.clip import InputConfig
from vatt.config import ConfigError, show, update
from vatt.models.config import (
    ClassifierConfig,
    I3DConfig,
    ResNetConfig,
    SpectrogramConfig,
    TextConfig,
    UnifiedConfig,
    VATTConfig,
    VideoConfig,
    WaveformConfig,
)
from vatt.presets import SIZES, classifier_preset
from vatt.weights.tensorflow.table import TensorFlowError

Section = TypeVar("Section")

# Fields that ours do not have, with the only values that can be honoured.
_FIXED: dict[str, tuple[Any, ...]] = {
    "activation": ("gelu", None),
    "post_proj_activation": ("gelu",),
    "use_masking": (False,),
    "d_post_proj": (None,),
    "backbone_config": (None,),
    "freeze_backbone": (False,),
    "modality": ("",),
}
# Names, the rate of a mask that is not used, and what `classifier_config` takes.
_ELSEWHERE = {"name", "cls_dropout_rate", "final_endpoint", "mask_rate", "num_classes", "num_test_samples"}
# Fields that follow from others: in our models they cannot differ.
_FOLLOWS = {"temporal_patch_stride": "temporal_patch_size", "d_pre_proj": "d_model"}
_BY_KIND = {
    "is_transformer": {"t5": True, "bert": True, "bert_small": True, "linear": False},
    "use_agg_token": {"t5": True, "bert": False, "bert_small": True, "linear": False},
}


# Of the convolutional networks: our field of theirs; what has no effect there; what must have one of these values.
_BATCH_NORM = {"batch_norm_epsilon": "bn_epsilon", "use_xreplica_bn": "sync_bn"}
_NO_EFFECT = {"conv_weight_decay", "dropout_rate", "data_format", "formula_seed"}
_CONVOLUTIONAL: dict[str, tuple[Any, ...]] = {
    "batch_norm_scale": (True,),
    "final_endpoint": ("mixed_5c", "last_conv"),
    "cifar_stem": (False,),
    "stop_gradient_point": (-1,),
    "i3d_width_divisor": (1, 2, 4, 8),
}


def is_official(config: Mapping[str, Any]) -> bool:
    """Whether a dictionary is an official configuration rather than one of ours."""
    return "model_config" in config


def official_config(official: Mapping[str, Any]) -> VATTConfig | ClassifierConfig:
    """A whole official configuration: of a pretraining model or a fine-tuned one.

    Raises:
        TensorFlowError: a field cannot be honoured or a part is missing; the message names it.
        ConfigError: a value of the wrong type.
    """
    try:
        return vatt_config(official) if "head_config" in official["model_config"] else classifier_config(official)
    except (TensorFlowError, ConfigError):
        raise
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, ZeroDivisionError) as error:
        reason = f"{type(error).__name__}({show(str(error))})"
        raise TensorFlowError(f"the official configuration lacks a part or has another layout: {reason}") from error


def vatt_config(official: Mapping[str, Any]) -> VATTConfig:
    """The official configuration of a pretraining model (TX_FAC, UT_FAC, MMV_FAC). Raises as `official_config`."""
    model = official["model_config"]
    backbone = model["backbone_config"]
    if "unified_backbone" in backbone:
        arch, parts = "UT", {"unified": _named(backbone, "unified_backbone", "unified_model_kwargs")}
    else:
        arch = "MMV" if str(backbone["video_backbone"]).lower().startswith("i3d") else "TX"
        parts = {m: _named(backbone, f"{m}_backbone", f"{m}_model_kwargs") for m in ("video", "audio", "text")}
    if arch == "MMV":
        parts["video"]["i3d_width_divisor"] = official.get("i3d_width_divisor", 1)
    head = head_config(only_bridge(model, "head_config"))
    config = from_parts(parts, arch, head, loss_config(only_bridge(model, "loss_config")))
    name = str(model.get("model_name", official.get("model_arch", "vatt")))
    sound = config.audio_input == "spectrogram" and (official.get("input_shapes") or {}).get("audio")
    if sound and config.backbone == "convolutional":
        config.resnet.mel_bins = sound[2]
    return dataclasses.replace(config, name=name, input=input_config(official, config.input, config))


def classifier_config(official: Mapping[str, Any]) -> ClassifierConfig:
    """The official configuration of a fine-tuned video or waveform Transformer. Raises as `official_config`."""
    model = official["model_config"]
    name = str(model.get("name") or official.get("model_arch", "")).lower()
    if not name.startswith(("vit", "wat")):
        raise TensorFlowError(f"model_config.name: {show(name)} cannot be honoured; classifiers are vit_* or wat_*")
    video = name.startswith("vit")
    config = classifier_preset("vit-base" if video else "wat-base")
    if video:
        config.video = fill(VideoConfig, {"name": name, **model})
    else:
        config.waveform = fill(WaveformConfig, {"name": name, **model})
    changes: dict[str, Any] = {"name": name, "classes": []}
    for theirs, field in (("num_classes", "num_classes"), ("cls_dropout_rate", "dropout")):
        if model.get(theirs) is not None:
            changes[field] = model[theirs]
    return dataclasses.replace(update(config, changes), input=input_config(official, config.input))


def from_parts(
    parts: Mapping[str, Any], arch: str, head: Mapping[str, Any], loss: Mapping[str, Any] | None = None
) -> VATTConfig:
    """A pretraining model of its backbones' official fields.

    Args:
        parts: ``unified``, or ``video``, ``audio`` and ``text``: official fields of each.
        arch: official ``model_arch``; ``UT_*`` has one backbone for all modalities, ``MMV_*`` is convolutional.
        head, loss: fields of our sections `HeadConfig` and `LossConfig`.

    Raises:
        TensorFlowError, ConfigError: see `fill`.
    """
    known = {"input": {"audio_level": "as_is"}, "head": dict(head), "loss": dict(loss or {})}
    config = update(VATTConfig(), known)
    if arch.upper().startswith("UT"):
        _known("unified backbone", parts["unified"], ("ut",))
        return dataclasses.replace(config, backbone="unified", unified=fill(UnifiedConfig, parts["unified"]))
    if arch.upper().startswith("MMV"):
        _known("video backbone", parts["video"], ("i3d",))
        _known("audio backbone", parts["audio"], ("resnet2d",))
        video = {"i3d_width_divisor": parts.get("i3d_width_divisor", 1), **parts["video"]}
        changes: dict[str, Any] = {"i3d": i3d_config(video), "resnet": resnet_config(parts["audio"])}
        text = text_config({"name": "linear", **parts["text"]})
        return dataclasses.replace(config, backbone="convolutional", audio_input="spectrogram", text=text, **changes)
    _known("video backbone", parts["video"], ("vit",))
    _known("audio backbone", parts["audio"], ("wat", "spt"))
    config.video, config.text = fill(VideoConfig, parts["video"]), text_config(parts["text"])
    if str(parts["audio"].get("name", "")).startswith("spt"):
        config.audio_input, config.spectrogram = "spectrogram", fill(SpectrogramConfig, parts["audio"])
    else:
        config.waveform = fill(WaveformConfig, parts["audio"])
    return config


def fill(cls: type[Section], official: Mapping[str, Any], **ours: Any) -> Section:
    """Our section ``cls`` with the fields of an official configuration; ``ours`` come on top.

    Sizes that are not given follow from the official name (``vit_medium``).

    Raises:
        TensorFlowError: a field cannot be honoured; the message names it, and what can be.
        ConfigError: a value of the wrong type.
    """
    known = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = _size(official)
    for key, value in official.items():
        if key in known and value is not None:
            values[key] = value
        elif key in known or key in _ELSEWHERE or key in _FOLLOWS or key in _BY_KIND:
            continue  # None: our default; the others are checked below
        elif value not in _FIXED.get(key, ()):
            raise _refused(cls, key, value, _FIXED.get(key))
    section = dataclasses.replace(update(cls(), values), **ours)  # type: ignore[type-var]
    for key, other in _FOLLOWS.items():
        if official.get(key) not in (None, getattr(section, other, None)):
            raise _refused(cls, key, official[key], (getattr(section, other, None),))
    for key, allowed in _BY_KIND.items():
        value = allowed.get(getattr(section, "kind", ""))
        if key in official and official[key] is not value:
            raise _refused(cls, key, official[key], (value,))
    return section


def i3d_config(official: Mapping[str, Any]) -> I3DConfig:
    """The section of an I3D. The official network has one width: its ``width_multiplier`` has no effect. Our files of
    smaller ones record an ``i3d_width_divisor``. Raises as `fill`."""
    values = {"width_divisor": official.get("i3d_width_divisor", 1)}
    ignored = {**official, "width_multiplier": None, "i3d_width_divisor": None}
    return _convolutional(I3DConfig, ignored, values | _norm_values(official))


def resnet_config(official: Mapping[str, Any]) -> ResNetConfig:
    """The section of a ResNet2D, whose name says its depth (``resnet2d_50``). Raises as `fill`."""
    name = str(official.get("name", "resnet2d_50")).lower()
    depth = name.rpartition("_")[2]
    values = {"depth": int(depth) if depth.isdecimal() else depth} | _norm_values(official)
    if official.get("width_multiplier") is not None:
        values["width_multiplier"] = official["width_multiplier"]
    return _convolutional(ResNetConfig, {**official, "width_multiplier": None, "backbone": None}, values)


def _norm_values(official: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `BatchNormConfig`; the official cross-replica norm fixes the momentum at 0.9."""
    found = {ours: official[theirs] for theirs, ours in _BATCH_NORM.items() if official.get(theirs) is not None}
    if official.get("batch_norm_decay") is not None and not found.get("sync_bn", True):
        found["bn_momentum"] = official["batch_norm_decay"]
    return found


def _convolutional(cls: type[Section], official: Mapping[str, Any], values: Mapping[str, Any]) -> Section:
    """``cls`` with ``values``, after a look at all other official fields. None is what no network has."""
    for key, value in official.items():
        known = key in (*_BATCH_NORM, "batch_norm_decay") or key in _ELSEWHERE | _NO_EFFECT
        allowed = _CONVOLUTIONAL.get(key, _FIXED.get(key))
        if known and key != "final_endpoint":
            continue
        if value is not None and value not in (allowed or ()):
            raise _refused(cls, key, value, allowed)
    return update(cls(), dict(values))


def text_config(official: Mapping[str, Any], **ours: Any) -> TextConfig:
    """The text section; the official name (``t5_small``, ``bert_base``, ``linear_lm``) says which kind it is.

    Raises:
        TensorFlowError, ConfigError: see `fill`; also for an unknown name.
    """
    name = str(official.get("name", "t5_small"))
    kind = next((kind for kind in ("bert_small", "bert", "t5", "linear") if name.startswith(kind)), None)
    if kind is None:
        raise TensorFlowError(f"text model {show(name)} is none of t5_*, bert_*, linear_lm")
    defaults = {"d_model": 2048} if kind == "linear" else {}  # LinearModel's; it has no size in its name
    return fill(TextConfig, {**defaults, **official}, kind=kind, **ours)


def only_bridge(model: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The one entry of ``section.bridge``. Raises TensorFlowError: none, or several."""
    entries = model[section]["bridge"]
    if len(entries) != 1:
        raise TensorFlowError(f"{section}.bridge: {len(entries)} entries cannot be honoured; exactly one")
    return dict(entries[0])


def head_config(bridge: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of our `HeadConfig` from an official bridge. Raises TensorFlowError: it cannot be honoured."""
    kinds = {"mlp_fac": "fac", "mlp_joint": "joint"}
    kind = _one_of("head_config.bridge.name", bridge["name"], kinds)
    video, audio, text = (
        bridge[f"{key}_kwargs"]["d_model"] for key in ("vid_to_aud_txt", "aud_to_vid_txt", "txt_to_vid_aud")
    )
    if audio != video or (kind == "joint" and text != video):
        raise TensorFlowError(f"head_config.bridge: d_model {video}, {audio}, {text}: these spaces must be of one size")
    norm = bridge.get("bn_config", {})
    if norm.get("scale", True) is not True:
        raise TensorFlowError("head_config.bridge.bn_config.scale=False cannot be honoured; only True")
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
    """Fields of our `LossConfig` from an official bridge loss. Raises TensorFlowError: it cannot be honoured."""
    values = dict(bridge)
    kind = _one_of(
        "loss_config.bridge.name", values.pop("name"), {"asymmetric_nce": "asymmetric", "symmetric_nce": "symmetric"}
    )
    if values.pop("loss_weight", 1.0) != 1:
        raise TensorFlowError(
            f"loss_config.bridge.loss_weight={show(bridge['loss_weight'])} cannot be honoured; only 1"
        )
    return {"kind": kind, **values}


def input_config(official: Mapping[str, Any], default: InputConfig, config: VATTConfig | None = None) -> InputConfig:
    """The clip that the network reads, from ``input_shapes`` and ``overrides`` as far as they say it.

    The number of frames a second is not recorded: it follows where both frames and sound are known. A convolutional
    network reads frames of any size, so frames that are not square do no harm: their shorter side is taken.

    Raises:
        TensorFlowError: frames that are not square, for a Transformer.
    """
    shapes, given = official.get("input_shapes") or {}, official.get("overrides") or {}
    names = {"num_frames": "frames", "frame_size": "size", "sample_rate": "sample_rate", "max_num_words": "words"}
    found: dict[str, Any] = {"audio_level": "as_is"}
    found |= {ours: given[theirs] for theirs, ours in names.items() if theirs in given}
    clip = shapes.get("video") or shapes.get("images")
    if clip:
        _, found["frames"], found["size"], width, _ = clip
        if config is not None and config.backbone == "convolutional":
            found["size"] = width = min(found["size"], width)
        if width != found["size"]:
            raise TensorFlowError(f"input_shapes: frames of {found['size']} x {width} cannot be honoured; only squares")
    if shapes.get("text"):
        found["words"] = shapes["text"][1]
    clip_spec = dataclasses.replace(default, **found)
    if shapes.get("audio"):
        seconds = shapes["audio"][1] / clip_spec.sample_rate
        if config is not None and config.audio_input == "spectrogram":  # its length is in Fourier transforms
            section = config.resnet if config.backbone == "convolutional" else config.spectrogram
            seconds *= int(clip_spec.sample_rate * section.stft_step)
        if "frames" not in found:
            clip_spec.frames = max(1, round(seconds * default.fps))
        clip_spec.fps = clip_spec.frames / seconds
    return clip_spec


def _one_of(what: str, value: Any, known: Mapping[str, str]) -> str:
    if value not in known:
        raise TensorFlowError(f"{what}={show(value)} cannot be honoured; only {', '.join(known)}")
    return known[value]


def _named(backbone: Mapping[str, Any], name: str, fields: str) -> dict[str, Any]:
    return {"name": backbone[name], **(backbone.get(fields) or {})}


def _known(what: str, part: Mapping[str, Any], starts: tuple[str, ...]) -> None:
    """Refuses the convolutional networks of the official code. A part without a name is one of ours."""
    name = str(part.get("name", starts[0])).lower()
    if not name.startswith(starts):
        raise TensorFlowError(
            f"{what} {show(name)} cannot be honoured; it must be one of {', '.join(s + '_*' for s in starts)}"
        )


def _size(official: Mapping[str, Any]) -> dict[str, Any]:
    """Width and depth by the official name, such as ``vit_medium``."""
    size = str(official.get("name", "")).lower().rpartition("_")[2]
    return dict(SIZES[size]) if size in SIZES and size != "tiny" else {}


def _refused(cls: type, key: str, value: Any, allowed: tuple[Any, ...] | None) -> TensorFlowError:
    can = f"only {', '.join(map(repr, allowed))}" if allowed else "no such field is known"
    return TensorFlowError(f"{cls.__name__}: {show(key)[1:-1]}={show(value)} cannot be honoured; {can}")
