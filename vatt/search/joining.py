"""``vatt index --join``: puts what several jobs have made, each of a share of the files, into one index.

Each job (``--shard-of i/n``) reads the index, if there is one, and writes what that lacks into a folder beside it, in
the form of an index. Joining applies their records after those of the index, and writes the windows of all anew, at
once; so a start that was killed is the same as none, or is done. One that was killed while it removed the shares is
done: the next ``--join`` then says that shares are missing.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from vatt.files import remove_folder, remove_partly
from vatt.inference.output import read_json
from vatt.inference.shares import Share, named, shares_beside
from vatt.search.compaction import compact
from vatt.search.format import FINISHED, SEGMENTS, About, SearchError, Segment, locked
from vatt.search.job import IndexJob, IndexResult, plan
from vatt.search.listing import Entry
from vatt.search.opening import agreed, check_settings, prepare, sound_segments
from vatt.search.state import State


def join_index(job: IndexJob) -> IndexResult:
    """Joins all shares of ``job.out`` to the index there, and removes them. Nothing is embedded.

    Raises:
        SearchError: shares that are missing, not done, still at work, damaged, of another model, of other settings, or
            of other files than the source has now. EmbedError: no share, or shares of several numbers of jobs.
    """
    begun, result = time.monotonic(), IndexResult()
    _, listing, about = plan(job)
    out = job.out if job.out.name.strip(".") else job.out.resolve()
    shares = shares_beside(out)
    there = [share.folder(out) for share in shares if share.folder(out).is_dir()]
    if job.precision == "auto" and there:  # of the machine that embedded; here nothing is
        about = replace(about, settings={**about.settings, "precision": About.read(there[0]).settings["precision"]})
    for folder in there:
        check_settings(about, folder)
    digest = listing.digest()
    if late := [share for share in shares if _files_of(share.folder(out)) != digest]:
        raise SearchError(f"{out}: not done, or not of the files that are there now: {named(late)}")
    prepare(out)
    with ExitStack() as stack:
        stack.enter_context(locked(out))
        about = agreed(about, out, job.moved)
        remove_partly(out, SEGMENTS)
        (out / SEGMENTS).mkdir(exist_ok=True)
        segments, result.redone = sound_segments(out, about.vectors)
        for share in shares:
            stack.enter_context(locked(share.folder(out)))
            segments += _segments_of(share, share.folder(out), about.vectors)
        state = State()
        state.apply(segments)
        names = {entry.name for entry in listing.entries}
        state.files = {name: file for name, file in state.files.items() if name in names}
        _check_complete(out, listing.entries, state, len(shares))
        segments = compact(out, segments, state, about.vectors)
        about.write(out)
        result.seconds = time.monotonic() - begun
        result.tell(out, state, state.live(), listing.skipped)
    result.check(out)
    for share in shares:
        remove_folder(share.folder(out))
    return result


def _files_of(folder: Path) -> str | None:
    """The digest of the files of which a share is done; None: it is not done."""
    path = folder / FINISHED
    found = read_json(path) if path.is_file() else {}
    return found.get("files") if isinstance(found, dict) else None


def _segments_of(share: Share, folder: Path, widths: dict[str, int]) -> list[Segment]:
    segments, damaged = sound_segments(folder, widths)
    if damaged:
        (folder / FINISHED).unlink()
        raise SearchError(
            f"{folder}: {damaged[0].removesuffix('.damaged')} could not be read; run --shard-of {share} again"
        )
    return segments


def _check_complete(out: Path, entries: list[Entry], state: State, jobs: int) -> None:
    """Raises SearchError: a file is missing, as of an index that has changed since a share of it was made."""
    for entry in entries:
        file = state.files.get(entry.name)
        content = state.contents.get(file.content) if file is not None else None
        if content is None or not content.complete:
            raise SearchError(f"{out}: {entry.name}: its windows are in no share; run the {jobs} jobs again")
