"""One side of a comparison, seen from the process that compares: a worker that answers in time or is ended."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

LIMIT = 600.0  # seconds for one answer


class SideFailed(RuntimeError):
    """A request that failed, or a worker that died or was too slow. The message says on which side.

    ``side``: that side, where whoever asked has noted it.
    """

    side: Side | None = None


class Side:
    """A worker in ``folder``, which holds the library to measure. Use as a context."""

    def __init__(self, name: str, folder: Path, settings: dict[str, Any]) -> None:
        self.name, self._rest = name, b""
        command = [sys.executable, "-m", "bench.suite.worker", json.dumps(settings)]
        paths = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
        env = paths | {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}
        self._process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def __enter__(self) -> Side:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to a request. Raises SideFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise SideFailed(f"{self.name}: the worker has ended (status {self._process.poll()})") from error
        answer: dict[str, Any] = json.loads(self._line())
        if "failed" in answer:
            raise SideFailed(f"{self.name}: {answer['failed']}")
        return answer

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        channel, until = self._process.stdout.fileno(), time.monotonic() + LIMIT
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([channel], [], [], left)[0]:
                self._process.kill()
                raise SideFailed(f"{self.name}: no answer in {LIMIT:.0f} s; the worker was ended")
            part = os.read(channel, 1 << 16)
            if not part:
                raise SideFailed(f"{self.name}: the worker ended with status {self._process.wait()}")
            self._rest += part
        found, _, self._rest = self._rest.partition(b"\n")
        return found
