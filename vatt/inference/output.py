"""The files of ``vatt embed``: parts, so that a stopped job continues; then .npy with a .json beside it, or .parquet.

Shapes: N items that were embedded, D width.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from vatt.errors import UserError
from vatt.extras import install
from vatt.files import appearing, write_text
from vatt.inference.embed import Embedded
from vatt.json_files import json_line, parse_json
from vatt.weights.tensors import TensorFile, Tensors, write_tensors

SETTINGS = "settings.json"
_ROWS = 4096  # of one group of a .parquet


class EmbedError(UserError, RuntimeError):
    """A job that cannot begin or go on. The message names the file and what to do."""


@dataclass(frozen=True)
class Item:
    """One row of the result: a file or a part of it (seconds), and its sentence if that is what is embedded."""

    file: str
    start: float | None = None
    end: float | None = None
    text: str | None = None

    def row(self) -> dict[str, Any]:
        """The columns; without ``text`` where there is none."""
        return {name: value for name, value in asdict(self).items() if name != "text" or value is not None}


class Parts:
    """What a job has done so far: a folder beside the result. Make one with `open_parts`.

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
            except (ValueError, KeyError, TypeError):
                self.unreadable.append(path.name)
                path.unlink()
                continue
            self.done.update(part.numbers, (record["index"] for record in part.skipped))

    def write(self, batches: list[Embedded]) -> None:
        """Writes batches as one part, whole or not at all. Batches that were written before are left out."""
        batches = [batch for batch in batches if not self.done.issuperset(_items(batch))]
        if not batches:
            return
        path = self.folder / f"part-{self.next:06d}.safetensors"
        numbers = [number for batch in batches for number in batch.numbers]
        skipped = [record for batch in batches for record in batch.skipped]
        tensors = {"numbers": torch.tensor(numbers, dtype=torch.int64), "x": torch.cat([b.x_BD for b in batches])}
        with appearing(path) as partly:
            write_tensors(partly, Tensors.of(tensors), {"skipped": json.dumps(skipped)})
        self.next += 1
        self.done.update(numbers, (record["index"] for record in skipped))

    def read(self) -> Iterator[Embedded]:
        """All parts, one after the other."""
        for path in sorted(self.folder.glob("part-*.safetensors")):
            yield _read(path)

    def remove(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.folder)


class PartsToRead(Protocol):
    """The parts of one job, or of several that share the items out."""

    def read(self) -> Iterator[Embedded]: ...

    def remove(self) -> None: ...


def _items(batch: Embedded) -> list[int]:
    return [*batch.numbers, *(record["index"] for record in batch.skipped)]


def _read(path: Path) -> Embedded:
    stored = TensorFile(path)
    return Embedded(
        stored["numbers"].tolist(), stored["x"], parse_json(stored.metadata["skipped"], path, list, surrogates=True)
    )


