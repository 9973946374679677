"""Processes that measure: each has a time limit, and whatever ends one is a reason for a row."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from bench.records import ROOT


class Ended(RuntimeError):
    """A process that did not do its work; the message says why."""


def plain_environment() -> dict[str, str]:
    """This process's environment without Triton's interpreter, whose times say nothing of the kernels."""
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


class Child:
    """A running process, its lines, and why it ended."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str], limit: float) -> None:
        self.process, self.limit, self.expired = process, limit, False
        self._errors = errors

    def expire(self) -> None:
        self.expired = True
        _kill(self.process)

    def why(self) -> str | None:
        """The reason of a bad end, or None for a good one. Waits for the end."""
        status = self.process.wait()
        if self.expired:
            return f"took longer than {self.limit:g} s and was ended"
        if status == 0:
            return None
        lines = [line.strip() for line in self._tail().splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith("error: ")), lines[-1] if lines else "")
        if status < 0:
            name = signal.Signals(-status).name
            hint = " (so the system ends a process that takes too much memory)" if name == "SIGKILL" else ""
            return f"ended by {name}{hint}: {said}"[:300]
        return f"ended with status {status}: {said}"[:300]

    def _tail(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-20_000:]


@contextmanager
def child(command: list[str], environment: dict[str, str], limit: float) -> Iterator[Child]:
    """Runs a command in the root of the project for at most ``limit`` seconds; it and all it started are gone when the
    block ends, with the temporary files that a killed process leaves."""
    with (
        tempfile.TemporaryDirectory(prefix="vatt-bench-", ignore_cleanup_errors=True) as scratch,
        tempfile.TemporaryFile("w+", errors="replace") as errors,
    ):
        environment = environment | {"TMPDIR": scratch}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        found = Child(process, errors, limit)
        timer = threading.Timer(limit, found.expire)
        timer.start()
        try:
            yield found
        finally:
            timer.cancel()
            _kill(process)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def finish(command: list[str], environment: dict[str, str], limit: float) -> None:
    """Runs a command to its end. Raises Ended."""
    with child(command, environment, limit) as running:
        assert running.process.stdout is not None
        said = [line.strip() for line in running.process.stdout if line.strip()]  # a full pipe would stop it
        if (reason := running.why()) is not None:
            raise Ended(reason if running.expired or not said else f"{reason} | {said[-1]}"[:300])


def _kill(process: subprocess.Popen[str]) -> None:
    """The whole group: loaders and launchers start processes of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
