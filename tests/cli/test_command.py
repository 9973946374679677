"""The command ``vatt``: its sub-commands, what they do with errors, and how it says how far it is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from textwrap import dedent

import pytest

from tests.limits import HANG
from vatt.__main__ import COMMANDS, main
from vatt.cli import info, progress, search
from vatt.errors import UserError
from vatt.search import encoder
from vatt.signals import SignalInterrupt


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: vatt {name} " in capsys.readouterr().out


@pytest.mark.slow
def test_python_m_vatt_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "vatt", "--help"], capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("a.csv, column video: is empty"), 1, "error: a.csv, column video: is empty\n"),
        (PermissionError(13, "Permission denied", "b"), 1, "error: [Errno 13] Permission denied: 'b'\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SignalInterrupt(signal.SIGTERM), 143, "ended by SIGTERM\n"),
    ],
)
def test_errors_that_a_user_can_mend_are_one_line(error, status, line, monkeypatch, capsys):
    def run(options):
        raise error

    monkeypatch.setattr(info, "run", run)
    assert main(["info"]) == status
    assert capsys.readouterr().err == line


@pytest.mark.slow
@pytest.mark.parametrize(("most", "words"), [(1, "no thread can be started"), (2, "no process can be started")])
def test_a_limit_of_processes_is_told(most, words, tmp_path):
    """A real one, `ulimit -u`, as another user (root has none) who may read what root may."""
    if os.getuid() or not shutil.which("setpriv") or not shutil.which("prlimit"):
        pytest.skip("takes root and util-linux")
    (tmp_path / "a.mp4").write_bytes(b"x")
    tmp_path.chmod(0o777)
    may = "+dac_override,+dac_read_search"
    user = ["setpriv", f"--reuid={54321 + most}", "--clear-groups", f"--inh-caps={may}", f"--ambient-caps={may}"]
    command = [*user, "prlimit", f"--nproc={most}", sys.executable, "-m", "vatt", "data", "check", str(tmp_path)]
    environment = {**os.environ, "VATT_CACHE": str(tmp_path / "cache")}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # whose own threads come first, and complain
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, env=environment)
    if "setpriv" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {words}"), done.stderr
    assert "ulimit" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_fault_of_this_project_is_not_hidden(monkeypatch):
    monkeypatch.setattr(info, "run", lambda options: {}["gone"])
    with pytest.raises(KeyError):
        main(["info"])


def test_progress_in_a_log_is_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    with progress.progress("clips") as tell:
        tell(64, 100)
        tell(72, 100, 1)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "64 of 100 clips"
    assert second.startswith("72 of 100 clips")
    assert ", 1 faults, 0:00:0" in second  # and the time that is left
    assert second.endswith(" left")
    monkeypatch.setattr(progress, "LINE_EVERY", 1000.0)
    with progress.progress("clips") as tell:
        tell(64, 100)
    assert capsys.readouterr().err == ""


def test_help_and_refusals_do_not_wait_for_pytorch():
    """Which takes many seconds to import on a machine that is busy."""
    code = """
        import sys
        from vatt.__main__ import COMMANDS, main

        def refused(*words):
            try:
                return main(list(words))
            except SystemExit as stopped:
                return stopped.code

        assert refused("--help") == 0
        for name in COMMANDS:
            if name != "plan":
                assert refused(name, "--help") == 0, name
                assert refused(name, "--wrong-flag") == 2, name
        given = {
            "index": ["--model", ".", "--out", "out"],
            "embed": ["--model", ".", "--out", "out.npy"],
            "search": ["a dog"],
            "serve": [],
            "info": [],
            "push": ["me/name", "--license", "mit"],
        }
        for name, rest in given.items():
            assert refused(name, "/no/such/folder", *rest) == 1, name
        assert refused("data", "check", "/no/such/folder") == 1
        assert refused("serve", ".", "--port", "70000") == 1
        assert "torch" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr[-2000:]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 8
    assert all("/no/such/folder: no such folder" in line for line in errors[:-1])


def test_what_search_compares_with_is_what_its_library_has():
    """Written twice, as the library waits for PyTorch."""
    assert search.TARGETS == encoder.TARGETS
