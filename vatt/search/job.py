"""``vatt index``: brings an index up to date with a source. What is new or was changed is embedded, window by window.

A job that was stopped goes on at the next start, with the same result: groups of windows follow from the list of what
is left, and are committed in order.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vatt.data.config import DataConfig
from vatt.data.reading import check_there
from vatt.files import remove_partly, write_lines, write_text
from vatt.inference.shares import ALL, Share
from vatt.json_files import json_line
from vatt.models.config import VATTConfig
from vatt.precision import type_of
from vatt.search.compaction import compact, worn
from vatt.search.crew import embed_on
from vatt.search.embedding import Done
from vatt.search.format import (
    FAULTS,
    FINISHED,
    SEGMENTS,
    About,
    Batch,
    Record,
    SearchError,
    Segment,
    locked,
    read_segment,
    segment_paths,
)
from vatt.search.listing import Entry, Listing, list_source, path_of
from vatt.search.model import config_of, describe_model, widths_of
from vatt.search.opening import agreed, prepare, sound_segments
from vatt.search.probing import OPENED, OpenedFiles, Opening
from vatt.search.state import Content, Named, State
from vatt.search.windows import Group, ReadGroups, digest_of, make_groups, window_starts
from vatt.search.writing import SegmentWriter, Todo
from vatt.weights.folder import held_out_share

_log = logging.getLogger(__name__)
Progress = Callable[[int, int, int], object]  # windows done, windows in all, faults so far


@dataclass(frozen=True)
class IndexJob:
    """What is asked for; the fields are the options of ``vatt index``.

    Attributes:
        hop: seconds from one window to the next, a multiple of the time between two frames of the model; None: half a
            window.
        devices: one process each.
    """

    source: str | Path
    model: Path
    out: Path
    hop: float | None = None
    split: str | None = None
    pictures: bool = False
    batch_size: int = 8
    workers: int = 2
    devices: tuple[str, ...] = ("cpu",)
    precision: str = "auto"
    vocabulary: Path | None = None
    retry: bool = False  # files that could not be read
    moved: bool = False  # the source may be another folder than before
    shard_of: Share = ALL  # the files of one of several independent jobs

    def __post_init__(self) -> None:
        for name, least, most in (("batch_size", 1, 1_000_000), ("workers", 0, 1024)):
            if not least <= (value := getattr(self, name)) <= most:
                limit = f"{least} or more" if value < least else f"{most:,} or less"
                raise SearchError(f"{name}: must be {limit}, got {value}")
        if not self.devices:
            raise SearchError("device: names no device")
        if self.hop is not None and not 0 < self.hop < 86_400:
            raise SearchError(f"hop: must be more than 0 seconds, and less than a day, got {self.hop:g}")

    @property
    def folder(self) -> Path:
        """Where it writes: the index, or what a share of it is kept in beside that."""
        if self.shard_of.count == 1:
            return self.out
        return self.shard_of.folder(self.out if self.out.name.strip(".") else self.out.resolve())

    def has(self, name: str) -> bool:
        """Whether a file is in its share: always the same one, whatever other files there are."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.shard_of.count == self.shard_of.index - 1


@dataclass
class IndexResult:
    """How it ended.

    Attributes:
        files: of the whole index that have windows. windows: of all of them.
        faults, faulty: records in faults.jsonl, and the number of the files that they are of.
        embedded: windows of this start.
        seconds: from when the files were listed until all was done.
        counts: files, since the start before: "new", "changed", "moved", "copied", "back" (after they were deleted),
            "same" (another time, the same content), "deleted"; new or changed ones with nothing to be found by: "left
            out"; that have other "captions" or another "label".
        redone: segments that could not be read; their files were done again.
    """

    files: int = 0
    windows: int = 0
    faults: int = 0
    faulty: int = 0
    embedded: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    redone: list[str] = field(default_factory=list)

    def tell(self, folder: Path, state: State, live: list[Named], skipped: list[Record]) -> None:
        """Counts what an index has, and writes its list of faults."""
        rows = [state.contents[named.content].rows for named in live]
        self.files, self.windows = sum(count > 0 for count in rows), sum(rows)
        faults = list(skipped)
        for named in live:
            faults += [{"file": named.name} | fault for fault in state.contents[named.content].faults]
        self.faults, self.faulty = len(faults), len({fault["file"] for fault in faults})
        lines = [json_line(fault) for fault in faults]
        (folder / FAULTS).unlink(missing_ok=True)
        if lines:
            write_lines(folder / FAULTS, lines)

    def check(self, folder: Path) -> None:
        """Raises SearchError: there is nothing in it."""
        if not self.windows:
            raise SearchError(f"{folder}: nothing could be embedded; see {folder / FAULTS}")


