"""The command line of fine-tuning: a few flags, a configuration file, and dotted overrides for all else."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from train.auto.choices import flat
from train.config.finetuning import AUTO, NAMES, PAPER, SAMPLE_LABELS, FinetuneConfig, Task, recipe
from train.core.command import AUTO as RESUME_AUTO
from train.core.command import Job, Parser, add_training_flags, resumes, separate_resume, set_training_flags
from train.core.run_folder import RunFolder, load_config
from vatt.config import ConfigError, nearest, override, parse_override, to_dict, update
from vatt.models.config import (
    ClassifierConfig,
    I3DConfig,
    ResNetConfig,
    VATTConfig,
    VideoConfig,
    WaveformConfig,
)
from vatt.presets import CLASSIFIERS, PRESETS, classifier_preset, preset
from vatt.weights.folder import model_folder, read_config
from vatt.weights.restore import backbone_config, fit_positions

# What a run sets by itself, or what comes too late to change all that depends on it.
_ELSEWHERE = {
    "init": "give it by --init",
    "task": "give it by --task",
    "model.classes": "give a file by --classes",
    "model.num_classes": "is the number of classes of --classes, or of the training clips",
    "model.modality": "follows from --task",
    "data.vocabulary": "classifiers read no words",
    "data.word_embeddings": "classifiers read no words",
}


def parser() -> argparse.ArgumentParser:
    """At most thirteen flags; a test holds it."""
    made = Parser(
        prog="deepspeed train/finetune.py",
        allow_abbrev=False,
        description="Fine-tune a pretrained backbone on labelled videos, sounds or pictures. Without --data: on the "
        "built-in sample.",
        epilog="Everything else: section.field=value, such as optim.lr=0.01 model.input.size=224 evaluation.clips=4. "
        "All of them are in docs/settings.md, and in the config.json of a run.",
    )
    add = made.add_argument
    add("--task", choices=tuple(PAPER), help="what is classified (default: video)")
    add(
        "--data",
        metavar="MANIFEST",
        help="manifest (.csv, .jsonl) or shards, with a label column and the splits train and val",
    )
    add("--label", metavar="COLUMN", help="column of the manifest with the label (default: label)")
    add("--classes", metavar="FILE", help="one class per line, in the order of the outputs (default: all in train)")
    add("--init", metavar="DIR", help="pretrained model: a run, a converted one, a classifier (default: from scratch)")
    add("--model", metavar="NAME", help=f"from scratch: one of {', '.join((*CLASSIFIERS, *PRESETS))}")
    add("--config", metavar="NAME", help=f"{AUTO} (for your clips and machine), {', '.join(NAMES)}, or a file")
    add_training_flags(made)
    return made


def parse(arguments: list[str], on_gpu: bool = False) -> Job[FinetuneConfig]:
    """The job that the arguments describe.

    Order of precedence: overrides, flags, the pretrained model (its backbone), the configuration file or recipe,
    defaults. A resumed run takes the configuration that it began with. With ``--config auto``, the default with data
    of one's own, the rest is chosen when the clips are known (`train.finetuning.auto`).

    Raises:
        ConfigError: a key, name or value that is not valid. PretrainedError: --init holds no model that fits.
    """
    options = parser().parse_intermixed_args(separate_resume(arguments))  # overrides may come anywhere
    for text in options.overrides:
        if (key := text.partition("=")[0].strip()) in _ELSEWHERE:
            raise ConfigError(f"{key}: {_ELSEWHERE[key]}")
    resume = resumes(options)
    auto = not resume and (options.config == AUTO or (options.config is None and _own_data(options)))
    if resume:
        config = _resumed(options)
    elif auto:
        config = _auto_base(options, on_gpu)
    else:
        config = _with_backbone(_base(options), options)
    began = to_dict(config) if resume else {}
    data = {} if options.data is None else {"sources": [options.data], "weights": []}
    config = set_training_flags(config, options, **data)
    named = {name: value for name in ("label", "classes") if (value := getattr(options, name)) is not None}
    config = override(replace(config, **named), options.overrides)
    try:
        fit_positions(config.model.backbone, config.model.input)
    except ValueError as error:
        raise ConfigError(f"model.{error}") from error
    return Job(
        config,
        options.out,
        resume,
        sample=not config.data.sources,
        auto=auto,
        given=_by_hand(options) if auto else {},
        began=began,
        restart=options.resume == RESUME_AUTO and not resume,
        allow_changes=options.allow_changes,
    )


def _resumed(options: argparse.Namespace) -> FinetuneConfig:
    """The configuration of the run to go on with. With ``--resume auto`` the command line is that of the start."""
    assert options.out is not None
    given = {
        name: value
        for name in ("config", "model", "init", "task", "classes", "label")
        if (value := getattr(options, name)) is not None
    }
    if given and options.resume != RESUME_AUTO:
        raise ConfigError(f"--resume goes on with the configuration of the run; leave --{next(iter(given))} out")
    config = update(FinetuneConfig(), load_config(RunFolder.reopen(options.out).config))
    own = {name: getattr(config, name, None) for name in given}
    own |= {"config": given.get("config"), "model": config.model.name.removesuffix(f"-{config.task}")}
    for name, value in given.items():
        if str(own[name]) != str(value):
            raise ConfigError(f"--resume auto: the run has --{name} {own[name]}, not {value}")
    return config


def _base(options: argparse.Namespace) -> FinetuneConfig:
    """The recipe or the file, before any flag."""
    task = options.task
    if options.config is None:
        return recipe("sample", task or "video")
    if options.config in NAMES or not Path(options.config).suffix:
        return recipe(options.config, task or _task_of(options.config))
    values = load_config(Path(options.config))
    named = values.get("task", task or "video")
    if named not in PAPER:
        raise ConfigError(f"{options.config}: task: {named!r} is not one of {', '.join(PAPER)}")
    config = update(recipe(PAPER[named], named), values)
    if task is not None and config.task != task:
        raise ConfigError(f"{options.config}: task is {config.task!r}, but --task says {task}")
    return config


def _own_data(options: argparse.Namespace) -> bool:
    return bool(options.data) or any(text.startswith("data.sources=") for text in options.overrides)


def _auto_base(options: argparse.Namespace, on_gpu: bool) -> FinetuneConfig:
    """What ``--config auto`` begins with: the task, and the model with the input that it has. Without a model, a tiny
    one on a CPU, and on a GPU the paper's Base."""
    task: Task = options.task or "video"
    name = "wat-base" if task == "audio" else "vit-base"
    if options.init is None and options.model is None:
        options = argparse.Namespace(**{**vars(options), "model": name if on_gpu else "vatt-tiny"})
    model = replace(classifier_preset(name), labels="single")
    label = FinetuneConfig.label if _own_data(options) else SAMPLE_LABELS[task]
    config = FinetuneConfig(task=task, label=label, model=model)
    source = _source(config.init, options)
    assert source is not None
    spec = source.input
    if task == "image":
        section = backbone_config(source, "video")
        if isinstance(section, VideoConfig):
            spec = replace(spec, frames=section.temporal_patch_size)
    made = _with_backbone(config, options)
    return replace(made, model=replace(made.model, input=replace(spec)))


