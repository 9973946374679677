"""What a job of ``vatt embed`` has done so far: a folder of parts beside the result, so that it can go on."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vatt.embedding.compute import Embedded

SETTINGS = "settings.json"


class EmbedError(RuntimeError):
    """A job that cannot begin or go on. The message names the file and what to do."""


class Parts:
    """The folder; make one with `open_parts`.

    Attributes:
        done: numbers of the items that are in a part, embedded or found unusable.
        unreadable: parts that could not be read; they were deleted, and their items are done again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: set[int] = set()
        self.unreadable: list[str] = []
        self.next = 0
        for path in sorted(folder.glob("part-*.safetensors")):
            self.next = int(path.stem.removeprefix("part-")) + 1
            try:
                part = _read(path)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError):
                self.unreadable.append(path.name)
                path.unlink()
                continue
            self.done.update(part.numbers, (record["index"] for record in part.skipped))

    def write(self, batches: list[Embedded]) -> None:
        """Writes batches as one part, whole or not at all. Those that were written before are passed over."""
        batches = [batch for batch in batches if not self.done.issuperset(_items(batch))]
        if not batches:
            return
        path = self.folder / f"part-{self.next:06d}.safetensors"
        numbers = [number for batch in batches for number in batch.numbers]
        skipped = [record for batch in batches for record in batch.skipped]
        tensors = {"numbers": torch.tensor(numbers, dtype=torch.int64), "x": torch.cat([b.x_BD for b in batches])}
        partly = path.with_suffix(".partly")
        save_file(tensors, partly, metadata={"skipped": json.dumps(skipped)})
        partly.replace(path)
        self.next += 1
        self.done.update(numbers, (record["index"] for record in skipped))

    def read(self) -> Iterator[Embedded]:
        """All parts, one after the other."""
        for path in sorted(self.folder.glob("part-*.safetensors")):
            yield _read(path)

    def remove(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.folder)


def _items(batch: Embedded) -> list[int]:
    return [*batch.numbers, *(record["index"] for record in batch.skipped)]


def _read(path: Path) -> Embedded:
    with safe_open(path, "pt") as file:
        numbers: Tensor = file.get_tensor("numbers")
        return Embedded(numbers.tolist(), file.get_tensor("x"), json.loads(file.metadata()["skipped"]))


@contextmanager
def open_parts(folder: Path, settings: dict[str, Any]) -> Iterator[Parts]:
    """The parts of a job with these settings, new or from a start before; one process at a time.

    Raises:
        EmbedError: the folder is that of a job with other settings, or another process is at work in it.
    """
    if folder.exists() and not (folder / SETTINGS).is_file():
        other = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
        if other - {"lock", f".{SETTINGS}.partly"} and not any(name.startswith("part-") for name in other):
            raise EmbedError(f"{folder}: is there, and not from a job of this kind; name another --out")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not held by reading processes left over
        except OSError as error:
            raise EmbedError(f"{folder}: another process writes there") from error
        path = folder / SETTINGS
        if path.is_file():
            check_settings(read_json(path), settings, folder)
        elif any(folder.glob("part-*")):
            raise EmbedError(f"{folder}: has parts but no {SETTINGS}; remove the folder")
        else:
            write_text(path, json.dumps(settings, indent=1))
        yield Parts(folder)


def check_settings(before: Any, now: dict[str, Any], where: Path) -> None:
    """Raises EmbedError: the settings differ; the message says in what."""
    if not isinstance(before, dict):
        before = {}
    differ = [
        f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if differ:
        raise EmbedError(f"{where}: made with other settings: {'; '.join(differ)}; remove it, or name another --out")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises EmbedError: it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EmbedError(f"{path}: cannot be read: {error}; remove it, or name another --out") from error


def write_text(path: Path, text: str) -> None:
    """Writes a file; it is there whole or not at all."""
    partly = path.with_name(f".{path.name}.partly")
    partly.write_text(text, encoding="utf-8")
    partly.replace(path)