@contextmanager
def open_parts(folder: Path, settings: dict[str, Any]) -> Iterator[Parts]:
    """The parts of a job with these settings, new or from an earlier start; one process at a time.

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
    except (OSError, ValueError, RecursionError) as error:
        raise EmbedError(f"{path}: cannot be read: {error}; remove it, or name another --out") from error


def check_output(path: Path) -> None:
    """Refuses, before the long work, a result that could not be written.

    Raises:
        EmbedError: neither .npy nor .parquet, or pyarrow is missing.
    """
    if path.suffix not in (".npy", ".parquet"):
        raise EmbedError(f"{path}: --out must end in .npy or .parquet")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise EmbedError(f"{path}: .parquet needs pyarrow: {install('parquet')}") from error


def write_output(
    path: Path,
    parts: PartsToRead,
    items: Sequence[Item],
    skipped: Iterable[dict[str, Any]],
    settings: dict[str, Any],
    places: dict[str, str],
) -> tuple[int, int]:
    """Puts the parts together, in the order of the items. Each file appears whole or not at all.

    Beside ``path`` come FILE.faults.jsonl (a record {file, start, end, field, reason} of each item left out; only if
    there are any) and FILE.json: settings, counts and, for .npy, the ``rows`` {file, start, end[, text]} in order, one
    a line.

    Args:
        skipped: records of files that are no items, such as those that a manifest names but that do not exist.
        settings: what the numbers depend on. places: paths of the source and the model, for people.

    Returns:
        The number of rows and of faults.

    Raises:
        EmbedError: nothing was embedded.
    """
    faults, numbers, width = [_fault(record, None) for record in skipped], [], 0
    for part in parts.read():
        numbers += part.numbers
        width = part.x_BD.shape[1]
        faults += [_fault(record, items[record["index"]]) for record in part.skipped]
    _write_faults(path.with_suffix(".faults.jsonl"), faults)
    if not numbers:
        parts.remove()
        raise EmbedError(f"{path}: nothing could be embedded; see {path.with_suffix('.faults.jsonl')}")
    order = sorted(set(numbers))
    rows = [items[number].row() for number in order]
    about = {"settings": settings, **places, "n": len(rows), "dimensions": width, "faults": len(faults)}
    # the result comes last, so that a job that is stopped in between continues
    if path.suffix == ".npy":
        with appearing(path) as partly:
            _gather(partly, parts.read(), order, width)
            _write_about(path.with_suffix(".json"), about, rows)
    else:
        scratch = path.with_name(f".{path.name}.npy")
        x_ND = _gather(scratch, parts.read(), order, width)
        _write_about(path.with_suffix(".json"), about, None)
        _write_parquet(path, x_ND, rows)
        del x_ND
        scratch.unlink()
    return len(rows), len(faults)


def _write_about(path: Path, about: dict[str, Any], rows: Sequence[dict[str, Any]] | None) -> None:
    text = json.dumps(about, indent=1)
    if rows is not None:
        lines = ",\n  ".join(json_line(row) for row in rows)
        text = f'{text.removesuffix("}").rstrip()},\n "rows": [\n  {lines}\n ]\n}}'
    write_text(path, text)


def _gather(path: Path, parts: Iterable[Embedded], order: list[int], width: int) -> np.memmap:
    """All embeddings (N, D) in an .npy file, which is mapped into memory, so that they need not fit."""
    row_of = {number: row for row, number in enumerate(order)}
    x_ND = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(order), width))
    for part in parts:
        if part.numbers:
            x_ND[[row_of[number] for number in part.numbers]] = part.x_BD.numpy()
    x_ND.flush()
    return x_ND


def _write_parquet(path: Path, x_ND: np.ndarray, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [("file", pa.string()), ("start", pa.float64()), ("end", pa.float64())]
    if "text" in rows[0]:
        columns.append(("text", pa.string()))
    schema = pa.schema([*columns, ("embedding", pa.list_(pa.float32()))])
    with appearing(path) as partly, pq.ParquetWriter(partly, schema) as writer:
        for first in range(0, len(rows), _ROWS):
            chosen, x = rows[first : first + _ROWS], np.asarray(x_ND[first : first + _ROWS])
            offsets = np.arange(len(x) + 1, dtype=np.int32) * x.shape[1]
            arrays = [pa.array([_readable(row[name]) for row in chosen], kind) for name, kind in columns]
            vectors = pa.ListArray.from_arrays(pa.array(offsets), pa.array(x.ravel()))
            writer.write_table(pa.Table.from_arrays([*arrays, vectors], schema=schema))


def _readable(value: Any) -> Any:
    """A file name that is not UTF-8, which Parquet cannot hold, with marks in place of what cannot be read."""
    return os.fsencode(value).decode("utf-8", "replace") if isinstance(value, str) else value


def _fault(record: dict[str, Any], item: Item | None) -> dict[str, Any]:
    row = {} if item is None else item.row()
    return {"file": record["file"], **row, "field": record["field"], "reason": record["reason"]}


def _write_faults(path: Path, faults: Sequence[dict[str, Any]]) -> None:
    path.unlink(missing_ok=True)
    if faults:
        write_text(path, "".join(json_line(fault) + "\n" for fault in faults))
