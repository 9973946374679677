"""What a signal does to a command: it raises, is put off, or ends it at once; each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

from tests.limits import HANG
from tests.train.ranks import ROOT

INTERRUPT, TERMINATE, HANG_UP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def told(code, *numbers, before=()):
    """What a script that runs ``code`` prints and how it ends, if it gets these signals when it says "ready"."""
    script = "import os, signal, sys, time\nfrom vatt import signals\n" + textwrap.dedent(code)
    command = [*before, sys.executable, "-u", "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            said = ""
            for number in numbers:
                while not (line := process.stdout.readline()).startswith("ready"):
                    assert line, said
                    said += line
                process.send_signal(number)
            said += process.communicate(timeout=HANG)[0]
        finally:
            process.kill()
    return said, process.returncode


@pytest.mark.parametrize(("number", "status"), [(INTERRUPT, 130), (TERMINATE, 143), (HANG_UP, 129)])
def test_a_signal_raises_what_unwinds_and_has_the_status_of_a_shell(number, status):
    code = """
        try:
            with signals.ending():
                try:
                    print("ready")
                    time.sleep(60)
                finally:
                    print("cleaned")
        except signals.SignalInterrupt as stopped:
            print(stopped)
            sys.exit(signals.status())
    """
    words = {130: "interrupted", 143: "ended by SIGTERM", 129: "ended by SIGHUP"}[status]
    assert told(code, number) == (f"cleaned\n{words}\n", status)


def test_a_finalizer_does_not_swallow_it():
    code = """
        class Slow:
            def __del__(self):
                print("ready")
                time.sleep(9)
        try:
            with signals.ending():
                Slow()
                time.sleep(9)
                print("swallowed")
        except signals.SignalInterrupt as stopped:
            print(stopped)
            sys.exit(signals.status())
    """
    assert told(code, HANG_UP) == ("ended by SIGHUP\n", 129)


PUT_OFF = """
    with signals.put_off():
        print("ready")
        while signals.received() is None:
            time.sleep(0.01)
        print("noted")
        {rest}
    sys.exit(signals.status())
"""


def test_what_must_be_finished_is_finished_and_what_can_be_left_out_is_left_out():
    rest = """
        try:
            with signals.may_interrupt():
                print("evaluated")
        except signals.SignalInterrupt:
            print("left out")
        print("saved")
    """
    code = PUT_OFF.format(rest=textwrap.indent(textwrap.dedent(rest), " " * 8).strip())
    assert told(code, TERMINATE) == ("noted\nleft out\nsaved\n", 143)


def test_a_second_interrupt_ends_at_once():
    code = PUT_OFF.format(rest='time.sleep(0.6); print("ready"); time.sleep(60)')
    said, status = told(code, INTERRUPT, INTERRUPT)
    assert said.startswith("noted\nTraceback")
    assert status  # of an exception that nobody catches


def test_a_library_that_does_not_come_back_does_not_keep_a_second_interrupt_waiting():
    """As in a collective of which another rank has gone: no Python code runs in the main thread."""
    code = """
        import ctypes, threading
        signals._SAME, signals._AGAIN = 0.05, 0.05

        def interrupt():
            for _ in range(2):
                time.sleep(0.3)
                os.kill(os.getpid(), signal.SIGINT)

        with signals.put_off():
            threading.Thread(target=interrupt, daemon=True).start()
            library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
            library.pthread_mutex_lock(mutex)
            library.pthread_mutex_lock(mutex)
    """
    assert told(code) == ("interrupted\n", 130)


def test_a_script_that_is_being_imported_ends_in_a_line():
    code = 'signals.early(); print("ready"); time.sleep(60)'
    assert told(code, INTERRUPT) == ("interrupted\n", 130)


def test_an_import_does_not_swallow_it():
    code = """
        with signals.ending():
            with signals.at_once("then "):
                try:
                    print("ready")
                    time.sleep(60)
                except BaseException:
                    print("swallowed")
    """
    assert told(code, TERMINATE) == ("then ended by SIGTERM\n", 143)


def test_a_library_that_must_not_be_interrupted_is_not():
    code = """
        signals._SAME, signals._AGAIN = 0.05, 60
        with signals.put_off(second_raises=False):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)
            print("done")
        sys.exit(signals.status())
    """
    assert told(code) == ("done\n", 130)


def test_nohup_is_heeded():
    code = """
        signals.early()
        with signals.ending():
            print("ready"); time.sleep(0.3); print("ready"); time.sleep(60)
    """
    said, status = told(code, HANG_UP, TERMINATE, before=["nohup"])
    assert "SIGTERM" in said
    assert status in (1, -TERMINATE, 143)


def test_a_forked_process_keeps_its_signals_to_itself():
    code = """
        with signals.put_off():
            child = os.fork()
            if not child:
                time.sleep(60)
                os._exit(0)
            os.kill(child, signal.SIGTERM)
            print(os.waitpid(child, 0)[1], signals.received())
            time.sleep(0.2)
            print(signals.received())
    """
    assert told(code) == (f"{int(TERMINATE)} None\nNone\n", 0)
