"""The command line of pretraining: a few flags, a configuration file, and dotted overrides for all else."""

from __future__ import annotations

import argparse
import difflib
from dataclasses import dataclass, replace
from pathlib import Path

from train.config.pretraining import RECIPES, PretrainConfig, recipe
from vatt.config import ConfigError, from_dict, load, override, update
from vatt.presets import PRESETS, preset


@dataclass
class Job:
    """What the command line asks for. ``out`` is None for a fresh default folder."""

    config: PretrainConfig
    out: Path | None
    resume: bool
    sample: bool  # no data was given: use the built-in sample


class Parser(argparse.ArgumentParser):
    """Names the nearest flag when one is unknown."""

    def error(self, message: str) -> None:  # type: ignore[override]
        for word in message.split():
            if word.startswith("--"):
                known = [option for action in self._actions for option in action.option_strings]
                if near := difflib.get_close_matches(word.partition("=")[0], known, n=1):
                    message += f"; did you mean {near[0]}?"
        super().error(message)


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
        "All fields are in train/config/pretraining.py, and in the config.json of a run.",
    )
    add = made.add_argument
    add("--data", action="append", metavar="PATH", help="folder of videos, or manifest (.csv, .jsonl); may be repeated")
    add("--weights", type=_numbers, metavar="W,W", help="share of each --data in the mixture (default: equal)")
    add("--model", help=f"one of {', '.join(PRESETS)}")
    add("--zero", type=int, choices=(0, 1, 2, 3), help="ZeRO stage")
    add("--steps", type=int, help="length of the run")
    add("--batch-size", type=int, help="clips of a step, over all ranks")
    add("--out", type=Path, metavar="DIR", help="folder of the run (default: a new one in runs/)")
    add("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    add("--config", metavar="NAME", help=f"{', '.join(RECIPES)}, or a .json or .toml file")
    add("--deepspeed-config", metavar="FILE", help="DeepSpeed JSON whose entries go over the generated ones")
    add("--local_rank", type=int, help=argparse.SUPPRESS)  # the DeepSpeed launcher adds it
    add("overrides", nargs="*", metavar="section.field=value")
    return made


def parse(arguments: list[str], on_gpu: bool) -> Job:
    """The job that the arguments describe.

    Order of precedence: overrides, flags, the configuration file or recipe, defaults. A resumed run takes the
    configuration that it began with.

    Raises:
        ConfigError: a key, name or value that is not valid; the message holds the nearest valid one.
    """
    options = parser().parse_intermixed_args(arguments)  # overrides may stand anywhere
    if options.resume:
        config = _resumed(options)
    elif options.config is None:
        config = recipe("paper" if options.data else "sample-gpu" if on_gpu else "sample")
    elif options.config in RECIPES or not Path(options.config).suffix:
        config = recipe(options.config)
    else:
        values = load(options.config)
        named = values.get("model", {}).get("name") if isinstance(values.get("model"), dict) else None
        base = PretrainConfig(model=preset(named)) if named in PRESETS else PretrainConfig()
        config = update(base, values) if named else from_dict(PretrainConfig, values)
    return _with_flags(config, options)


def _resumed(options: argparse.Namespace) -> PretrainConfig:
    if options.out is None:
        raise ConfigError("--resume needs --out, the folder of the run to go on with")
    if options.config is not None:
        raise ConfigError("--resume takes the configuration of the run; leave --config out")
    if options.model is not None:
        raise ConfigError("--resume goes on with the model of the run; leave --model out")
    return from_dict(PretrainConfig, load(options.out / "config.json"))


def _with_flags(config: PretrainConfig, options: argparse.Namespace) -> Job:
    data, run, engine = config.data, config.run, config.engine
    try:
        if options.model is not None:
            config = replace(config, model=preset(options.model))
        if options.data is not None:
            data = replace(data, sources=options.data, weights=options.weights or [])
        elif options.weights is not None:
            data = replace(data, weights=options.weights)
        for flag, name in (("steps", "steps"), ("batch_size", "batch_size")):
            if (value := getattr(options, flag)) is not None:
                run = replace(run, **{name: value})
        if options.zero is not None:
            engine = replace(engine, zero=options.zero)
        if options.deepspeed_config is not None:
            engine = replace(engine, deepspeed=options.deepspeed_config)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    config = override(replace(config, data=data, run=run, engine=engine), options.overrides)
    return Job(config, options.out, options.resume, sample=not config.data.sources)
