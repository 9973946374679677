"""The command line of a job: the flags that jobs share, and the way from its arguments to its exit status."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from train.config.sections import JobConfig
from train.core.nodes import check_versions
from train.core.ranks import RankContext, RankLost, rank_lost, start_distributed, stop_distributed, tell
from vatt.config import ConfigError
from vatt.errors import UserError

Config = TypeVar("Config", bound=JobConfig)
Asked = TypeVar("Asked")


@dataclass
class Job(Generic[Config]):
    """What a command line asks to train.

    With ``auto`` the rest of ``config`` is chosen when data and machine are known; ``given`` has the dotted settings
    that were set by hand.
    """

    config: Config
    out: Path | None  # folder of the run; None: a new one in runs/
    resume: bool
    sample: bool  # no data was given: use the built-in sample
    auto: bool = False
    given: dict[str, Any] = field(default_factory=dict)


def run_job(arguments: list[str], parse: Callable[[list[str]], Asked], run: Callable[[Asked, RankContext], int]) -> int:
    """Parses a command line, joins the other ranks, runs the job and leaves them; returns the exit status.

    What a user can mend is told in one line, once for all ranks that meet it, and the status is 1 (130 after an
    interrupt). Anything else is a fault of ours, and is raised.

    Args:
        parse: gives what ``run`` takes, with an attribute ``out``.
    """
    asked: Asked | None = None
    try:
        asked = parse(arguments)
        context = start_distributed()
        check_versions(context)
        code = run(asked, context)
        stop_distributed()
        return code
    except RankLost as error:
        return _failed(f"{error}{_how_to_go_on(asked)}", once=True)
    except UserError as error:
        return _failed(str(error))
    except OSError as error:  # a full disk names no file
        where = error.filename or getattr(asked, "out", None) or "the folder of the run"
        return _failed(f"{where}: {error.strerror or error}")
    except RuntimeError as error:
        if (lost := rank_lost(error)) is None:
            raise
        return _failed(f"{lost}{_how_to_go_on(asked)}", once=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return 130


def _how_to_go_on(asked: object) -> str:
    return "; the newest checkpoint is whole: go on with --resume" if isinstance(asked, Job) else ""


def _failed(message: str, once: bool = False) -> int:
    tell(message, once)
    return 1


def leave(code: int) -> NoReturn:
    """Ends the process of a job at once.

    Threads of the communication library may outlive the interpreter's own end and abort it (one run in eight with two
    ranks). All files are closed and all workers ended by now, so nothing is lost.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Parser(argparse.ArgumentParser):
    """Names the nearest flag when one is unknown; one rank speaks for all that were started alike."""

    def error(self, message: str) -> NoReturn:
        for word in message.split():
            if word.startswith("--"):
                known = [option for action in self._actions for option in action.option_strings]
                if near := difflib.get_close_matches(word.partition("=")[0], known, n=1):
                    message += f"; did you mean {near[0]}?"
        tell(f"{message}\n{self.format_usage().rstrip()}")
        sys.exit(2)


def add_local_rank(parser: argparse.ArgumentParser) -> None:
    """The flag that the DeepSpeed launcher adds to every command."""
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every training job, and its overrides."""
    add = parser.add_argument
    add("--steps", type=int, help="length of the run")
    add("--batch-size", type=int, help="clips of a step, over all ranks")
    add("--zero", type=int, choices=(0, 1, 2, 3), help="ZeRO stage")
    add("--out", type=Path, metavar="DIR", help="folder of the run (default: a new one in runs/)")
    add("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    add_local_rank(parser)
    add("overrides", nargs="*", metavar="section.field=value")


def set_training_flags(config: Config, options: argparse.Namespace, **data: Any) -> Config:
    """The configuration with the flags of `add_training_flags` over it, and ``data`` over its section of that name.

    Raises:
        ConfigError: a value that the section does not take.
    """
    run = {name: value for name in ("steps", "batch_size") if (value := getattr(options, name)) is not None}
    engine = {} if options.zero is None else {"zero": options.zero}
    if (own := getattr(options, "deepspeed_config", None)) is not None:
        engine["deepspeed"] = own
    try:
        sections = {
            "data": replace(config.data, **data),
            "run": replace(config.run, **run),
            "engine": replace(config.engine, **engine),
        }
        return replace(config, **sections)  # type: ignore[type-var]
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def folder_to_resume(options: argparse.Namespace) -> Path:
    """The folder of ``--resume``. Raises ConfigError without ``--out``."""
    if options.out is None:
        raise ConfigError("--resume needs --out, the folder of the run to go on with")
    return options.out


def positive(text: str) -> int:
    """1 or more. argparse turns the ValueError of this and the next into a message that names the flag."""
    if (value := int(text)) < 1:
        raise ValueError
    return value


def not_negative(text: str) -> int:
    """0 or more."""
    if (value := int(text)) < 0:
        raise ValueError
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    if not 0 <= (value := float(text)) <= 1:
        raise ValueError
    return value