def _by_hand(options: argparse.Namespace) -> dict[str, Any]:
    """The dotted settings that flags and overrides set, and "model" and "init", where they are named."""
    names = {"run.steps": "steps", "run.batch_size": "batch_size", "engine.zero": "zero", "model": "model"}
    given = {setting: getattr(options, name) for setting, name in (names | {"init": "init"}).items()}
    given = {setting: value for setting, value in given.items() if value is not None}
    for assignment in options.overrides:
        setting, value = parse_override(assignment)
        given |= flat({setting: value})
    return given


def _task_of(name: str) -> Task:
    return next((task for task, recipe_name in PAPER.items() if recipe_name == name), "video")


def _with_backbone(config: FinetuneConfig, options: argparse.Namespace) -> FinetuneConfig:
    """The backbone of the pretrained or named model in place of the recipe's; DropToken stays the recipe's."""
    init = options.init or config.init
    if (source := _source(init, options)) is None:
        return config
    modality = config.model.modality
    section = backbone_config(source, modality)
    name = f"{source.name}-{config.task}"
    spec = replace(config.model.input, audio_level=source.input.audio_level)  # what the backbone was trained on
    model = replace(config.model, name=name, input=spec)
    if isinstance(section, I3DConfig | ResNetConfig):
        networks: dict[str, Any] = {"video": VideoConfig(), "waveform": WaveformConfig(), "network": "convolutional"}
        networks["i3d" if isinstance(section, I3DConfig) else "resnet"] = section
        return replace(config, init=init, model=replace(model, **networks))
    before = getattr(config.model, "video" if modality == "video" else "waveform")
    kept = {name: getattr(before, name) for name in ("random_patch_sampling", "patch_sampling_rate", "sample_per_item")}
    if isinstance(section, VideoConfig):
        model.video = replace(section, **kept)
    else:
        model.waveform = replace(section, **kept)
    return replace(config, init=init, model=model)


def _source(init: str | None, options: argparse.Namespace) -> VATTConfig | ClassifierConfig | None:
    """The configuration of the pretrained model, or of the named one; None where the recipe brings its own."""
    name = options.model
    if (init := options.init or init) is not None:
        if name is not None:
            raise ConfigError("--model is for training from scratch; --init brings its own model")
        return read_config(model_folder(init))
    if name is None:
        return None
    if name in PRESETS:
        return preset(name)
    if name in CLASSIFIERS:
        return classifier_preset(name)
    raise ConfigError(f"unknown model {name!r}; {nearest(name, (*CLASSIFIERS, *PRESETS))}")
