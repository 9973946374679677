"""A headless Chromium driven over its DevTools pipe, with the standard library alone.

Messages are JSON ended by a NUL byte; the browser reads them from file descriptor 3 and answers on 4.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.limits import HANG

NAMES = ("chromium", "chromium-browser", "google-chrome", "headless_shell")
OPTIONS = (
    *("--remote-debugging-pipe", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


def find() -> str | None:
    """The first browser on PATH, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class BrowserError(RuntimeError):
    """The browser ended, did not answer in time, or refused a command."""


class Browser:
    """One page of a new browser with an empty profile. Every wait has an end, and `close` ends the process group.

    Attributes:
        events: all that the page told of itself, in order: {"method": ..., "params": ...}.
    """

    def __init__(self, program: str, profile: Path, timeout: float = HANG) -> None:
        self.timeout, self.events = timeout, list[dict[str, Any]]()
        self._rest, self._number, self._session = b"", 0, None
        theirs_in, self._out = _pipe()
        self._in, theirs_out = _pipe()
        self._process = _start([program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"], theirs_in, theirs_out)
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result. Raises BrowserError."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        try:
            os.write(self._out, json.dumps(message).encode() + b"\0")
        except OSError as error:
            raise BrowserError(f"{method}: the browser has ended: {error}") from error
        until = time.monotonic() + self.timeout
        while (answer := self._read(until, method)).get("id") != self._number:
            self._keep(answer)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def wait(self, done: Callable[[], bool], what: str) -> None:
        """Until the events so far make ``done`` true; they may have come with an answer. Raises BrowserError."""
        until = time.monotonic() + self.timeout
        while not done():
            self._keep(self._read(until, what))

    def _keep(self, answer: dict[str, Any]) -> None:
        if "method" in answer:
            self.events.append(answer)

    def _read(self, until: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise BrowserError(f"{what}: no answer in {self.timeout:g} s")
            read = os.read(self._in, 1 << 20)
            if not read:
                raise BrowserError(f"{what}: the browser has ended")
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, url: str) -> None:
        """Loads a page, and returns when it is loaded."""
        before = len(self.events)
        failed = self.ask("Page.navigate", url=url).get("errorText")
        if failed:
            raise BrowserError(f"{url}: {failed}")
        loaded = "Page.loadEventFired"
        self.wait(lambda: any(event["method"] == loaded for event in self.events[before:]), loaded)

    def run(self, script: str) -> Any:
        """The value of an expression in the page. Raises BrowserError where the page throws."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise BrowserError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def size(self, width: int, height: int) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def click(self, selector: str) -> None:
        """Presses the mouse in the middle of an element, as a reader would."""
        where = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{where}.scrollIntoView({{block: 'center', inline: 'center'}})")
        box = self.run(f"{where}.getBoundingClientRect().toJSON()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str, text: str = "") -> None:
        """Presses a key, such as Enter with the text "\\r"."""
        code = {"Enter": 13, "Tab": 9}.get(name, 0)
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=name, code=name, text=text, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        """Types into what has the focus."""
        self.ask("Input.insertText", text=text)

    def problems(self) -> list[str]:
        """Errors in the console, exceptions and issues (violations of the page's policy among them) so far."""
        bad: dict[str, Callable[[dict[str, Any]], bool]] = {
            "Runtime.exceptionThrown": lambda params: True,
            "Audits.issueAdded": lambda params: True,
            "Log.entryAdded": lambda params: params["entry"]["level"] == "error",
            "Runtime.consoleAPICalled": lambda params: params["type"] in ("error", "assert"),
        }
        found = [(bad[event["method"]], event["params"]) for event in self.events if event["method"] in bad]
        return [json.dumps(params)[:500] for is_bad, params in found if is_bad(params)]

    def requests(self) -> list[str]:
        """The addresses of all that was asked for so far."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def close(self) -> None:
        """Ends the browser with all its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=HANG)
        for number in (self._in, self._out):
            with contextlib.suppress(OSError):
                os.close(number)


def _pipe() -> tuple[int, int]:
    """A pipe whose ends have numbers above those that the browser wants for itself."""
    low = os.pipe()
    high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 20) for number in low]
    for number in low:
        os.close(number)
    return high[0], high[1]


def _start(command: list[str], reads: int, writes: int) -> subprocess.Popen[bytes]:
    """In a process group of its own, with the pipe on 3 and 4. A shell puts it there: between fork and exec, a process
    with threads must not run Python."""
    script = f'exec 3<&{reads} 4>&{writes}; exec "$@"'
    return subprocess.Popen(
        ["bash", "-c", script, "browser", *command],
        pass_fds=(reads, writes),
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
