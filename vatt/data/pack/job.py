"""A pack job: makes the shards of its share of the groups, from where an earlier start was stopped, in many processes.

In the folder of the shards, ``.pack/`` keeps the plan, a folder for each group that is being packed, with its finished
pieces, and a record for each group that is done. Several jobs may work in one folder: a group is locked by the job that
packs it. The one that finds all groups done writes faults.jsonl and, last, index.json.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vatt.data.manifest import read_clips
from vatt.data.pack.plan import (
    PackError,
    Plan,
    PlannedSource,
    data_digest,
    make_plan,
    plan_pieces,
    plan_sources,
    read_plan,
)
from vatt.data.pack.sources import Source, changed, seconds_a_byte
from vatt.data.pack.tasks import (
    Fault,
    PieceTask,
    ProbeTask,
    ShardTask,
    Short,
    Stopped,
    Task,
    piece_path,
    probed_path,
    run_task,
    short_path,
    whole_file,
)
from vatt.data.pack.transcode import Probed
from vatt.data.shards.dataset import is_shards
from vatt.data.shards.format import FAULTS, INDEX, Index, Settings, Shard, read_index
from vatt.data.skipped import Record
from vatt.data.splits import choose_split
from vatt.files import json_line
from vatt.isolated import Failed, run_isolated

WORK = ".pack"  # in the folder of the shards
_GRACE = 30.0  # seconds beyond its own limit after which a process is ended
_PROCESSES = 8  # a core: more only take memory, from which a machine may not recover
_HASHED = 10e6  # bytes a second at which a slow disk gives a source
Tell = Callable[[int, int, int], object]  # clips done, clips in all, faults so far
Say = Callable[[str], object]


@dataclass(frozen=True)
class PackJob:
    """What is asked for.

    Attributes:
        data: manifest or folder.
        share: (i, n): the i-th of n jobs that divide the groups, from 1.
        seconds: for one piece.
        split: only rows of this split, see `vatt.data.splits`; None: all.
    """

    data: Path
    out: Path
    settings: Settings
    workers: int = 2
    share: tuple[int, int] = (1, 1)
    seconds: float = 600.0
    split: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise PackError(f"--seconds: must be above 0, got {self.seconds:g}")
        most = _PROCESSES * (os.cpu_count() or 1)
        if not 1 <= self.workers <= most:
            raise PackError(f"--jobs: must be from 1 to {most} on this machine, got {self.workers}")
        if not 1 <= self.share[0] <= self.share[1]:
            raise PackError(f"--shard-of {self.share[0]}/{self.share[1]}: must be i/n with i from 1 to n")


@dataclass(frozen=True)
class PackResult:
    """How a job ended.

    Attributes:
        index: where all shards are done; None: other jobs have not finished theirs.
        clips: of this start.
        faults: of the job's groups.
        left: groups of other jobs that are not done.
        again: whether nothing was left to do.
    """

    index: Index | None
    clips: int
    faults: list[Record]
    left: int
    again: bool = False


def pack(job: PackJob, tell: Tell = lambda done, total, faults: None, say: Say = lambda words: None) -> PackResult:
    """Packs what is not packed yet.

    Raises:
        ManifestError: the data set cannot be read.
        PackError: the folder holds something else, a source has changed since it was packed, or nothing can be written.
    """
    if is_shards(job.data):
        raise PackError(f"{job.data}: holds shards, which are packed already; give the manifest or folder of the media")
    read = read_clips(job.data)
    clips = choose_split(read.clips, job.split, str(job.data))
    sources = plan_sources(clips, job.data if job.data.is_dir() else job.data.parent)
    digest = data_digest(sources)
    work = job.out / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
        with _locked(work / "plan.lock", wait=True):
            plan = _plan(job, sources, digest)
        return _Packing(job, plan, sources, read.skipped, tell, say).run()
    except OSError as error:
        raise PackError(f"{error.filename or job.out}: {error.strerror}; {_KEPT}") from error


_KEPT = "what is packed so far stays: mend it and start the same command again"


def _plan(job: PackJob, sources: Sequence[PlannedSource], digest: str) -> Plan:
    """The plan of the folder, made by the first job. Raises PackError: it is one of other settings or data."""
    path, index = job.out / WORK / "plan.json", job.out / INDEX
    if path.exists():
        plan = read_plan(path.read_text(encoding="utf-8"), path)
        settings, data = plan.settings, plan.data
    elif index.exists():
        found = read_index(index.read_bytes(), index)
        settings, data = found.settings, found.data
    elif strange := sorted(file.name for file in job.out.glob("shard-*")):
        raise PackError(f"{job.out}: holds {strange[0]}, but not from this command; choose another --out")
    else:
        settings, data = job.settings, digest
    for name, value in vars(settings).items():
        if value != getattr(job.settings, name):
            asked = getattr(job.settings, name)
            raise PackError(f"{job.out}: was begun with {name} {value}, not {asked}; choose another --out")
    if data != digest:
        raise PackError(f"{job.out}: was begun with other rows or captions than {job.data} has; choose another --out")
    if path.exists():
        return plan
    plan = make_plan(sources, settings, seconds_a_byte(sources, job.workers), digest)
    with whole_file(path) as file:
        file.write(plan.text().encode())
    return plan


@dataclass
class _Group:
    number: int
    folder: Path
    sources: dict[int, Source]
    lock: Any
    waiting: int  # sources that are not done


class _Packing:
    """The state of a job while it runs."""

    def __init__(
        self, job: PackJob, plan: Plan, sources: Sequence[PlannedSource], skipped: list[Record], tell: Tell, say: Say
    ) -> None:
        self.job, self.plan, self.sources, self.skipped, self.tell, self.say = job, plan, sources, skipped, tell, say
        self.work = job.out / WORK
        place, count = job.share
        self.todo: deque[int] = deque(range(place - 1, len(plan.groups), count))
        self.open: dict[int, _Group] = {}
        self.tasks: deque[Task] = deque()
        self.of_task: dict[Any, _Group] = {}
        self.clips = sum(len(s.rows) for group in self.todo for s in self._sources(group))
        self.done = self.begun = 0
        self.faults: list[Record] = []
        self.elsewhere = 0
        self.stopped: str | None = None

    def _sources(self, group: int) -> Sequence[PlannedSource]:
        first, last = self.plan.range(group)
        return self.sources[first:last]

    def run(self) -> PackResult:
        self._skip_done()
        todo = len(self.todo)
        if todo:
            self._tell_room()
        self.begun = self.done
        self.tell(self.done, self.clips, len(self.faults))
        if todo:
            with _terminated():
                self._work()
        left = [n for n in range(len(self.plan.groups)) if not self._record(n).exists()]
        index = None if left else self._finish()
        return PackResult(index, self.done - self.begun, self.faults, len(left), again=not todo and not left)

    def _skip_done(self) -> None:
        """Leaves out the groups that are done; their sources must be as they were."""
        for group in list(self.todo):
            if not self._record(group).exists():
                continue
            self.todo.remove(group)
            shutil.rmtree(self.work / f"{group:06d}", ignore_errors=True)  # of a start that was killed after the record
            record = json.loads(self._record(group).read_text())
            self.faults += record["faults"]
            self.done += sum(len(source.rows) for source in self._sources(group))
            for shard in record["shards"]:
                for name in (shard["file"], shard["lines"]):
                    if not (self.job.out / name).exists():
                        raise PackError(
                            f"{self.job.out / name}: is missing, though it was packed; remove "
                            f"{self._record(group)} to pack it again"
                        )
            for source in self._sources(group):
                seen = record["seen"].get(str(source.number))
                if seen is not None and (why := changed(source.path, seen)):
                    raise PackError(f"{source.path}: {why} since it was packed; choose another --out")

    def _tell_room(self) -> None:
        """Says how much will be written, and whether there is room."""
        needs = sum(self.plan.estimates[group] for group in self.todo)
        free = shutil.disk_usage(self.job.out).free
        words = f"about {needs / 1e9:.2f} GB to write in {len(self.todo)} groups, {free / 1e9:.2f} GB are free"
        # Beside the shards, the pieces of the groups that are being packed need room.
        enough = free > needs + min(needs, 2 * self.job.settings.shard_size)
        self.say(words if enough else f"warning: {words}, probably not enough")

    def _work(self) -> None:
        finished: Iterator[tuple[Task, Any]] = run_isolated(
            run_task, self._next(), workers=self.job.workers, seconds=self._limit
        )
        try:
            for task, result in finished:
                if isinstance(result, Failed):
                    result = Fault("decode", result.reason)
                if isinstance(result, Stopped):
                    raise PackError(f"{result.reason}; {_KEPT}")
                self._take(task, result)
        finally:
            finished.close()  # type: ignore[attr-defined]
            for number, group in self.open.items():
                self._sweep(number)
                group.lock.close()

    def _sweep(self, number: int) -> None:
        """Removes what processes that were killed have left half written of a group that is locked."""
        folder = self.work / f"{number:06d}"
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
        lock = _lock(self.work / f"group-{number:06d}.lock")
        if lock is None:
            self.elsewhere += 1
            return
        if self._record(number).exists():  # another job has just done it
            lock.close()
            self.done += sum(len(source.rows) for source in self._sources(number))
            return
        folder = self.work / f"{number:06d}"
        folder.mkdir(exist_ok=True)
        self._sweep(number)
        sources = {source.number: Source(source) for source in self._sources(number)}
        group = self.open[number] = _Group(number, folder, sources, lock, len(sources))
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
            known = Probed(**json.loads(path.read_text()))
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
                    source.short[piece.number] = Short(**json.loads(short.read_text()))
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
                raise PackError(f"{self.job.out}: shard of group {task.group}: {result.reason}; {_KEPT}")
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
        with whole_file(self._record(group.number)) as file:
            file.write(json.dumps(record).encode())
        shutil.rmtree(group.folder, ignore_errors=True)
        group.lock.close()
        del self.open[group.number]

    def _record(self, group: int) -> Path:
        return self.work / f"group-{group:06d}.json"

    def _finish(self) -> Index:
        """Writes faults.jsonl and index.json, which are the same whoever writes them."""
        with _locked(self.work / "plan.lock", wait=True):
            shards: list[Shard] = []
            faults = list(self.skipped)
            for number in range(len(self.plan.groups)):
                record = json.loads(self._record(number).read_text())
                shards += [Shard(**shard) for shard in record["shards"]]
                faults += record["faults"]
            index = Index(self.plan.settings, self.plan.data, tuple(shards), len(faults))
            if not shards:
                raise PackError(
                    f"{self.job.data}: not one clip could be packed, such as {faults[0]['file']}: {faults[0]['reason']}"
                )
            path = self.job.out / INDEX
            if not path.exists() or path.read_text(encoding="utf-8") != index.text():
                with whole_file(self.job.out / FAULTS) as file:
                    file.write("".join(json_line(fault) + "\n" for fault in faults).encode())
                with whole_file(path) as file:
                    file.write(index.text().encode())
            for lock in self.work.glob("group-*.lock"):
                lock.unlink(missing_ok=True)
        return index


def task_key(task: Task) -> Any:
    """What tells tasks apart."""
    if isinstance(task, ShardTask):
        return ("shard", task.group)
    return (type(task), task.number, getattr(task, "piece", None))


def _lock(path: Path, wait: bool = False) -> Any:
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
def _locked(path: Path, wait: bool) -> Iterator[None]:
    file = _lock(path, wait)
    try:
        yield
    finally:
        file.close()


@contextmanager
def _terminated() -> Iterator[None]:
    """Inside, SIGTERM (a queue that ends a job) is as Ctrl-C."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
