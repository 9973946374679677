"""What is asked of the jobs, and how much of it each size measures."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from bench.measure.timing import device_and_size
from vatt.config import nearest
from vatt.environment import cores
from vatt.errors import UserError
from vatt.memory import available_gib
from vatt.presets import PRESETS, preset

JOBS = {
    "pretrain": "training steps on random inputs: presets, rates of DropToken, batches doubling until memory ends",
    "train": "``deepspeed train/pretrain.py`` on the built-in sample, as it records itself",
    "loader": "clips a second of reading, and the share of time that a model's steps wait for it",
    "embed": "clips a second from files to embeddings",
    "loss_memory": "the contrastive loss against the batch",
    "decode": "clips a second of reading on one core, from files and shards, beside other decoders; targets",
}
DROPS = (50, 0, 25, 75)  # % of the patches that DropToken drops; what the models are configured for comes first
GIB = 2**30


class JobError(UserError, ValueError):
    """A request that cannot be met; the message names the option."""


def doubling(first: int, last: int) -> tuple[int, ...]:
    """first, 2 * first, ... up to ``last``."""
    return (first, *(doubling(2 * first, last) if 2 * first <= last else ()))


@dataclass(frozen=True)
class Sweep:
    """Batches of a model from ``first``, doubling up to ``last`` or until memory ends. ``full``: at every rate of
    DropToken; else the other rates at the first batch alone."""

    model: str
    first: int
    last: int
    full: bool = True


@dataclass(frozen=True)
class Size:
    """How much of each job is measured.

    ``model`` and ``batch``: of train, loader and embed; ``seconds``: for the steps of one case, at least ``fewest`` of
    them; ``clips``: files that are written to be read; ``losses``: first and last batch
    of the contrastive loss; ``steps``, ``log``: of the training command; ``limit``: seconds for a process, after which
    it is ended.
    """

    sweeps: tuple[Sweep, ...]
    model: str
    batch: int
    fewest: int
    seconds: float
    clips: int
    losses: tuple[int, int]
    steps: int
    log: int
    limit: float


# As many clips at once as the largest GPU so far could hold (B200, 180 GB) of the smaller models, and then some.
_MOST = 2048
_REAL = tuple(name for name in PRESETS if not name.endswith(("tiny", "small")))
SIZES = {
    "tiny": Size((Sweep("vatt-tiny", 2, 4, full=False),), "vatt-tiny", 4, 2, 0.0, 8, (64, 128), 4, 1, 120.0),
    "cpu": Size(
        (Sweep("vatt-tiny", 4, 32), Sweep("vatt-base", 1, 2, full=False)),
        *("vatt-tiny", 16, 3, 2.0, 48, (64, 4096), 20, 5, 900.0),
    ),
    "gpu": Size(
        tuple(Sweep(name, 8, _MOST) for name in _REAL if not name.startswith("mmv")),  # by --model alone
        *("vatt-base", 64, 5, 2.0, 96, (64, 32768), 40, 5, 600.0),
    ),
}


def _option(words: str, default: Any = None, **argument: Any) -> Any:
    """A field of `Options` and how the command line asks for it (arguments of `argparse`)."""
    return field(default=default, metadata=dict(help=words, **argument))


@dataclass(frozen=True)
class Options:
    """What to measure; the help of the command line says what each field is. None stands for what the size says.

    Raises:
        JobError: a value that cannot be; the message names the option.
    """

    device: str = _option("default: a GPU where there is one", choices=("cpu", "cuda"))
    size: str = _option("how much; default: that of the device", choices=tuple(SIZES))
    only: tuple[str, ...] = _option("default: all", tuple(JOBS), nargs="+", choices=tuple(JOBS))
    models: tuple[str, ...] | None = _option("presets; default: of the size", flag="--model", nargs="+", metavar="NAME")
    batches: tuple[int, ...] | None = _option(
        "clips a step, of loss_memory videos; default: of the size", flag="--batch", nargs="+", type=int, metavar="N"
    )
    drops: tuple[int, ...] | None = _option(
        "of patches, by DropToken; default: 50 0 25 75", flag="--drop", nargs="+", type=int, metavar="PERCENT"
    )
    backend: str = _option("of our operations; default: auto", "auto", choices=("auto", "triton", "torch"))
    seconds: float | None = _option("for the steps of one case; default: of the size", type=float, metavar="S")
    limit: float | None = _option("for one process, then ended; default: of the size", type=float, metavar="S")
    threads: int | None = _option("of PyTorch on a CPU; default: the cores of this process", type=int, metavar="N")
    memory_gib: float | None = _option(
        "a process may hold on a CPU; default: 60%% of what is available", type=float, metavar="GIB"
    )

    def __post_init__(self) -> None:
        for name in self.models or ():
            if name not in PRESETS:
                raise JobError(f"--model {name}: unknown model {name!r}; {nearest(name, PRESETS)}")
        for option, values in (("--batch", self.batches or ()), ("--threads", (self.threads,))):
            for value in values:
                if value is not None and value < 1:
                    raise JobError(f"{option} {value}: must be 1 or more")
        for drop in self.drops or ():
            if not 0 <= drop < 100:
                raise JobError(f"--drop {drop}: is not a percentage from 0 to 99")
        for option, number in (("--memory-gib", self.memory_gib), ("--limit", self.limit), ("--seconds", self.seconds)):
            if number is not None and not number > 0:
                raise JobError(f"{option} {number:g}: must be above 0")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Options:
        """From JSON or a command line, where tuples are lists."""
        changed: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**changed)

    @property
    def amount(self) -> Size:
        return SIZES[self.size]

    @property
    def tiny(self) -> bool:
        return self.size == "tiny"

    @property
    def budget(self) -> float:
        """Seconds for the steps of one case."""
        return self.amount.seconds if self.seconds is None else self.seconds

    @property
    def end(self) -> float:
        """Seconds for one process."""
        return self.amount.limit if self.limit is None else self.limit

    @property
    def cores(self) -> int:
        """Threads of PyTorch, and processes that read. One for the tiny size: two that share their cores with other
        work wait for each other, a smoke test up to fifty times longer."""
        return self.threads or (1 if self.tiny else cores())

    def sweeps(self) -> tuple[Sweep, ...]:
        """Of pretrain: those of the size, or of the presets that were asked for."""
        if self.models is None:
            return self.amount.sweeps
        known = {sweep.model: sweep for sweep in self.amount.sweeps}
        return tuple(known.get(name, replace(self.amount.sweeps[0], model=name)) for name in self.models)

    def cases(self, sweep: Sweep) -> list[tuple[int, tuple[int, ...]]]:
        """(drop in %, batches in rising order), in the order of measuring."""
        batches, first = self.batches or doubling(sweep.first, sweep.last), self.batches or (sweep.first,)
        if preset(sweep.model).backbone == "convolutional":  # drops nothing
            return [(0, batches)]
        return [(drop, batches if sweep.full or drop == DROPS[0] else first) for drop in self.drops or DROPS]

    def reading(self) -> list[tuple[str, int]]:
        """(preset, clips a batch) of train, loader and embed."""
        batches = self.batches or (self.amount.batch,)
        return [(name, batch) for name in self.models or (self.amount.model,) for batch in batches]


def parse(argv: Sequence[str], doc: str | None = None) -> tuple[Options, Path | None]:
    """Options and results file. Raises UserError for a value that cannot be."""
    parser = argparse.ArgumentParser(
        "python -m bench jobs",
        description=f"{doc}\n\n" + "\n".join(f"{name:<12} {words}" for name, words in JOBS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    for option in fields(Options):
        argument = dict(option.metadata)
        parser.add_argument(argument.pop("flag", f"--{option.name.replace('_', '-')}"), dest=option.name, **argument)
    parser.add_argument("--results", type=Path, metavar="FILE.csv", help="append the rows; default: print only")
    given = vars(parser.parse_args(argv))
    results = given.pop("results", None)
    given["device"], given["size"] = device_and_size(given.get("device"), given.get("size"))
    if given["device"] == "cpu":
        given.setdefault("memory_gib", available_gib(0.6))
    return Options.of(given), results
