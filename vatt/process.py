"""Processes of experiments and benchmarks: each may have a time limit, and whatever ends one is a reason to tell.

A worker is a process that runs one function of this project (`worker`): it gets ``settings``, sends messages, and may
be asked for more. A message is a JSON object on a line of its own. What libraries print in a worker goes to its
standard error output, whose last line is the reason when it dies.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from vatt.errors import UserError
from vatt.files import TREE

Message = dict[str, Any]
Send = Callable[[Message], None]


class ProcessFailed(UserError, RuntimeError):
    """A process that did not do its work; the message says why. ``process``: which one, where it was asked."""

    def __init__(self, message: str, process: Process | None = None) -> None:
        super().__init__(f"{process.name}: {message}" if process is not None and process.name else message)
        self.process = process


def worker(function: str, settings: Mapping[str, Any]) -> list[str]:
    """The command that calls ``function`` ("package.module:name") with (settings, send, requests) in a new process.

    ``send`` (Send) writes a message to whoever started the process; ``requests`` iterates over what it is asked.
    """
    return [sys.executable, "-m", "vatt.process", function, json.dumps(settings)]


@contextmanager
def running(
    command: Sequence[str],
    *,
    limit: float | None = None,
    folder: Path = TREE,
    environment: Mapping[str, str] | None = None,
    name: str = "",
) -> Iterator[Process]:
    """Runs a command in ``folder``, for ``limit`` seconds at most. It and all it started are gone when the block ends,
    with the temporary files that a killed process leaves. ``environment``: variables besides those of this process;
    ``name``: what its failures begin with."""
    # Without Triton's interpreter, whose times say nothing of the kernels.
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with (
        tempfile.TemporaryDirectory(prefix="vatt-", ignore_cleanup_errors=True) as scratch,
        tempfile.TemporaryFile("w+", errors="replace") as errors,
    ):
        options: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        options |= dict(cwd=folder, env=inherited | {"TMPDIR": scratch} | dict(environment or {}))
        process = subprocess.Popen(command, start_new_session=True, **options)
        found = Process(process, errors, name)
        try:
            with found.limited(limit):
                yield found
        finally:
            found.kill()
            process.wait()
            for pipe in (found.stdin, found.stdout):
                with suppress(OSError):  # what was never read by a process that is gone
                    pipe.close()


class Process:
    """A running process, the messages from and to it, and why it ended."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str], name: str = "") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.name, self.stdin, self.stdout = name, process.stdin, process.stdout
        self.expired: float | None = None  # the limit that ended it
        self._process, self._errors = process, errors

    @contextmanager
    def limited(self, seconds: float | None) -> Iterator[None]:
        """Inside, the process is ended after so many seconds."""
        timer = threading.Timer(seconds or threading.TIMEOUT_MAX, self._expire, [seconds])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self, seconds: float | None) -> None:
        self.expired = seconds
        self.kill()

    def kill(self) -> None:
        """Ends the whole group: loaders and launchers start processes of their own."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def messages(self) -> Iterator[Message]:
        """What a worker sends, until it ends."""
        return (json.loads(line) for line in self.stdout)

    def ask(self, request: Message, limit: float) -> Message:
        """A worker's answer to a request.

        Raises:
            ProcessFailed: it has ended, gives no answer in ``limit`` seconds, or answers {"failed": reason}.
        """
        with self.limited(limit):
            with suppress(OSError):  # it has ended: its output ends too
                self.stdin.write(json.dumps(request) + "\n")
                self.stdin.flush()
            answer = next(self.messages(), None)
        if answer is None:
            raise ProcessFailed(self.why() or "ended without an answer", self)
        if "failed" in answer:
            raise ProcessFailed(answer["failed"], self)
        return answer

    def finish(self) -> None:
        """Waits for the end. Raises ProcessFailed for a bad one."""
        self.stdin.close()
        said = [line.strip() for line in self.stdout if line.strip()]  # a full pipe would stop it
        if (reason := self.why()) is not None:
            raise ProcessFailed(reason if self.expired or not said else f"{reason} | {said[-1]}"[:300])

    def why(self) -> str | None:
        """The reason of a bad end, or None for a good one. Waits for the end."""
        status = self._process.wait()
        if self.expired is not None:
            return f"took longer than {self.expired:g} s and was ended"
        if status == 0:
            return None
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read()[-20_000:].splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith("error: ")), lines[-1] if lines else "")
        if status < 0:
            name = signal.Signals(-status).name
            hint = " (so the system ends a process that takes too much memory)" if name == "SIGKILL" else ""
            return f"ended by {name}{hint}: {said}"[:300]
        return f"ended with status {status}: {said}"[:300]


def _main(function: str, settings: str) -> None:
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # else it is behind the reason of an exit
    module, _, name = function.partition(":")

    def send(message: Message) -> None:
        channel.write(json.dumps(message) + "\n")

    requests = (json.loads(line) for line in sys.stdin)
    getattr(importlib.import_module(module), name)(json.loads(settings), send, requests)


if __name__ == "__main__":
    _main(*sys.argv[1:])
