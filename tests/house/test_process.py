"""Processes that measure: what they answer, why they ended, and that nothing of them stays."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import pytest

from vatt.process import Message, ProcessFailed, Send, running, worker

HERE = f"{__name__}:answer"


def answer(settings: Message, send: Send, requests: Iterator[Message]) -> None:
    """What the workers of these tests do."""
    print("a library prints this")
    for request in requests:
        if "exit" in request:
            sys.exit(request["exit"])
        if request.get("sleep"):
            time.sleep(600)
        sum_ = settings["start"] + request["add"]
        send({"failed": "not negative"} if sum_ < 0 else {"sum": sum_, "interpret": os.environ.get("TRITON_INTERPRET")})


def script(*words: str) -> list[str]:
    return [sys.executable, "-S", "-c", "\n".join(words)]


def test_a_worker_answers_and_says_why_it_ended(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # the last line must be the reason without it, too
    with running(worker(HERE, {"start": 3})) as process:
        assert process.ask({"add": 4}, 300) == {"sum": 7, "interpret": None}
        with pytest.raises(ProcessFailed, match=r"^not negative$"):
            process.ask({"add": -4}, 300)
        assert process.ask({"add": 1}, 300)["sum"] == 4  # goes on after a failure
        for _ in range(2):
            with pytest.raises(ProcessFailed, match="ended with status 1: bad weather"):
                process.ask({"exit": "bad weather"}, 300)
    with running(worker(HERE, {"start": 0})) as process:
        process.ask({"add": 1}, 300)
        with pytest.raises(ProcessFailed, match=r"took longer than 0\.5 s and was ended"):
            process.ask({"sleep": True}, 0.5)


@pytest.mark.parametrize("end", ["the block", "the limit"])
def test_all_that_a_process_started_ends_with_it(tmp_path, end):
    """As the reading processes of a loader do."""
    sign = tmp_path / "alive"
    inner = f"import os, time, pathlib; time.sleep(2); pathlib.Path({str(sign)!r}).touch()"
    start = f"subprocess.Popen([sys.executable, '-S', '-c', {inner!r}])"
    words = ["import subprocess, sys, time, os", start, "print(os.environ['TMPDIR'], flush=True)", "time.sleep(600)"]
    with running(script(*words), limit=0.3 if end == "the limit" else 600) as process:
        scratch = process.stdout.readline().strip()
        assert os.path.isdir(scratch) or end == "the limit"  # a slow machine may not come so far
        if end == "the limit":
            assert "took longer than 0.3 s" in process.why()
    assert not scratch or not os.path.exists(scratch)
    time.sleep(2.5)
    assert not sign.exists()


def test_a_failing_command_says_what_it_said():
    words = "import sys; print('halfway'); sys.exit('error: run.steps: too few\\nlast words')"
    with (
        pytest.raises(ProcessFailed, match=r"status 1: error: run\.steps: too few \| halfway"),
        running(script(words), limit=600) as process,
    ):
        process.finish()
    with running(script("print('well')"), limit=600) as process:
        process.finish()