def build_index(
    job: IndexJob,
    progress: Progress = lambda done, total, faults: None,
    opening: Opening = lambda done, total, faults, what: None,
) -> IndexResult:
    """Brings the index at ``job.out`` up to date with its source, or makes it.

    With ``job.shard_of`` it does so for a share of the files. What is new goes to a folder beside the index, which
    stays as it is until `vatt.search.joining.join_index` has put all shares into it.

    Raises:
        SearchError: another model or other settings than it was made with, another process at work in it, a folder that
            is no index, or nothing that could be embedded.
        ManifestError, PretrainedError, TextError: the source, the model or its words.
    """
    config, listing, about = plan(job)
    prepare(job.folder)
    with locked(job.folder):
        about = agreed(about, job.folder, job.moved)
        remove_partly(job.folder, SEGMENTS)
        (job.folder / SEGMENTS).mkdir(exist_ok=True)
        (job.folder / FINISHED).unlink(missing_ok=True)
        result = IndexResult()
        segments, result.redone = sound_segments(job.folder, about.vectors)
        if job.folder != job.out:  # what the index has is not done again
            agreed(about, job.out, job.moved)
            segments = [read_segment(path, about.vectors) for path in segment_paths(job.out)] + segments
        state = State()
        state.apply(segments)
        about.write(job.folder)
        update = _Update(job, config, about, listing, segments, state, result, opening)
        update.run(progress)
        if job.folder != job.out:
            write_text(job.folder / FINISHED, json.dumps({"files": listing.digest()}))
        return result


def plan(job: IndexJob) -> tuple[VATTConfig, Listing, About]:
    """The configuration of the model, the files that are there now, and what the index is to be made with."""
    config = config_of(job.model)
    listing = list_source(job.source, job.split, held_out_share(job.model), job.pictures)
    return config, listing, _about(job, config)


def _about(job: IndexJob, config: VATTConfig) -> About:
    spec = config.input
    hop = _hop(job, config) / spec.fps
    kind = str(type_of(job.precision, job.devices[0])).removeprefix("torch.")
    settings = {"window_s": spec.seconds, "hop_s": hop, "precision": kind, "split": job.split, "pictures": job.pictures}
    return About(describe_model(job.model, job.vocabulary), settings, widths_of(config), _place(job.source))


def _place(source: str | Path) -> str:
    return str(source) if "://" in str(source) else str(Path(source).resolve())


