"""The groups of a pack job while they are packed: tasks in processes of their own, what came of them, and the record
that each group leaves when its shards are done.

A group is locked by the job that packs it, and its finished pieces stay in a folder of its own, so that whoever is
stopped goes on there.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vatt.data.pack.plan import PackError, PackJob, Plan, PlannedSource, plan_pieces
from vatt.data.pack.sources import Source, changed
from vatt.data.pack.tasks import (
    CannotWrite,
    Fault,
    PieceTask,
    ProbeTask,
    ShardTask,
    Short,
    Task,
    piece_path,
    probed_path,
    run_task,
    short_path,
    write_durably,
)
from vatt.data.pack.transcode import Probed
from vatt.data.reading import is_lost, vanished
from vatt.data.shards.format import Shard
from vatt.data.skipped import Record
from vatt.isolated import Failed, run_isolated
from vatt.json_files import JSONError, read_json

WORK = ".pack"  # in the folder of the shards
_GRACE = 30.0  # seconds beyond its own limit after which a process is ended
_HASHED = 10e6  # bytes a second at which a slow disk gives a source
MOST_RECORD = 2**28  # bytes of what a group leaves: a line for each fault
KEPT = "what is packed so far stays: mend it and start the same command again"
Tell = Callable[[int, int, int], object]  # clips done, clips in all, faults so far
Say = Callable[[str], object]


@dataclass
class _Group:
    number: int
    folder: Path
    sources: dict[int, Source]
    lock: Any
    waiting: int  # sources that are not done


class Groups:
    """The groups of a job.

    Attributes:
        todo: those that are neither done nor begun.
        clips: of all groups of the job.
        done: clips of those that are finished, or found unusable.
        faults: records {file, field, reason} so far.
    """

    def __init__(self, job: PackJob, plan: Plan, sources: Sequence[PlannedSource], tell: Tell, say: Say) -> None:
        self.job, self.plan, self.sources, self.tell, self.say = job, plan, sources, tell, say
        self.folder = job.out / WORK
        place, count = job.share
        self.todo: deque[int] = deque(range(place - 1, len(plan.groups), count))
        self.open: dict[int, _Group] = {}
        self.tasks: deque[Task] = deque()
        self.of_task: dict[Any, _Group] = {}
        self.clips = sum(len(s.rows) for group in self.todo for s in self._sources(group))
        self.done = 0
        self.faults: list[Record] = []

    def _sources(self, group: int) -> Sequence[PlannedSource]:
        first, last = self.plan.range(group)
        return self.sources[first:last]

    def skip_done(self) -> None:
        """Leaves out the groups that are done; their sources must be as they were."""
        for group in list(self.todo):
            if not self.record(group).exists():
                continue
            self.todo.remove(group)
            shutil.rmtree(self.folder / f"{group:06d}", ignore_errors=True)  # of a start that was killed
            record = self.read_record(group)
            self.faults += record["faults"]
            self.done += sum(len(source.rows) for source in self._sources(group))
            for shard in record["shards"]:
                for name in (shard["file"], shard["lines"]):
                    if not (self.job.out / name).exists():
                        raise PackError(
                            f"{self.job.out / name}: is missing, though it was packed; remove "
                            f"{self.record(group)} to pack it again"
                        )
            for source in self._sources(group):
                seen = record["seen"].get(str(source.number))
                if seen is not None and (why := changed(source.path, seen)):
                    raise PackError(f"{source.path}: {why} since it was packed; choose another --out")

    def work(self) -> None:
        """Packs what is to do, but for groups that other jobs have."""
        finished: Iterator[tuple[Task, Any]] = run_isolated(
            run_task, self._next(), workers=self.job.workers, seconds=self._limit
        )
        try:
            for task, result in finished:
                if isinstance(result, Failed):
                    result = Fault("decode", result.reason)
                if isinstance(result, CannotWrite):
                    raise PackError(f"{result.reason}; {KEPT}")
                if isinstance(result, Fault) and not isinstance(task, ShardTask):
                    self._check_there(task.path, result.reason)
                self._take(task, result)
        finally:
            finished.close()  # type: ignore[attr-defined]
            for number, group in self.open.items():
                self._sweep(number)
                group.lock.close()

    def _check_there(self, path: Path, reason: str) -> None:
        """Raises Vanished: with a source all others have gone; it is not written down then that they cannot be read."""
        others = (source.path for source in self.sources[:: len(self.sources) // 20 + 1])
        if is_lost(path, reason) and not any(map(os.path.exists, others)):
            raise vanished(str(self.job.data), path)

    def _sweep(self, number: int) -> None:
        """Removes what processes that were killed have left half written of a group that is locked."""
        folder = self.folder / f"{number:06d}"
        for rest in (*folder.glob(".*.partly"), *self.job.out.glob(f".shard-{number:06d}[._]*.partly")):
            rest.unlink(missing_ok=True)

    def _limit(self, task: Task) -> float:
        if isinstance(task, PieceTask):
            return task.seconds + _GRACE
        if isinstance(task, ProbeTask):
            with suppress(OSError):
                return self.job.seconds + task.path.stat().st_size / _HASHED
            return self.job.seconds
        return 3600.0 + self.job.settings.shard_size / 1e6

    def _next(self) -> Iterator[Task | None]:
        """Tasks, so many groups at once that all processes have work."""
        while self.todo or self.tasks or self.open:
            while self.todo and len(self.tasks) < 2 * self.job.workers:
                self._begin(self.todo.popleft())
            if self.tasks:
                yield self.tasks.popleft()
            elif self.open:
                yield None

    def _begin(self, number: int) -> None:
        """Starts a group, with what an earlier start has left of it."""
        held = lock(self.folder / f"group-{number:06d}.lock")
        if held is None:
            return
        if self.record(number).exists():  # another job has just done it
            held.close()
            self.done += sum(len(source.rows) for source in self._sources(number))
            return
        folder = self.folder / f"{number:06d}"
        folder.mkdir(exist_ok=True)
        self._sweep(number)
        sources = {source.number: Source(source) for source in self._sources(number)}
        group = self.open[number] = _Group(number, folder, sources, held, len(sources))
        for source in sources.values():
            known = self._known(group, source)
            if known is None:
                planned = source.planned
                self._add(group, ProbeTask(planned.path, planned.kind, planned.number, folder))
            else:
                self._add_pieces(group, source, known)

    def _known(self, group: _Group, source: Source) -> Probed | None:
        """What an earlier start found out of a source, if it is still as it was then."""
        path = probed_path(group.folder, source.planned.number)
        try:
            known = Probed(**read_json(path, dict))
        except (OSError, ValueError, TypeError):
            return None
        if changed(source.planned.path, [known.size, known.changed, known.sha256]) is None:
            with suppress(OSError):
                return replace(known, changed=source.planned.path.stat().st_mtime_ns)
        self.say(f"{source.planned.path}: has changed, and is packed anew")
        for piece in group.folder.glob(f"{source.planned.number:08d}*"):
            piece.unlink()
        return None

    def _add(self, group: _Group, task: Task, soon: bool = False) -> None:
        self.of_task[task_key(task)] = group
        (self.tasks.appendleft if soon else self.tasks.append)(task)

    def _add_pieces(self, group: _Group, source: Source, probed: Probed) -> None:
        """Adds the pieces of a source that are not there yet."""
        job, planned = self.job, source.planned
        source.probed = probed
        source.pieces = plan_pieces(planned, probed.duration, job.settings)
        for piece in reversed(source.pieces):
            if piece_path(group.folder, planned.number, piece.number, planned.kind, job.settings).exists():
                if (short := short_path(group.folder, planned.number, piece.number)).exists():
                    source.short[piece.number] = Short(**read_json(short, dict))
                continue
            source.waiting += 1
            place = (planned.path, planned.kind, planned.number, group.folder, piece.number, piece.first, piece.frames)
            seen = (probed.size, probed.changed)
            self._add(group, PieceTask(*place, seen, job.settings, job.seconds), soon=True)
        if not source.waiting:
            self._source_done(group, source)

    def _take(self, task: Task, result: Any) -> None:
        """What came of a task, and what follows from it."""
        group = self.of_task.pop(task_key(task))
        if isinstance(task, ShardTask):
            if isinstance(result, Fault):
                raise PackError(f"{self.job.out}: shard of group {task.group}: {result.reason}; {KEPT}")
            self._group_done(group, result)
            return
        source = group.sources[task.number]
        if isinstance(task, ProbeTask):
            if isinstance(result, Fault):
                source.fault = result
                self._source_done(group, source)
            else:
                self._add_pieces(group, source, result)
            return
        if isinstance(result, Fault):
            source.failed[task.piece] = result
        elif isinstance(result, Short):
            source.short[task.piece] = result
        source.waiting -= 1
        if not source.waiting:
            self._source_done(group, source)

    def _source_done(self, group: _Group, source: Source) -> None:
        self.done += len(source.planned.rows)
        self.faults += source.rows_and_faults(self.job.settings)[1]
        self.tell(self.done, self.clips, len(self.faults))
        group.waiting -= 1
        if not group.waiting:
            lines = [line for one in group.sources.values() if (line := one.line(self.job.settings)) is not None]
            self._add(group, ShardTask(group.number, group.folder, self.job.out, lines, self.job.settings), soon=True)

    def _group_done(self, group: _Group, shards: list[Shard]) -> None:
        seen = {n: [s.probed.size, s.probed.changed, s.probed.sha256] for n, s in group.sources.items() if s.probed}
        faults = [
            record for source in group.sources.values() for record in source.rows_and_faults(self.job.settings)[1]
        ]
        record = {"shards": [asdict(shard) for shard in shards], "faults": faults, "seen": seen}
        write_durably(self.record(group.number), json.dumps(record))
        shutil.rmtree(group.folder, ignore_errors=True)
        group.lock.close()
        del self.open[group.number]

    def read_record(self, group: int) -> dict[str, Any]:
        """What `_group_done` wrote. Raises PackError: it cannot be read."""
        try:
            found: dict[str, Any] = read_json(self.record(group), dict, most=MOST_RECORD, surrogates=True)
        except (OSError, JSONError) as error:
            raise PackError(f"{error}; remove this file, and the group is packed again") from error
        return found

    def record(self, group: int) -> Path:
        """The file that a group leaves when it is done."""
        return self.folder / f"group-{group:06d}.json"


def task_key(task: Task) -> Any:
    """What tells tasks apart."""
    if isinstance(task, ShardTask):
        return ("shard", task.group)
    return (type(task), task.number, getattr(task, "piece", None))


def lock(path: Path, wait: bool = False) -> Any:
    """The open and locked file, or None if another process has it. Where files cannot be locked, all can have it."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        pass
    return file


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside, no other process is; waits for it."""
    file = lock(path, wait=True)
    try:
        yield
    finally:
        file.close()
