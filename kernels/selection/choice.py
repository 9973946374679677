"""Chooses the backends of a model on a device: each is checked, those that are right are timed, the fastest is taken.

    problems -> candidates -> check (at a small size) -> time (at the problem's own) -> decision -> registry, cache

Nothing here knows a model: `registry.listening` tells which problems it has. An `Examiner` checks and times a backend;
`Here` does it in this process, and a caller may bring one that works in others, which a kernel that hangs or loses the
device does not take along. What has no time within the budget is left for the next start, and the cache keeps the rest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, Protocol, TypeVar

import torch

from ..cpu import refuse_cpu
from ..dropout import draw_seed
from ..registry import BackendError, Problem, decide, exclude, explain_call
from ..timing import TooLong, free_buffers, limited, reason, sample
from . import checking, problems

SECONDS = 30.0  # in all
CHECK_SHARE = 0.7  # of them; the rest is for times
LIMIT = 20.0  # of one check, with compilation; and of one backend's times
MOST_STARTS = 3  # that use up their time on one backend; Triton keeps what it compiled, so the next needs less
MEASURED = 0.006  # seconds of calls for a time

_OVERRAN = "ran out of time"
Result = TypeVar("Result")
State = Literal["timed", "refused", "failed", "no memory", "no time"]
# What costs most comes first. Dense attention is only used for its weights.
_IMPORTANCE = (
    *("packed_attention", "patch_embed", "nce", "mlp", "layer_norm", "dense_gelu", "rms_norm", "frames_to_patches"),
    "attention",
)


@dataclass(frozen=True)
class Verdict:
    """Of one backend for one problem: the milliseconds of a call, or why there are none. ``starts``: how many used up
    their time on it."""

    state: State
    ms: float | None = None
    why: str = ""
    starts: int = 0


@dataclass(frozen=True)
class Decision:
    """What "auto" takes for a problem, and the verdict on each backend."""

    problem: Problem
    backend: str
    verdicts: Mapping[str, Verdict]

    @property
    def complete(self) -> bool:
        """Whether no backend still waits for its turn."""
        return all(verdict.state != "no time" for verdict in self.verdicts.values())


class NotExamined(Exception):
    """An examiner could not do its work, which says nothing about the backend."""


class Examiner(Protocol):
    """Checks and times one backend at a time, or ``workers`` checks at once from as many threads."""

    workers: int

    def prepare(self, limit: float) -> None:
        """Does within ``limit`` seconds what is to be done once."""

    def check(self, problem: Problem, backend: str, limit: float) -> None:
        """Raises whatever is wrong with it; TooLong after ``limit`` seconds; NotExamined."""

    def time(self, problem: Problem, backend: str, limit: float) -> float:
        """Milliseconds of a call. Raises as `check`."""


class Here:
    """Checks and times in this process, one after the other."""

    workers = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, limit: float) -> None:
        pass

    def check(self, problem: Problem, backend: str, limit: float) -> None:
        with self._within(limit):
            checking.check(problem, backend, self.device)

    def time(self, problem: Problem, backend: str, limit: float) -> float:
        with self._within(limit):
            return milliseconds(problem, backend, self.device)

    @contextmanager
    def _within(self, limit: float) -> Iterator[None]:
        """Leaves no trace: neither in the random numbers of a run nor in the memory of its device."""
        cuda = self.device.type == "cuda"
        with torch.random.fork_rng([self.device] if cuda else []), limited(limit):
            try:
                yield
            finally:
                free_buffers()
                if cuda:
                    torch.cuda.empty_cache()


def milliseconds(problem: Problem, backend: str, device: torch.device) -> float:
    """The median time of a call as training makes it: forward and, where a gradient is asked for, backward. Compilation
    comes before and is not measured."""
    made = problems.inputs(problem, device)
    p = float(dict(problem.facts).get("dropout", 0.0))
    # As the models: what only plain operations can run on a CPU draws its masks from PyTorch's generator.
    plain = device.type == "cpu" and bool(refuse_cpu(problem.call(device)))
    seed = draw_seed(device) if p > 0 and not plain else None
    found = made.call(made.leaves | made.fixed, backend, p, seed)
    outputs = found if isinstance(found, tuple) else (found,)
    leaves = [x.requires_grad_() for x in made.leaves.values()]
    grads = [torch.randn_like(out) for out in outputs] if leaves else []

    def call() -> None:
        found = made.call(made.leaves | made.fixed, backend, p, seed)
        if leaves:
            torch.autograd.grad(found if isinstance(found, tuple) else (found,), leaves, grads, allow_unused=True)

    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return statistics.median(sample(call, device, MEASURED)[0])


@dataclass
class Selection:
    """Decisions on a device."""

    decisions: list[Decision] = field(default_factory=list)

    def install(self, device: torch.device) -> None:
        """From now on "auto" follows the decisions; a backend that failed somewhere is not taken for other problems."""
        for decision in self.decisions:
            try:
                decide(device, decision.problem, decision.backend)
            except BackendError:  # of another tree, or of a script that registered it
                continue
            for backend, verdict in decision.verdicts.items():
                if verdict.state == "failed":
                    exclude(device, decision.problem.op, backend)

    def of(self, problem: Problem) -> Decision | None:
        return next((decision for decision in self.decisions if decision.problem == problem), None)

    def merged(self, newer: Selection) -> Selection:
        """With the decisions of ``newer``, which replace those for the same problems."""
        theirs = {decision.problem for decision in newer.decisions}
        return Selection([d for d in self.decisions if d.problem not in theirs] + newer.decisions)

    def lines(self) -> Iterator[str]:
        """A line an operation: its problems, each with the times of its backends, the fastest first."""
        for op in sorted({decision.problem.op for decision in self.decisions}, key=_importance):
            parts = []
            for decision in self.decisions:
                if decision.problem.op == op:
                    timed = [(v.ms, name) for name, v in decision.verdicts.items() if v.ms is not None]
                    times = ", ".join(f"{name} {ms:.3g} ms" for ms, name in sorted(timed))
                    parts.append(f"{problems.words(decision.problem)}: {times or f'{decision.backend}, not timed'}")
            yield f"{op.removeprefix('packed_')}: {'; '.join(parts)}"

    def failures(self) -> dict[tuple[str, str], str]:
        """(operation, backend) -> what was wrong with it."""
        return {
            (decision.problem.op, name): f"{problems.words(decision.problem)}: {verdict.why}"
            for decision in self.decisions
            for name, verdict in decision.verdicts.items()
            if verdict.state == "failed"
        }

    def unfinished(self) -> dict[tuple[str, str], str]:
        """(operation, backend) that had no time, and why if that is known."""
        return {
            (d.problem.op, name): v.why
            for d in self.decisions
            for name, v in d.verdicts.items()
            if v.state == "no time"
        }


def select_backends(
    wanted: Iterable[Problem],
    device: torch.device,
    *,
    known: Selection | None = None,
    examiner: Callable[[], Examiner] | None = None,
    seconds: float = SECONDS,
) -> Selection:
    """A decision for each problem, once each. What ``known`` decided is taken from it, but for backends that it does
    not know or had no time for.

    Args:
        examiner: made only if something is to be examined; None: `Here`.
        seconds: the budget. What did not fit has the verdict "no time".
    """
    order = sorted(dict.fromkeys(problem for problem in wanted if problems.knows(problem.op)), key=_weight)
    verdicts: dict[Problem, dict[str, Verdict]] = {}
    tasks: list[tuple[Problem, str]] = []
    for problem in order:
        before = None if known is None else known.of(problem)
        verdicts[problem] = {}
        for row in explain_call(problem.op, problem.call(device)):
            old = before.verdicts.get(row.backend) if before else None
            if row.reasons:
                verdicts[problem][row.backend] = Verdict("refused", why="; ".join(row.reasons))
            elif old is None or old.state in ("no time", "refused"):
                tasks.append((problem, row.backend))
                verdicts[problem][row.backend] = Verdict("no time")
            else:
                verdicts[problem][row.backend] = old
    if tasks:
        _examine(tasks, verdicts, (examiner or (lambda: Here(device)))(), time.monotonic(), seconds)
    for problem, backend in tasks:
        verdict, before = verdicts[problem][backend], None if known is None else known.of(problem)
        if verdict.why == _OVERRAN:
            old = before.verdicts.get(backend) if before else None
            starts = 1 + (old.starts if old else 0)
            given_up = Verdict("failed", why=f"did not end in {starts} starts")
            verdicts[problem][backend] = given_up if starts >= MOST_STARTS else replace(verdict, starts=starts)
    return Selection([Decision(problem, _choose(found), found) for problem, found in verdicts.items()])


def _examine(
    tasks: list[tuple[Problem, str]],
    verdicts: dict[Problem, dict[str, Verdict]],
    examiner: Examiner,
    began: float,
    seconds: float,
) -> None:
    """Checks all, then times those that are right: not side by side, and never before all compilers are done."""

    examiner.prepare(CHECK_SHARE * seconds)

    def check(task: tuple[Problem, str]) -> Verdict | None:
        return _attempt(lambda limit: examiner.check(*task, limit), began + CHECK_SHARE * seconds)

    if examiner.workers == 1:  # in the main thread, where a limit can interrupt
        outcomes = [check(task) for task in tasks]
    else:
        with ThreadPoolExecutor(examiner.workers) as pool:
            outcomes = list(pool.map(check, tasks))
    for (problem, backend), outcome in zip(tasks, outcomes, strict=True):
        if outcome is None:
            time_it = partial(examiner.time, problem, backend)
            found = _attempt(time_it, began + seconds)
            outcome = found if isinstance(found, Verdict) else Verdict("timed", found)
        verdicts[problem][backend] = outcome


def _attempt(do: Callable[[float], Result], until: float) -> Result | Verdict:
    """What ``do`` gives within its limit and before ``until``, or the verdict that it does not."""
    left = min(LIMIT, until - time.monotonic())
    if left <= 0:
        return Verdict("no time")
    try:
        return do(left)
    except NotExamined as error:
        return Verdict("no time", why=str(error))
    except TooLong as error:
        return Verdict("failed", why=reason(error)) if left == LIMIT else Verdict("no time", why=_OVERRAN)
    except torch.OutOfMemoryError as error:  # which says nothing about smaller problems
        return Verdict("no memory", why=reason(error))
    except Exception as error:  # whatever a compiler, a driver or a missing package raises is the verdict
        return Verdict("failed", why=reason(error))


def _choose(verdicts: Mapping[str, Verdict]) -> str:
    """The fastest that was right; where none was timed, the first that nothing speaks against, then the first that had
    no memory, which the reference needs most of; else the reference."""
    timed = [(verdict.ms, name) for name, verdict in verdicts.items() if verdict.ms is not None]
    if timed:
        return min(timed)[1]
    open_to = [name for state in ("no time", "no memory") for name, v in verdicts.items() if v.state == state]
    return open_to[0] if open_to else checking.REFERENCE


def _importance(op: str) -> int:
    return _IMPORTANCE.index(op) if op in _IMPORTANCE else len(_IMPORTANCE)


def _weight(problem: Problem) -> tuple[int, float]:
    """What sorts the most expensive problems first."""
    facts = dict(problem.facts)
    size = sum([share * length**2 for share, length, _ in facts.get("sequences", ())]) or facts.get("width", 1)
    return _importance(problem.op), -float(size * problem.count)
