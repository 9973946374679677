"""Main memory that is free: of the machine, and within the limits of a container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from vatt.errors import UserError


def available_gib(share: float = 1.0) -> float | None:
    """``share`` of the main memory that is free for this process, in GiB; None where the system does not tell."""
    free = free_memory()
    return None if free is None else share * free / 2**30


def check_room(module: nn.Module, what: str) -> None:
    """Raises UserError: the weights of ``module``, which may be on the device "meta", need more main memory in float32
    than is free; ``what`` is what the message begins with."""
    count, free = sum(value.numel() for value in module.parameters()), free_memory()
    if free is not None and 4 * count > free:
        raise UserError(
            f"{what}: {count:,} parameters need {4 * count / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free"
        )


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes of main memory that are free: of the machine, or as far as a control group (a container) of this process
    lets it go. None where the system does not tell.

    Args:
        root: where /proc and /sys are; another one in tests.
    """
    found = [room for room in (*_of_machine(root), *_of_groups(root)) if room is not None]
    return max(0, min(found)) if found else None


def _of_machine(root: Path) -> Iterator[int | None]:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_groups(root: Path) -> Iterator[int | None]:
    """Of the control groups of this process and those above them, version 1 and 2. In a container the path that
    /proc names may not be there: the group of the container is mounted as the highest one then."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, limit, used, idle = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, used = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            idle = "total_inactive_file"
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            yield _room(folder, limit, used, idle)
            if folder == top:
                break


def _room(folder: Path, limit: str, used: str, idle: str) -> int | None:
    """What a group may still take; files that were read once and can be dropped are free."""
    numbers = [next(iter(_lines(folder / name)), "") for name in (limit, used)]
    if not all(number.isdigit() for number in numbers):  # "max", or no such group
        return None
    known = dict(line.split()[:2] for line in _lines(folder / "memory.stat") if " " in line)
    return int(numbers[0]) - int(numbers[1]) + int(known.get(idle, 0))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
