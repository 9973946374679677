"""How much memory a process has taken at most since a moment. Linux."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path


class Growth:
    """Counts from now on: what was taken before, and given back, does not count."""

    def __init__(self) -> None:
        gc.collect()  # what goes later would make up for what is taken
        with suppress(AttributeError):  # of glibc: free memory that it holds would be taken again without growth
            ctypes.CDLL(None).malloc_trim(0)
        self._before: int | None = None
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now, see proc(5)
            self._before = _status("VmRSS")

    def megabytes(self) -> float | None:
        """The most (MiB) that was held beyond what was held at first. None where the system does not tell."""
        return None if self._before is None else max(0.0, (_status("VmHWM") - self._before) / 1024)


def _status(name: str) -> int:
    """Kilobytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
