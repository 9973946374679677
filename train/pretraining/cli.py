"""The command line of pretraining: a few flags, a configuration file, and dotted overrides for all else."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from train.config.pretraining import AUTO, RECIPES, PretrainConfig, recipe
from train.core.command import Job, Parser, add_training_flags, folder_to_resume, set_training_flags
from train.core.run_folder import RunFolder, load_config
from train.pretraining.choices import flat
from vatt.config import ConfigError, from_dict, override, parse_override, update
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
    options = parser().parse_intermixed_args(arguments)  # overrides may come anywhere
    auto = not options.resume and (options.config == AUTO or (options.config is None and options.data is not None))
    if options.resume:
        config = _resumed(options)
    elif auto:
        config = PretrainConfig(model=preset("vatt-base"))  # whose other settings are chosen when the data are known
    elif options.config is None:
        config = recipe("sample-gpu" if on_gpu else "sample")
    elif options.config in RECIPES or not Path(options.config).suffix:
        config = recipe(options.config)
    else:
        values = load_config(Path(options.config))
        named = values.get("model", {}).get("name") if isinstance(values.get("model"), dict) else None
        base = PretrainConfig(model=preset(named)) if named in PRESETS else PretrainConfig()
        config = update(base, values) if named else from_dict(PretrainConfig, values)
    if options.model is not None:
        level, model = config.model.input.audio_level, preset(options.model)
        config = replace(config, model=replace(model, input=replace(model.input, audio_level=level)))
    data: dict[str, Any] = {}
    if options.data is not None:
        data = {"sources": options.data, "weights": options.weights or []}
    elif options.weights is not None:
        data = {"weights": options.weights}
    config = override(set_training_flags(config, options, **data), options.overrides)
    given = by_hand(options, data) if auto else {}
    return Job(config, options.out, options.resume, sample=not config.data.sources, auto=auto, given=given)


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
    folder = folder_to_resume(options)
    if options.config is not None:
        raise ConfigError("--resume takes the configuration of the run; leave --config out")
    if options.model is not None:
        raise ConfigError("--resume goes on with the model of the run; leave --model out")
    return from_dict(PretrainConfig, load_config(RunFolder.reopen(folder).config))