def _hop(job: IndexJob, config: VATTConfig) -> int:
    """Frames from one window to the next."""
    spec = config.input
    return max(1, spec.frames // 2 if job.hop is None else round(job.hop * spec.fps))


class _Update:
    """One start of a job, on an index that is open."""

    def __init__(
        self,
        job: IndexJob,
        config: VATTConfig,
        about: About,
        listing: Listing,
        segments: list[Segment],
        state: State,
        result: IndexResult,
        opening: Opening,
    ) -> None:
        self.job, self.config, self.about, self.listing = job, config, about, listing
        self.segments, self.state, self.result, self.opening = segments, state, result, opening
        self.opened = OpenedFiles(job.folder / OPENED)
        self.counted: dict[str, str] = {}  # id of an entry -> "new" or "changed"
        self.writer = SegmentWriter(job.folder, about.vectors, config.input, segments, state)

    def run(self, progress: Progress) -> None:
        begun = time.monotonic()
        records, fresh = self._compare()
        todo = self._probe(fresh, records)
        if records:
            self.writer.write(Batch(records=records))
        self._embed(todo, progress)
        self.opened.forget()
        self._count(fresh)
        whole = self.job.folder == self.job.out
        live = [named for named in self.state.live() if self.job.has(named.name)]
        if whole and worn(self.segments, self.state):
            self.segments = compact(self.job.out, self.segments, self.state, self.about.vectors)
            self.state = State()
            self.state.apply(self.segments)
        result = self.result
        result.seconds = time.monotonic() - begun
        result.tell(self.job.folder, self.state, live, self.listing.skipped if whole else [])
        if whole:
            result.check(self.job.out)

    def _count(self, fresh: list[Entry]) -> None:
        """New and changed files, of which those that gave nothing are counted apart."""
        counts, contents = self.result.counts, self.state.contents
        for entry in fresh:
            if (what := self.counted.get(entry.id)) is not None:
                counts[what if entry.id in contents and contents[entry.id].rows else "left out"] += 1

    def _compare(self) -> tuple[list[Record], list[Entry]]:
        """Records of what has changed but needs no embedding, and the entries that do."""
        counts, state = self.result.counts, self.state
        names = {entry.name for entry in self.listing.entries}
        records: list[Record] = [{"file": name, "deleted": True} for name in state.files if name not in names]
        same_size: dict[tuple[int | str, str], list[Content]] = defaultdict(list)
        for each in state.contents.values():
            if each.complete and each.sha256 and not each.faults:
                same_size[each.size or each.sha256, each.media].append(each)  # in shards it has no size
        live = {named.content for named in state.files.values()}
        gone = {state.files[record["file"]].content for record in records}
        moved_to = set[str]()
        fresh = []
        entries = [entry for entry in self.listing.entries if self.job.has(entry.name)]
        for number, entry in enumerate(entries):
            named = state.files.get(entry.name)
            content = state.contents.get(named.content) if named is not None else None
            if named and content and (content.id == entry.id or self._is_as_it_was(named, content, entry)):
                now = self.writer.named(entry, content.id, named)
                if now != named:
                    records.append(now.record())
                    if now.captions != state.captions_of(named):
                        counts["captions"] += 1
                    if now.label != named.label:
                        counts["label"] += 1
                if not content.complete or (self.job.retry and content.faults):
                    fresh.append(entry)
                continue
            alike = [e for e in same_size[entry.size or entry.sha256, entry.kind] if e.ranges == entry.ranges]
            if alike:
                self.opening(number, len(entries), 0, "files compared")
            same = self._same(entry, alike)
            # Of several copies, one that has lost its name is that which was moved.
            known = next((each for each in same if each.id in gone - moved_to), same[0] if same else None)
            if known is None:
                self.counted[entry.id] = "changed" if named is not None else "new"
                fresh.append(entry)
                continue
            moves = known.id in gone and known.id not in moved_to
            where = "moved" if moves else "copied" if known.id in live else "back"
            if named is not None:
                where = "same" if named.content == known.id else "changed"
            counts[where] += 1
            moved_to.add(known.id)
            records.append(self.writer.named(entry, known.id).record())
        if lost := len(gone - moved_to):
            counts["deleted"] = lost
        return records, fresh

    @staticmethod
    def _is_as_it_was(named: Named, content: Content, entry: Entry) -> bool:
        """Whether a file is that of the index, as far as can be told without reading it; of shards, surely."""
        same = (named.size, named.mtime, content.ranges, content.media) == (
            entry.size, entry.mtime, entry.ranges, entry.kind,
        )  # fmt: skip
        return same and (not entry.sha256 or entry.sha256 == content.sha256)

    @staticmethod
    def _same(entry: Entry, contents: list[Content]) -> list[Content]:
        """Which of these a file holds: it was moved or copied, or only its time has changed."""
        if not contents:
            return []
        try:
            sha256 = entry.sha256 or digest_of(Path(str(entry.media)))
        except OSError:
            return []
        return [content for content in contents if content.sha256 == sha256]

    def _probe(self, fresh: list[Entry], records: list[Record]) -> list[Todo]:
        """Opens each file that is to be embedded. Those that cannot be opened become records."""
        found, spec, hop = list[Todo](), self.config.input, _hop(self.job, self.config)
        opened = self.opened.probe(fresh, self.job.workers, self.opening)
        for entry, probed in zip(fresh, opened, strict=True):
            if isinstance(probed, dict):
                self._check_there(probed["file"], probed["reason"])
                content = Content(entry.id, entry.kind, entry.size, 0.0, entry.sha256, entry.ranges, 0)
                fault = {"start": None, "field": probed["field"], "reason": probed["reason"]}
                records.append(content.record((0, 0), 0, [fault]))
                records.append(self.writer.named(entry, entry.id).record())
                continue
            starts = window_starts(entry.ranges, probed.seconds, spec, hop)
            content = Content(entry.id, entry.kind, entry.size, probed.seconds, entry.sha256, entry.ranges, len(starts))
            before = self.state.contents.get(entry.id)
            if before is not None and not before.complete and before.windows == len(starts):
                content.done = before.done
                content.rows = before.rows
            found.append(Todo(entry, content, probed, starts))
        return found

    def _embed(self, todo: list[Todo], progress: Progress) -> None:
        """Writes segments as the windows are done; also what is done when it is interrupted."""
        groups = list(
            make_groups(
                [(number, one.content.done, one.starts) for number, one in enumerate(todo)],
                self.job.batch_size,
                self.config.input,
            )
        )
        if not groups:
            return
        done = sum(one.content.done for one in todo)
        total = sum(len(one.starts) for one in todo)
        writer, faults = self.writer, 0
        try:
            for stretches in self._results(todo, groups):
                for one in stretches:
                    for fault in one.faults:
                        self._check_there(path_of(todo[one.stretch.entry].entry), fault["reason"])
                writer.add(todo, stretches)
                for one in stretches:
                    done, faults = done + len(one.stretch.starts), faults + len(one.faults)
                    self.result.embedded += len(one.good)
                progress(done, total, faults)
                if writer.is_due():
                    writer.commit()
        finally:
            writer.commit()

    def _results(self, todo: list[Todo], groups: list[Group]) -> Iterator[list[Done]]:
        job = self.job
        config = DataConfig(workers=job.workers)
        work = ReadGroups(
            [one.entry for one in todo],
            {number: one.probed for number, one in enumerate(todo)},
            groups,
            max(sum(len(one.starts) for one in group) for group in groups),  # few windows need no room for many
            self.config.input,
            config.decode_timeout,
        )
        return embed_on(job.devices, job.model, job.precision, job.vocabulary, work, config)

    def _check_there(self, file: str, reason: str) -> None:
        """Raises Vanished: the files have gone, and no fault is recorded of them."""
        check_there(self.listing.clips, file, reason, str(self.job.source))
