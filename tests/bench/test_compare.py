"""Two trees side by side: a slowed operation is found, a wrong one is refused, and the interval holds what it says."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.compare import checkout, least_rounds, ratio, side
from bench.store import read
from tests.bench.commands import bench
from tests.limits import HANG
from vatt.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CASE = "norm/layer/float32/p0"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A repository of its own with the library and the benchmark of this one, committed."""
    tree = tmp_path_factory.mktemp("clone") / "tree"
    for name in ("vatt", "kernels", "bench"):
        unwanted = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=unwanted)
    shutil.copy(ROOT / ".gitignore", tree)
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=T", "-c", "user.email=t@t", "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(tree), *words], check=True, timeout=HANG)
    return tree


START = "    if residual is None:\n        return F.layer_norm"


@pytest.fixture(scope="module")
def sides(clone, tmp_path_factory):
    """Both sides of a comparison of the clone with its commit, each in its process, once for all tests: the plain layer
    norm of the clone does, at each call, what the file that comes with them says."""
    fault = tmp_path_factory.mktemp("fault") / "fault.py"
    fault.write_text("")
    path = clone / "kernels" / "norm" / "reference.py"
    text = path.read_text()
    assert text.count(START) == 1, "kernels/norm/reference.py has changed: find its layer_norm"
    hook = f"    said = dict(weight=weight)\n    exec(open({str(fault)!r}).read(), said)\n    weight = said['weight']\n"
    path.write_text(text.replace(START, hook + START))
    settings = dict(device="cpu", threads=1, wanted=dict(size="tiny", ops=["norm"], steps=[]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.compare.TREE", clone)
        with (
            checkout("HEAD") as (folder, commit),
            side("this tree", clone, settings) as new,
            side("base", folder, settings) as base,
        ):
            yield {"this tree": new, "base": base}, (folder, commit), fault


@pytest.fixture
def compare(sides, clone, monkeypatch):
    """Runs the command with those sides while the clone has a fault."""
    started, found, fault = sides
    monkeypatch.setattr("vatt.results.TREE", clone)
    monkeypatch.setattr("bench.compare.checkout", lambda ref: nullcontext(found))
    monkeypatch.setattr("bench.compare.side", lambda name, folder, settings: nullcontext(started[name]))

    def run(code, *options):
        fault.write_text(code)
        words = ["--base", "HEAD", "--size", "tiny", "--device", "cpu", "--op", "norm", "--case", CASE]
        return bench("compare", *words, "--seconds", "0.2", "--threads", "1", *options)

    return run


@pytest.mark.slow
def test_a_slowed_operation_is_found_and_an_unchanged_one_is_not(compare, clone, tmp_path):
    results = tmp_path / "results.csv"
    status, out, err = compare("", "--threshold", "3", "--results", str(results))
    assert status == 0, out + err
    assert "none is slower by more than 300%" in out
    rows = read(results)
    assert {(r["provider"], r["mode"]) for r in rows} == {("auto", "forward"), ("auto", "forward+backward")}
    assert len(rows) == 4
    assert len({r["commit"] for r in rows}) == 1
    git = ["git", "-C", str(clone), "status", "--porcelain"]
    changed = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    assert changed == " M kernels/norm/reference.py\n"
    for _ in range(3):  # a loaded machine may leave the interval too wide for a verdict
        status, out, err = compare("__import__('time').sleep(0.01)", "--threshold", "3", "--mode", "forward")
        if status == 1:
            break
        assert status == 0, out + err
        assert re.search(r"unclear|SLOWER", out), out
    else:
        pytest.skip(f"the machine is too noisy for a verdict:\n{out}")
    assert re.search(rf"SLOWER .* {CASE} forward auto \(measured again\)", out)
    assert "1 slower by more than 300%, 0 no longer run" in out


@pytest.mark.slow
def test_wrong_results_are_refused_before_any_time_is_taken(compare):
    status, out, err = compare("weight = weight * 1.01")
    assert status == 2, out + err
    assert f"{CASE}: normed lies" in err
    assert "verdict" not in out
    status, out, err = compare("raise RuntimeError('out of order')")
    assert status == 2
    assert "out of order" in err


def _interrupted():
    raise KeyboardInterrupt


def test_bad_requests(capsys, monkeypatch):
    tiny = ["--size", "tiny", "--device", "cpu"]
    assert main(["compare", "--base", "no-such-commit", *tiny, "--op", "norm"]) == 2
    assert "'no-such-commit' is no commit" in capsys.readouterr().err
    assert main(["ops", *tiny, "--case", "nothing"]) == 2
    assert "matches nothing" in capsys.readouterr().err
    for words in (["--rounds", "2"], ["--threshold", "0"], ["--threads", "0"], ["--step", "vatt-base"]):
        with pytest.raises(SystemExit):
            main(["compare", "--device", "cpu", "--base", "HEAD", *words])
        assert words[0] in capsys.readouterr().err
    for words in (["compare"], ["ops", "--resume"], ["steps", "--step", "vatt-bass:2"], ["compiled", "--arch", "sm_1"]):
        with pytest.raises(SystemExit):
            main(words)
        assert (words[1] if len(words) > 1 else "--base") in capsys.readouterr().err
    for words in (["ops", "--seconds", "nan"], ["steps", "--minutes", "-1"], ["check", "--seconds", "0"]):
        with pytest.raises(SystemExit):
            main(words)
        assert words[1] in capsys.readouterr().err
    assert main(["jobs", "--seconds", "-1"]) == 2
    assert "--seconds -1: must be above 0" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("bench.measure.peaks.lower_bounds", _interrupted)
        assert main(["lower-bounds"]) == 130
    assert capsys.readouterr().err == "bench lower-bounds: interrupted\n"
    assert main(["opps"]) == 2
    assert "did you mean 'ops'?" in capsys.readouterr().err


def test_a_results_file_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bench.measure.session.measure_peaks", lambda *_: pytest.fail("it was measured"))
    monkeypatch.setattr("bench.compare.checkout", lambda *_: pytest.fail("it was measured"))
    monkeypatch.setattr("bench.checks.compiled.compile_all", lambda *_: pytest.fail("it was compiled"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    tiny = ["--size", "tiny", "--device", "cpu"]
    for words in (
        ["ops", *tiny, "--results", str(tmp_path)],
        ["compare", *tiny, "--base", "HEAD", "--results", str(tmp_path)],
        ["jobs", *tiny, "--results", str(tmp_path)],
        ["compiled", "--op", "norm", "--out", str(tmp_path)],
    ):
        assert main(words) == 2, words
        said = capsys.readouterr().err
        assert said.startswith(f"bench {words[0]}: ")
        assert str(tmp_path) in said


def test_a_base_with_another_library_is_told(tmp_path):
    """One before what bench/ needs of it: its process ends without a word."""
    shutil.copytree(ROOT / "vatt", tmp_path / "vatt", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "vatt" / "process.py").write_text("")
    with pytest.raises(UserError) as told, side("base", tmp_path, {}):
        pass
    assert str(told.value).startswith("bench/ of this tree does not run with the library of base: ")


def test_the_interval_holds_the_median_as_often_as_it_says():
    """Both sides alike, noisy and skewed: the interval may miss 1 in at most 5% of the cases (and some chance)."""
    draw = random.Random(0)
    for rounds in (least_rounds(), 9, 15):
        missed = 0
        for _ in range(800):
            new, base = ([[draw.lognormvariate(0, 0.3) for _ in range(3)] for _ in range(rounds)] for _ in range(2))
            found = ratio(new, base)
            assert found.low <= found.median <= found.high
            missed += not found.low <= 1 <= found.high
        assert missed / 800 < 0.075, rounds


def test_verdicts():
    base = [[1.0, 1.0]] * 9
    assert ratio([[1.2, 1.2]] * 9, base).verdict(0.05) == "SLOWER"
    assert ratio([[0.8, 0.8]] * 9, base).verdict(0.05) == "faster"
    assert ratio([[1.01, 1.01]] * 9, base).verdict(0.05) == "same"
    assert ratio([[1.5], *[[1.1]] * 4, *[[1.0]] * 4], base).verdict(0.05) == "unclear"
    drifting = [[1.0 + n] for n in range(9)]  # a machine that grows slower divides out
    assert ratio([[2 * x[0]] for x in drifting], drifting).verdict(0.05) == "SLOWER"
    with pytest.raises(ValueError, match="rounds"):
        ratio([[1.0]] * 3, [[1.0]] * 3)
    with pytest.raises(ValueError, match="argument"):
        ratio([[1.0]] * 9, [[1.0]] * 8)


@pytest.mark.slow
def test_a_library_that_lacks_a_module_is_refused_even_where_another_one_is_installed(tmp_path):
    """An editable install finds the modules that a library lacks, and a new operation would be compared with itself."""
    shutil.copytree(ROOT / "vatt", tmp_path / "vatt", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bench").symlink_to(ROOT / "bench", target_is_directory=True)
    (tmp_path / "vatt" / "environment.py").unlink()
    settings = dict(device="cpu", threads=1, wanted=dict(size="tiny", ops=["norm"], steps=[]))
    with pytest.raises(UserError, match="environment"), side("base", tmp_path, settings):
        pass
