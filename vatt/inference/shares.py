"""``vatt embed --shard-of i/n``: one of several independent jobs, and what joins their parts.

Job i of n takes the i-th of n equal ranges of the items, in a folder of parts of its own beside the result. It needs
none of the others: a scheduler may run them at once, one after the other, or again. ``--join`` reads all folders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vatt.files import write_text
from vatt.inference.embed import Embedded
from vatt.inference.output import EmbedError, Parts, open_parts, read_json

_FINISHED = "finished.json"  # in the folder of a job that is done
_FOLDER = re.compile(r"-(\d+)-of-(\d+)\.parts")


@dataclass(frozen=True)
class Share:
    """Job ``index`` of ``count``, counted from 1; of a single job "1/1"."""

    index: int = 1
    count: int = 1

    @classmethod
    def read(cls, text: str) -> Share:
        """From "i/n". Raises EmbedError for anything else, and where i is not from 1 to n."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise EmbedError(f"--shard-of {text[:40]}: must be i/n with i from 1 to n, such as 3/8")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, items: int) -> range:
        """The numbers of this job among those of all items.

        Raises:
            EmbedError: there are fewer items than jobs.
        """
        if items < self.count:
            raise EmbedError(f"--shard-of {self}: there are only {items} items to share out")
        return range((self.index - 1) * items // self.count, self.index * items // self.count)

    def parts(self, out: Path) -> Path:
        """The folder of this job's parts, beside the result ``out`` of all."""
        return out.with_suffix(".parts") if self.count == 1 else self.folder(out.with_suffix(""))

    def folder(self, base: Path) -> Path:
        """What this job leaves beside ``base``, which has no suffix."""
        return base.with_name(f"{base.name}-{self.index:05d}-of-{self.count:05d}.parts")


ALL = Share()


def finish(folder: Path, items: int, faults: int) -> None:
    """Marks the parts of a job as complete."""
    write_text(folder / _FINISHED, json.dumps({"items": items, "faults": faults}))


def counts_of(folder: Path) -> tuple[int, int] | None:
    """Items and faults of a job that is done, or None if it is not."""
    path = folder / _FINISHED
    if not path.is_file():
        return None
    found = read_json(path)
    return found["items"], found["faults"]


def shares_beside(base: Path) -> list[Share]:
    """All shares, of which there is at least the folder of one. Raises EmbedError: of none, or of several numbers."""
    places = {path: _FOLDER.fullmatch(path.name.removeprefix(base.name)) for path in base.parent.glob("*.parts")}
    counts = {int(match[2]) for path, match in places.items() if match and path.name.startswith(base.name)}
    if len(counts) != 1:
        shown = " and ".join(f"{base.name}-*-of-{count:05d}.parts" for count in sorted(counts))
        raise EmbedError(
            f"{base.parent}: parts of several numbers of jobs: {shown}; remove those that are old"
            if counts
            else f"{base}: no parts of it are there; run the jobs first, with --shard-of i/n"
        )
    count = counts.pop()
    return [Share(index, count) for index in range(1, count + 1)]


def named(shares: Sequence[Share]) -> str:
    """For messages: the option of these shares, or of the first of them."""
    more = f" and {len(shares) - 8} more" if len(shares) > 8 else ""
    return f"--shard-of {', '.join(map(str, shares[:8]))}{more}"


class Joined:
    """The parts of all jobs of ``out``, for `vatt.inference.output.write_output`.

    Args:
        settings: of all of them.

    Raises:
        EmbedError: jobs that are missing, not done, still at work, of other settings, or not of one number.
    """

    def __init__(self, out: Path, settings: dict[str, Any], stack: ExitStack) -> None:
        shares = shares_beside(out.with_suffix(""))
        if missing := [share for share in shares if counts_of(share.parts(out)) is None]:
            raise EmbedError(f"{out}: not done: {named(missing)}")
        self._jobs: list[Parts] = []
        for share in shares:
            parts = stack.enter_context(open_parts(share.parts(out), settings))
            if parts.unreadable:
                (parts.folder / _FINISHED).unlink()
                raise EmbedError(
                    f"{parts.folder}: {parts.unreadable[0]} could not be read; run --shard-of {share} again"
                )
            self._jobs.append(parts)

    @property
    def done(self) -> set[int]:
        """Numbers of the items that are in a part."""
        return set().union(*(parts.done for parts in self._jobs))

    def read(self) -> Iterator[Embedded]:
        """All parts of all jobs."""
        for parts in self._jobs:
            yield from parts.read()

    def remove(self) -> None:
        """Deletes the folders."""
        for parts in self._jobs:
            parts.remove()
