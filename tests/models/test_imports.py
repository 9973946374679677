"""Every module of the models and operations can be the first one that a program imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIRST = """
import importlib, sys
for name in sys.argv[1:]:
    for loaded in [key for key in sys.modules if key.split(".")[0] == "vatt"]:
        del sys.modules[loaded]
    importlib.import_module(name)
    print(name)
"""


def test_any_module_may_be_imported_first():
    folders = [ROOT / "vatt", *(ROOT / "vatt" / name for name in ("models", "embedding", "cli"))]
    files = [path for folder in folders for path in folder.glob("*.py")] + list((ROOT / "kernels").rglob("*.py"))
    names = []
    for path in files:
        relative = path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__").replace("/", ".")
        names.append(f"vatt.{relative}" if relative.startswith("kernels") else relative)
    assert "vatt.objectives.contrastive" in names
    done = subprocess.run([sys.executable, "-c", FIRST, *names], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == names
