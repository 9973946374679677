"""Writing an index: windows that were embedded become segments, each a commit, in the order of the list of files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vatt.clip import InputConfig
from vatt.data.sidecars import Sidecars
from vatt.search.embedding import Done
from vatt.search.format import SEGMENTS, Batch, Segment, read_segment, segment_paths, write_segment
from vatt.search.listing import Entry, beside, captions_of
from vatt.search.state import Content, Named, State
from vatt.search.windows import Probed

_ROWS, _SECONDS = 4096, 20.0  # a segment is written when it has so many windows or is so old


@dataclass
class Todo:
    """What is to be embedded of an entry."""

    entry: Entry
    content: Content
    probed: Probed
    starts: list[int]


class SegmentWriter:
    """Collects what was embedded, and writes it as segments.

    A signal may raise anywhere in here, and what was collected is written then, too: so groups of windows are taken as
    a whole or not at all, and a `commit` that was cut off can be done again.

    Args:
        folder: of the index.
        segments, state: of the index; each segment that is written is added to them.
    """

    def __init__(
        self, folder: Path, widths: Mapping[str, int], spec: InputConfig, segments: list[Segment], state: State
    ) -> None:
        self.folder, self.widths, self.spec = folder / SEGMENTS, widths, spec
        self.segments, self.state = segments, state
        self.sidecars = Sidecars()
        paths = segment_paths(folder)
        self.next = int(paths[-1].stem) + 1 if paths else 0
        self._clear()

    def _clear(self) -> None:
        self._todo: Sequence[Todo] = ()
        self._done, self._since = list[Done](), time.monotonic()

    def add(self, todo: Sequence[Todo], group: Sequence[Done]) -> None:
        """The stretches of a group, each the next of its file. ``todo``: the list that they count their entries in."""
        for done in group:
            content = todo[done.stretch.entry].content
            content.sha256 = content.sha256 or done.sha256
        self._todo = todo
        self._done.extend(group)

    def is_due(self) -> bool:
        """Whether there is enough for a segment, or it has been long since the last one."""
        rows = sum(len(done.good) for done in self._done)
        return rows >= _ROWS or time.monotonic() - self._since > _SECONDS

    def commit(self) -> None:
        """Writes what was collected, if there is anything."""
        of_entry: dict[int, list[Done]] = {}
        for done in self._done:
            of_entry.setdefault(done.stretch.entry, []).append(done)
        batch = Batch()
        for entry, parts in of_entry.items():
            self._put(batch, self._todo[entry], parts)
        if of_entry:
            self.write(batch)
        for entry, parts in of_entry.items():
            self._todo[entry].content.rows += sum(len(done.good) for done in parts)
        self._clear()

    def _put(self, batch: Batch, todo: Todo, parts: Sequence[Done]) -> None:
        """Adds stretches of a file to a batch: their windows, and the records of them."""
        content, rows, faults = todo.content, 0, list[dict[str, Any]]()
        length = min(self.spec.seconds, content.seconds) if content.seconds else self.spec.seconds
        for done in parts:
            starts = [done.stretch.starts[good] / self.spec.fps for good in done.good]
            batch.content_N += [batch.contents] * len(starts)
            batch.start_N += starts
            batch.end_N += [start + length for start in starts]
            for name, x_VD in done.vectors.items():
                batch.vectors.setdefault(name, []).append(x_VD)
                batch.has.setdefault(name, []).append(done.has[name])
            rows += len(starts)
            _join(faults, done.faults)
        first, last = parts[0].stretch.first, parts[-1].stretch.first + len(parts[-1].stretch.starts)
        if last == content.windows and not content.rows + rows and not faults:
            faults = [{"start": None, "field": "audio", "reason": "is silent"}]
        batch.records.append(content.record((first, last), rows, faults))
        batch.contents += 1
        if first == 0:
            batch.records.append(self.named(todo.entry, content.id).record())

    def named(self, entry: Entry, content: str, before: Named | None = None) -> Named:
        """The file as it is now, with its captions; these are read where they are others than ``before``."""
        told = beside(entry, self.sidecars)
        same = before is not None and before.beside == told
        captions = before.captions if before is not None and same else captions_of(entry, self.sidecars)
        return Named(entry.name, content, entry.size, entry.mtime, entry.label, captions, told)

    def write(self, batch: Batch) -> None:
        """Writes a segment and takes it into the state."""
        path = self.folder / f"{self.next:08d}.safetensors"
        write_segment(path, batch, self.widths)
        self.next += 1
        segment = read_segment(path, self.widths)
        self.state.apply([segment], len(self.segments))
        self.segments.append(segment)


def _join(faults: list[dict[str, Any]], more: Sequence[dict[str, Any]]) -> None:
    """Adds faults of windows, once where neighbours have the same: with ``until``, where the last of them begins."""
    for fault in more:
        last = faults[-1] if faults else None
        if last is not None and (last["field"], last["reason"]) == (fault["field"], fault["reason"]):
            last["until"] = fault["start"]
        else:
            faults.append(dict(fault))
