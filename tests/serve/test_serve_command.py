"""The command: what it cannot serve, and how it ends, whatever it is doing when it is told to."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.limits import HANG
from tests.test_signals import told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "--port: from 0 to 65535"),
        (["--host", "256.1.1.1"], "cannot be listened on"),
        (["--max-upload", "0"], "--max-upload"),
        (["--port", "TAKEN"], "cannot be listened on"),
    ],
)
def test_what_cannot_be_served_is_one_line(served, taken_port, capsys, arguments, words):
    from vatt.__main__ import main

    given = [str(taken_port) if word == "TAKEN" else word for word in arguments]
    assert main(["serve", str(served.index.path), "--device", "cpu", *given]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


# A server of an application that never answers, in a process that does not wait for PyTorch. `ask` begins a request.
SERVER = """
    import asyncio, threading, urllib.request
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route
    from vatt.serve import server

    async def never(request):
        print("asked")
        await asyncio.sleep(60)

    def ask(bound):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{{bound.getsockname()[1]}}/")
        except OSError:
            pass

    signals._SAME, server._GOODBYE = 0.05, 0.2
    app = Starlette(routes=[Route("/", never)])
    try:
        with signals.ending(), server.listen("127.0.0.1", 0) as bound:
            {begin}
            server.serve(app, bound)
    except signals.SignalInterrupt as stopped:
        print(stopped)
    sys.exit(signals.status())
"""
TWICE = "[(os.kill(os.getpid(), signal.SIGINT), time.sleep(0.2)) for _ in range(2)]"
LOOP = "asyncio.selector_events.BaseSelectorEventLoop"


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        # while the loop is made, and while it is closed: asyncio told a traceback of a loop that was half there
        (f"made = {LOOP}._make_self_pipe; {LOOP}._make_self_pipe = lambda loop: ({TWICE}, made(loop))", ""),
        (f"gone = {LOOP}._close_self_pipe; {LOOP}._close_self_pipe = lambda loop: ({TWICE}, gone(loop)); "
         "signals.on_signal(lambda: None); threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()", ""),
        # while a request waits for its answer, and before the server listens to signals
        ("threading.Thread(target=ask, args=[bound], daemon=True).start(); "
         "threading.Timer(1.5, os.kill, [os.getpid(), signal.SIGINT]).start()", "asked\n"),
        ("run = server._Server.__init__; server._Server.__init__ = lambda *a: (os.kill(os.getpid(), signal.SIGTERM), "
         "run(*a))[1]; signals._state.raising = False", ""),
    ],
    ids=["loop made", "loop closed", "asked", "before"],
)  # fmt: skip
def test_a_signal_at_any_moment_is_a_line(begin, said):
    out, status = told(SERVER.format(begin=begin))
    assert out in (said + "interrupted\n", said + "ended by SIGTERM\n")
    assert status == (143 if "SIGTERM" in out else 130)


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_end(served, tmp_path):
    command = [sys.executable, "-m", "vatt", "serve", str(served.index.path), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "5 files" in process.stdout.readline()
        address = process.stdout.readline().split()[0]
        import urllib.request

        with urllib.request.urlopen(address, timeout=HANG) as page:
            assert b"<title>" in page.read()
        process.send_signal(signal.SIGTERM)
        _out, errors = process.communicate(timeout=HANG)
        assert (process.returncode, errors) == (143, "ended by SIGTERM\n")
    finally:
        process.kill()
        process.communicate()
