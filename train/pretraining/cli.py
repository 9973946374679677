"""The command line of pretraining: a few flags, a configuration file, and dotted overrides for all else."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from train.auto.choices import flat
from train.config.pretraining import AUTO, RECIPES, PretrainConfig, recipe
from train.core.command import AUTO as RESUME_AUTO
from train.core.command import Job, Parser, add_training_flags, resumes, separate_resume, set_training_flags
from train.core.run_folder import RunFolder, load_config
from vatt.config import ConfigError, from_dict, override, parse_override, to_dict, update
from vatt.presets import PRESETS, preset


def _numbers(text: str) -> list[float]:
    """Numbers between commas. argparse turns the ValueError into a message that names the flag."""
    return [float(part) for part in text.split(",")]


def parser() -> argparse.ArgumentParser:
    """At most twelve flags; a test holds it."""
    made = Parser(
        prog="deepspeed train/pretrain.py",
        allow_abbrev=False,
        description="Pretrain VATT on videos. Without --data: on a built-in sample of a few hundred real .mp4 files.",
        epilog="Everything else: section.field=value, such as optim.lr=3e-4 data.workers=8 model.head.kind=joint. "
        "All of them are in docs/settings.md, and in the config.json of a run.",
    )
    add = made.add_argument
    add(
        "--data",
        action="append",
        metavar="PATH",
        help="folder of videos, manifest, or shards or their URL; may be repeated",
    )
    add("--weights", type=_numbers, metavar="W,W", help="share of each --data in the mixture (default: equal)")
    add("--model", help=f"one of {', '.join(PRESETS)}")
    add("--config", metavar="NAME", help=f"{AUTO} (for your data and machine), {', '.join(RECIPES)}, or a file")
    add("--deepspeed-config", metavar="FILE", help="DeepSpeed JSON whose entries go over the generated ones")
    add_training_flags(made)
    return made


def parse(arguments: list[str], on_gpu: bool) -> Job[PretrainConfig]:
    """The job that the arguments describe.

    Order of precedence: overrides, flags, the configuration file or recipe, defaults. A resumed run takes the
    configuration that it began with.

    Raises:
        ConfigError: a key, name or value that is not valid; the message holds the nearest valid one.
    """
    options = parser().parse_intermixed_args(separate_resume(arguments))  # overrides may come anywhere
    resume = resumes(options)
    auto = not resume and (options.config == AUTO or (options.config is None and options.data is not None))
    began: dict[str, Any] = {}
    if resume:
        config = _resumed(options)
        began = to_dict(config)
        config = _from_command_line(config, options)
    elif auto:
        # Other settings are chosen when the data are known.
        config = _with_model(PretrainConfig(model=preset("vatt-base")), options)
    else:
        config = _with_model(_base(options, on_gpu), options)
    data: dict[str, Any] = {}
    if options.data is not None:
        data = {"sources": options.data, "weights": options.weights or []}
    elif options.weights is not None:
        data = {"weights": options.weights}
    config = override(set_training_flags(config, options, **data), options.overrides)
    return Job(
        config,
        options.out,
        resume,
        sample=not config.data.sources,
        auto=auto,
        given=by_hand(options, data) if auto else {},
        began=began,
        restart=options.resume == RESUME_AUTO and not resume,
        allow_changes=options.allow_changes,
    )


def _base(options: argparse.Namespace, on_gpu: bool) -> PretrainConfig:
    """The recipe or the file, before any flag."""
    if options.config is None:
        return recipe("sample-gpu" if on_gpu else "sample")
    if options.config in RECIPES or not Path(options.config).suffix:
        return recipe(options.config)
    values = load_config(Path(options.config))
    named = values.get("model", {}).get("name") if isinstance(values.get("model"), dict) else None
    base = PretrainConfig(model=preset(named)) if named in PRESETS else PretrainConfig()
    return update(base, values) if named else from_dict(PretrainConfig, values)


def _with_model(config: PretrainConfig, options: argparse.Namespace) -> PretrainConfig:
    """The preset of --model in place of the model, if it was named."""
    if options.model is None:
        return config
    level, model = config.model.input.audio_level, preset(options.model)
    return replace(config, model=replace(model, input=replace(model.input, audio_level=level)))


def by_hand(options: argparse.Namespace, data: dict[str, Any]) -> dict[str, Any]:
    """The dotted settings that flags and overrides set, and "model", where a preset is named."""
    flags = {"run.steps": options.steps, "run.batch_size": options.batch_size, "engine.zero": options.zero}
    flags |= {"engine.deepspeed": options.deepspeed_config, "model": options.model}
    given = {setting: value for setting, value in flags.items() if value is not None}
    given |= {f"data.{name}": value for name, value in data.items()}
    for assignment in options.overrides:
        setting, value = parse_override(assignment)
        given |= flat({setting: value})
    return given


def _resumed(options: argparse.Namespace) -> PretrainConfig:
    """The configuration of the run to go on with."""
    assert options.out is not None
    if options.resume != RESUME_AUTO and options.config is not None:
        raise ConfigError("--resume takes the configuration of the run; leave --config out")
    if options.resume != RESUME_AUTO and options.model is not None:
        raise ConfigError("--resume goes on with the model of the run; leave --model out")
    return from_dict(PretrainConfig, load_config(RunFolder.reopen(options.out).config))


def _from_command_line(config: PretrainConfig, options: argparse.Namespace) -> PretrainConfig:
    """With ``--resume auto``, the command line is that of the start: the recipe or file that it names, with what the
    run has set by itself, so that a file that was edited meanwhile is noticed. What ``--config auto`` chose stays."""
    if options.config in (None, AUTO):
        if options.model not in (None, config.model.name):
            raise ConfigError(f"--resume auto: the run has the model {config.model.name}, not --model {options.model}")
        return config
    named = _with_model(_base(options, on_gpu=False), options)
    text, unified = config.model.text.vocab_size, config.model.unified.txt_vocab_size
    named.model = replace(
        named.model,
        text=replace(named.model.text, vocab_size=text),
        unified=replace(named.model.unified, txt_vocab_size=unified),
    )
    engine, data = named.engine, named.data
    engine.threads = engine.threads or config.engine.threads
    engine.contrastive_parts = engine.contrastive_parts or config.engine.contrastive_parts
    if not data.sources:
        data.sources, data.weights = config.data.sources, config.data.weights
    return named
