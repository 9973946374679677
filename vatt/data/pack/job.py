"""A pack job: makes the shards of its share of the groups, from where an earlier start was stopped, in many processes.

In the folder of the shards, ``.pack/`` keeps the plan, a folder for each group that is being packed, with its finished
pieces, and a record for each group that is done. Several jobs may work in one folder: a group is locked by the job that
packs it. The one that finds all groups done writes faults.jsonl and, last, index.json.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from vatt.data.manifest import read_clips
from vatt.data.pack.groups import KEPT, WORK, Groups, Say, Tell, locked
from vatt.data.pack.plan import PackError, PackJob, Plan, PlannedSource, data_digest, make_plan, plan_sources, read_plan
from vatt.data.pack.sources import seconds_a_byte
from vatt.data.pack.tasks import write_durably
from vatt.data.shards.dataset import is_shards
from vatt.data.shards.format import FAULTS, INDEX, Index, Shard, read_index
from vatt.data.skipped import Record
from vatt.data.splits import choose_split
from vatt.json_files import json_line


@dataclass(frozen=True)
class PackResult:
    """How a job ended.

    Attributes:
        index: where all shards are done; None: other jobs have not finished theirs.
        clips: of this start.
        faults: of the job's groups.
        left: groups of other jobs that are not done.
        nothing_to_do: whether nothing was left to do.
    """

    index: Index | None
    clips: int
    faults: list[Record]
    left: int
    nothing_to_do: bool = False


def pack(job: PackJob, tell: Tell = lambda done, total, faults: None, say: Say = lambda words: None) -> PackResult:
    """Packs what is not packed yet.

    Raises:
        ManifestError: the data set cannot be read.
        PackError: the folder holds something else, a source has changed since it was packed, or nothing can be written.
    """
    if is_shards(job.data):
        raise PackError(f"{job.data}: holds shards, which are packed already; give the manifest or folder of the media")
    read = read_clips(job.data)
    for note in read.notes:
        say(f"{job.data}: {note}")
    clips = choose_split(read.clips, job.split, str(job.data))
    sources = plan_sources(clips, job.data if job.data.is_dir() else job.data.parent)
    digest = data_digest(sources)
    work = job.out / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
        with locked(work / "plan.lock"):
            plan = _plan(job, sources, digest)
        return _run(job, Groups(job, plan, sources, tell, say), read.skipped)
    except OSError as error:
        raise PackError(f"{error.filename or job.out}: {error.strerror}; {KEPT}") from error


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
    write_durably(path, plan.text())
    return plan


def _run(job: PackJob, groups: Groups, skipped: list[Record]) -> PackResult:
    groups.skip_done()
    todo, begun = len(groups.todo), groups.done
    if todo:
        _tell_room(job, groups)
    groups.tell(groups.done, groups.clips, len(groups.faults))
    if todo:
        groups.work()
    left = [number for number in range(len(groups.plan.groups)) if not groups.record(number).exists()]
    index = None if left else _finish(job, groups, skipped)
    return PackResult(index, groups.done - begun, groups.faults, len(left), nothing_to_do=not todo and not left)


def _tell_room(job: PackJob, groups: Groups) -> None:
    """Says how much will be written, and whether there is room."""
    needs = sum(groups.plan.estimates[group] for group in groups.todo)
    free = shutil.disk_usage(job.out).free
    words = f"about {needs / 1e9:.2f} GB to write in {len(groups.todo)} groups, {free / 1e9:.2f} GB are free"
    # Beside the shards, the pieces of the groups that are being packed need room.
    enough = free > needs + min(needs, 2 * job.settings.shard_size)
    groups.say(words if enough else f"warning: {words}, probably not enough")


def _finish(job: PackJob, groups: Groups, skipped: list[Record]) -> Index:
    """Writes faults.jsonl and index.json, which are the same whoever writes them."""
    with locked(groups.folder / "plan.lock"):
        shards: list[Shard] = []
        faults = list(skipped)
        for number in range(len(groups.plan.groups)):
            record = groups.read_record(number)
            shards += [Shard(**shard) for shard in record["shards"]]
            faults += record["faults"]
        index = Index(groups.plan.settings, groups.plan.data, tuple(shards), len(faults))
        if not shards:
            raise PackError(
                f"{job.data}: not one clip could be packed, such as {faults[0]['file']}: {faults[0]['reason']}"
            )
        path = job.out / INDEX
        if not path.exists() or path.read_text(encoding="utf-8") != index.text():
            write_durably(job.out / FAULTS, "".join(json_line(fault) + "\n" for fault in faults))
            write_durably(path, index.text())
        for lock in groups.folder.glob("group-*.lock"):
            lock.unlink(missing_ok=True)
    return index
