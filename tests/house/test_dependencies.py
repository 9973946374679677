"""The house rules that keep the layers apart, checked on the syntax trees of every file."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("kernels", "vatt", "train", "bench")
MAY_IMPORT = {
    "kernels": set(),  # itself through relative imports only
    "vatt": {"vatt"},
    "train": {"vatt", "train"},
    "bench": {"vatt", "bench"},
}


def files(layer: str, root: Path = ROOT) -> list[Path]:
    """The source files of a layer. vatt/kernels is a symlink to kernels/, and belongs to that layer alone.

    Paths are compared relative to ``root``: the folder of a clone may have any name, ``vatt`` among them.
    """
    link = Path("vatt", "kernels")
    found = [p for p in sorted((root / layer).rglob("*.py")) if not p.relative_to(root).is_relative_to(link)]
    assert found, f"no source file in {layer}/"
    return found


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """The top-level names of the absolute imports in a file: anywhere, or only those run at import time."""
    tree = ast.parse(path.read_text(), str(path))
    names: set[str] = set()
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
        inside_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if not (top_level_only and inside_function):
            stack.extend(ast.iter_child_nodes(node))
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_dependencies_run_one_way(layer):
    for path in files(layer):
        wrong = (imports(path) & {*LAYERS, "tests"}) - MAY_IMPORT[layer]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_kernels_need_torch_alone():
    allowed = {"torch", "triton", "numpy"} | sys.stdlib_module_names
    external = {"flash_attn", "xformers"}  # used where they are installed, by one file, inside functions
    for path in files("kernels"):
        extra = external if path.name == "external.py" else set()
        assert imports(path) <= allowed | extra, f"{path.relative_to(ROOT)} imports {sorted(imports(path) - allowed)}"
        assert not imports(path, top_level_only=True) & external, f"{path.relative_to(ROOT)} imports one early"
        if "triton" not in path.name:  # only a file named for it may need Triton to be imported
            assert "triton" not in imports(path, top_level_only=True), f"{path.relative_to(ROOT)} imports triton early"


def test_exactly_one_file_imports_deepspeed():
    users = [p.relative_to(ROOT).as_posix() for layer in LAYERS for p in files(layer) if "deepspeed" in imports(p)]
    assert users == ["train/core/engine.py"]


def test_nothing_unpickles():
    """Loading a checkpoint never runs code: no pickle, and torch.load nowhere (safetensors and JSON instead)."""
    for layer in LAYERS:
        for path in files(layer):
            assert not imports(path) & {"pickle", "dill", "joblib", "shelve", "marshal"}, path
            for node in ast.walk(ast.parse(path.read_text())):
                is_load = isinstance(node, ast.Attribute) and node.attr == "load" and isinstance(node.value, ast.Name)
                assert not (is_load and node.value.id == "torch"), f"{path}:{node.lineno} calls torch.load"
                pickled = isinstance(node, ast.keyword) and node.arg == "allow_pickle"
                assert not (pickled and getattr(node.value, "value", None) is not False), f"{path}: allow_pickle"


def test_the_symlink_is_committed():
    link = ROOT / "vatt" / "kernels"
    assert link.is_symlink()
    assert link.readlink().as_posix() == "../kernels"


def test_the_folder_of_a_clone_may_have_any_name(tmp_path):
    clone = tmp_path / "vatt"
    for name in ("kernels/op.py", "vatt/model.py"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).touch()
    (clone / "vatt" / "kernels").symlink_to("../kernels")
    assert files("kernels", clone) == [clone / "kernels" / "op.py"]
    assert files("vatt", clone) == [clone / "vatt" / "model.py"]
