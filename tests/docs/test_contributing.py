"""CONTRIBUTING.md tells all that a new operation needs: this test does what it says, in a copy of the tree.

The steps are read from the text. Each has its action in `ACTIONS`, so a step that the text loses, or has too much, is a
failure; and the operation must work after them, so a step that both have forgotten is one, too. The files of the toy
operation lie in tests/docs/toy_operation.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import HANG

ROOT = Path(__file__).resolve().parents[2]
TOY = Path(__file__).parent / "toy_operation"
NAME = "squared_relu"


def steps(text: str) -> list[str]:
    """The files of the numbered steps of "Add an operation", as they stand there."""
    section = text.split("\n## Add an operation\n")[1].split("\n## ")[0]
    return re.findall(r"^\d+\. \*\*`([^`]+)`\*\*", section, re.M)


def add_to_front(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    text = text.replace("\n\n__all__ = [\n", f'\nfrom .{NAME} import {NAME}\n\n__all__ = [\n    "{NAME}",\n', 1)
    path.write_text(text, encoding="utf-8")


def add_to_cases(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^(from bench\.cases import .*)$", rf"\1, {NAME}", text, count=1, flags=re.M)
    text = re.sub(r"^(_OPERATIONS = \(.*)\)$", rf"\1, {NAME})", text, count=1, flags=re.M)
    path.write_text(text, encoding="utf-8")


def copy_of(name: str):
    return lambda path: shutil.copy(TOY / name, path)


ACTIONS = {
    "kernels/OP/reference.py": copy_of("reference.py"),
    "kernels/OP/triton_kernels.py": copy_of("triton_kernels.py"),
    "kernels/OP/triton_launch.py": copy_of("triton_launch.py"),
    "kernels/OP/op.py": copy_of("op.py"),
    "kernels/OP/__init__.py": copy_of("__init__.py"),
    "kernels/__init__.py": add_to_front,
    "tests/kernels/test_triton_OP.py": copy_of("triton_tests.py"),
    "bench/cases/OP.py": copy_of("case.py"),
    "bench/cases/__init__.py": add_to_cases,
}


STARTED = f"""
import sys, vatt.kernels
assert vatt.kernels.{NAME}
assert "triton" not in sys.modules
from bench.__main__ import main
assert not main("ops --op {NAME} --size tiny --device cpu".split())
assert not main("compiled --op {NAME} --arch sm_90".split())
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what the steps and the tests need, before any step."""
    copy = tmp_path_factory.mktemp("contributing") / "tree"
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("kernels", "vatt", "train", "bench", "tests/house", "tests/kernels"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    for name in ("tests/conftest.py", "tests/interpreter.py", "tests/limits.py", "tests/numerics.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def python(tree: Path, *arguments: str, interpret: bool = True) -> str:
    """What ``python ARGUMENTS`` prints in the tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "TRITON_INTERPRET": str(int(interpret))}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_the_text_and_this_test_have_the_same_steps():
    assert steps((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")) == list(ACTIONS)
    new = [step for step in ACTIONS if "OP" in step]
    assert len(list(TOY.glob("*.py"))) == len(new), "a file of the toy operation belongs to no step"


@pytest.mark.slow
def test_an_operation_works_after_the_steps_of_the_text(tree):
    for step in steps((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        path = tree / step.replace("OP", NAME)
        assert path.exists() == ("OP" not in step), f"{step}: a step with OP makes a new file, another one changes one"
        path.parent.mkdir(exist_ok=True)
        ACTIONS[step](path)
    python(tree, "-m", "ruff", "check", "--fix", "kernels", "tests/kernels", "bench/cases")  # sorts the new lines
    tests = ["tests/house/test_dependencies.py", "tests/house/test_import_graph.py", "tests/kernels/test_backends.py"]
    told = python(tree, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *tests, f"tests/kernels/test_triton_{NAME}.py")
    assert f"PASSED tests/kernels/test_triton_{NAME}.py::test_the_reference_by_hand" in told
    assert f"test_every_operation_refuses_integers_and_says_so[{NAME}]" in told, "the operation is not registered"
    told = python(tree, "-c", STARTED, interpret=False)
    assert f"{NAME} video p=0 forward+backward" in told
    assert f"{NAME}_backward" in told
