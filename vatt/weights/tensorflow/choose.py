"""What the keys of a checkpoint are, and which model it becomes: a named one, or that of a configuration file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vatt.config import ConfigError, from_dict, load, nearest, override, show
from vatt.models.config import ClassifierConfig, VATTConfig, VideoConfig, WaveformConfig, saved_values
from vatt.presets import CLASSIFIERS, PRESETS, classifier_preset, preset
from vatt.weights.tensorflow.bundle import Bundle
from vatt.weights.tensorflow.config import is_official, official_config
from vatt.weights.tensorflow.table import TensorFlowError
from vatt.weights.tensorflow.variables import LEAF, SLOT, from_checkpoint

_CLASS_BIAS = "_ops/cls/bias"
# The object graph, the counter of saves, and the counters and settings of Adam and SGD.
_BOOKKEEPING = {"_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter", "global_step"} | {
    f"optimizer/{name}" for name in ("iter", "beta_1", "beta_2", "decay", "momentum", "learning_rate", "epsilon")
}


@dataclass(frozen=True)
class Accounts:
    """Every key of a checkpoint, in exactly one place. ``model``: path of the variable in the network -> key."""

    model: dict[str, str]
    slots: list[str]
    bookkeeping: list[str]
    unused: list[str]


def account(keys: Iterable[str]) -> Accounts:
    """Sorts the keys of a checkpoint. ``unused`` are those that are none of the three known kinds."""
    keys = sorted(keys)
    model = from_checkpoint({key: key for key in keys})
    slots = [key for key in keys if SLOT in key]
    bookkeeping = [key for key in keys if key.removesuffix(LEAF) in _BOOKKEEPING]
    known = {*model.values(), *slots, *bookkeeping}
    return Accounts(model, slots, bookkeeping, [key for key in keys if key not in known])


def describe(paths: Collection[str]) -> str:
    """What network the paths of `Accounts.model` belong to, in words."""

    def some(start: str) -> bool:
        return any(path.startswith(start) for path in paths)

    if some("_base_layer/unified_backbone/"):
        return "a modality-agnostic pretraining model (vatt-ma-*)"
    if some("_base_layer/vid_backbone/_base/conv3d_1a_7x7/"):
        return "a convolutional pretraining model (mmv-*)"
    if some("_base_layer/"):
        return "a pretraining model with a backbone for each modality (vatt-*)"
    if some("_ops/cls/"):
        kind = {"voxel": "a video classifier (vit-*)", "wave": "an audio classifier (wat-*)"}
        return next((name for start, name in kind.items() if some(f"_base/{start}_to_patch/")), "a classifier")
    return "no VATT model"


def choose(
    model: str, bundle: Bundle, accounts: Accounts, overrides: Sequence[str] = ()
) -> VATTConfig | ClassifierConfig:
    """The configuration that ``model`` names, with the overrides.

    A named classifier takes from the checkpoint what its name does not say: the number of classes, and whether there
    are projections around the Transformer (as after a modality-agnostic pretraining).

    Args:
        model: a preset, or the path of a .json: an official configuration or one of ours.
        overrides: ``section.field=value``, see `vatt.config.override`.

    Raises:
        ConfigError: no such model, or a configuration that cannot be used.
        TensorFlowError: the same of an official configuration, or the checkpoint has another kind of network.
    """
    config: VATTConfig | ClassifierConfig
    if model in PRESETS:
        config = preset(model)
    elif model in CLASSIFIERS:
        config = _from_checkpoint(classifier_preset(model), bundle, accounts)
    elif model.endswith(".json"):
        config = _read(Path(model))
    else:
        hint = nearest(model, [*PRESETS, *CLASSIFIERS])
        raise ConfigError(f"unknown model {model!r}; {hint} (a configuration file ends in .json)")
    if not model.endswith(".json"):
        config.input.audio_level = "as_is"  # as the official code trains
    _same_kind(config, bundle, accounts)
    return override(config, overrides)


def _read(path: Path) -> VATTConfig | ClassifierConfig:
    values = load(path)
    try:
        if is_official(values):
            return official_config(values)
        values = saved_values(values)
        return from_dict(ClassifierConfig, values) if "num_classes" in values else from_dict(VATTConfig, values)
    except (TensorFlowError, ConfigError) as error:
        raise type(error)(f"{path}: {error}") from error


def _from_checkpoint(config: ClassifierConfig, bundle: Bundle, accounts: Accounts) -> ClassifierConfig:
    bias = accounts.model.get(_CLASS_BIAS)
    if bias is None:
        return config  # `_same_kind` says what is wrong
    section: VideoConfig | WaveformConfig = replace(  # type: ignore[assignment]
        config.video if config.modality == "video" else config.waveform,
        pre_projection="_base/pre_proj/kernel" in accounts.model,
        post_projection="_base/post_proj/kernel" in accounts.model,
    )
    bias_shape = bundle.shape(bias)
    if len(bias_shape) != 1:
        raise TensorFlowError(f"{bundle.index}: {show(bias)} has the shape {bias_shape}, not one number for each class")
    if section.post_projection and (shape := bundle.shape(accounts.model["_base/post_proj/kernel"])):
        section = replace(section, d_post_proj=shape[-1])
    name = "video" if config.modality == "video" else "waveform"
    return replace(config, num_classes=bias_shape[0], **{name: section})  # type: ignore[arg-type]


def _same_kind(config: VATTConfig | ClassifierConfig, bundle: Bundle, accounts: Accounts) -> None:
    if not accounts.model:
        raise TensorFlowError(
            f"{bundle.index}: holds no variable of a VATT model, such as model/layer_with_weights-0/..."
        )
    holds = describe(accounts.model)
    if isinstance(config, ClassifierConfig):
        asked = describe(["_ops/cls/", f"_base/{'voxel' if config.modality == 'video' else 'wave'}_to_patch/"])
    else:
        first = {
            "unified": "_base_layer/unified_backbone/",
            "separate": "_base_layer/vid_backbone/",
            "convolutional": "_base_layer/vid_backbone/_base/conv3d_1a_7x7/",
        }
        asked = describe([first[config.backbone]])
    if holds != asked:
        raise TensorFlowError(f"{bundle.index}: holds {holds}; --model asks for {asked}")
