"""The command line of a job: the flags that jobs share, and the way from its arguments to its exit status."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from train.config.sections import JobConfig
from train.core import supervisor
from train.core.nodes import check_versions
from train.core.ranks import RankContext, RankLost, rank_lost, start_distributed, stop_distributed, tell
from train.core.run_folder import RunFolder
from train.core.run_lock import release_all
from vatt import signals
from vatt.cli.jobs import COMMAND
from vatt.config import ConfigError
from vatt.errors import UserError

CHECKPOINT, AUTO = "checkpoint", "auto"  # the values of --resume

Config = TypeVar("Config", bound=JobConfig)
Asked = TypeVar("Asked")


@dataclass
class Job(Generic[Config]):
    """What a command line asks to train.

    With ``auto`` the rest of ``config`` is chosen when data and machine are known; ``given`` has the dotted settings
    that were set by hand.

    Attributes:
        began: the settings that a run which goes on has had so far.
        restart: a run without a checkpoint may be there, and is started again.
        allow_changes: go on although settings or data differ from what they were.
    """

    config: Config
    out: Path | None  # folder of the run; None: a new one in runs/
    resume: bool
    sample: bool  # no data was given: use the built-in sample
    auto: bool = False
    given: dict[str, Any] = field(default_factory=dict)
    began: dict[str, Any] = field(default_factory=dict)
    restart: bool = False
    allow_changes: bool = False


def run_job(arguments: list[str], parse: Callable[[list[str]], Asked], run: Callable[[Asked, RankContext], int]) -> int:
    """Parses a command line, joins the other ranks, runs the job and leaves them; returns the exit status.

    What a user can mend is told in one line, once for all ranks that meet it, and the status is 1. A signal that ends
    the job is told alike; the status is 130 after an interrupt, 143 after SIGTERM, 129 after SIGHUP. Anything else is a
    fault of ours, and is raised.

    Args:
        parse: gives what ``run`` takes, with an attribute ``out``.
    """
    with signals.ending():
        try:
            return _run(arguments, parse, run)
        finally:
            release_all()


def _run(arguments: list[str], parse: Callable[[list[str]], Asked], run: Callable[[Asked, RankContext], int]) -> int:
    asked: Asked | None = None
    try:
        asked = parse(arguments)
        context = start_distributed()
        check_versions(context)
        code = run(asked, context)
        stop_distributed()
        return code
    except RankLost as error:
        return _lost(error, asked)
    except UserError as error:
        return _failed(str(error))
    except OSError as error:  # a full disk names no file
        where = error.filename or getattr(asked, "out", None) or "the folder of the run"
        return _failed(f"{where}: {error.strerror or error}")
    except RuntimeError as error:
        if (lost := rank_lost(error)) is None:
            raise
        return _lost(lost, asked)
    except KeyboardInterrupt as error:
        status = signals.status_of(error)
        tell(signals.in_words(status - 128), once=True, kind="")
        return status


def _lost(error: RankLost, asked: object) -> int:
    """The status of a rank that another one left; where that was told to end, so was the job."""
    for number in signals.ENDING:
        if str(error).endswith(signals.in_words(number)):
            return 128 + number
    return _failed(f"{error}{_how_to_go_on(asked)}", once=True)


def _how_to_go_on(asked: object) -> str:
    return "; the newest checkpoint is whole: go on with --resume" if isinstance(asked, Job) else ""


def _failed(message: str, once: bool = False) -> int:
    tell(message, once)
    return 1


def run_script(main: Callable[[list[str]], int]) -> NoReturn:
    """Runs the ``main`` of a script on the arguments of its command line, and ends the process however that ends."""
    try:
        code = main(sys.argv[1:])
    except SystemExit as error:  # argparse
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    leave(code)


def leave(code: int) -> NoReturn:
    """Ends the process of a job at once, and tells its supervisor how.

    Threads of the communication library may outlive the interpreter's own end and abort it (one run in eight with two
    ranks). All files are closed and all workers ended by now, so nothing is lost.
    """
    with suppress(OSError):  # nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
    supervisor.end(code)
    os._exit(code)


class Parser(argparse.ArgumentParser):
    """Names the nearest flag when one is unknown; one rank speaks for all that were started alike."""

    def __init__(self, *, prog: str | None = None, **options: Any) -> None:
        super().__init__(prog=os.environ.get(COMMAND) or prog, **options)

    def error(self, message: str) -> NoReturn:
        for word in message.split():
            flag = word.partition("=")[0].rstrip(":,")
            known = [option for action in self._actions for option in action.option_strings]
            if flag.startswith("--") and flag not in known:
                if near := difflib.get_close_matches(flag, known, n=1):
                    message += f"; did you mean {near[0]}?"
                message += "; settings have no dashes: section.name=value (docs/settings.md)"
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
    add(
        "--resume",
        nargs="?",
        const=CHECKPOINT,
        choices=(CHECKPOINT, AUTO),
        metavar=AUTO,
        help=f"go on from the newest checkpoint in --out; {AUTO}: or start, where there is no run yet",
    )
    add("--allow-changes", action="store_true", help="go on although settings or data differ from those of the run")
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


def separate_resume(arguments: list[str]) -> list[str]:
    """``--resume`` with its value, if that follows: any other word that follows is an override."""
    found: list[str] = []
    for word in arguments:
        if found[-1:] == ["--resume"]:
            found[-1] = f"--resume={AUTO if word == AUTO else CHECKPOINT}"
            if word == AUTO:
                continue
        found.append(word)
    return found


def resumes(options: argparse.Namespace) -> bool:
    """Whether a command line goes on with a run, by ``--resume`` and what is in ``--out``.

    Raises:
        ConfigError: ``--out`` is missing; or with ``--resume auto`` a run can neither go on there nor start.
    """
    if options.resume is None:
        if options.allow_changes:
            raise ConfigError("--allow-changes is for a run that goes on: add --resume")
        return False
    if options.out is None:
        raise ConfigError("--resume needs --out, the folder of the run to go on with")
    return options.resume == CHECKPOINT or RunFolder.can_resume(options.out)


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
