"""No import goes in a circle: not at the top of a module, not inside a function, not under TYPE_CHECKING.

An edge leads from a file to each module that any import statement in it names: ``from package import name`` leads to
``package.name`` where that is a module, else to the package itself, that is its ``__init__.py``. Whoever imports
``package.module`` from outside the package runs the package's ``__init__.py`` first, so there is an edge to it, too.
From inside the package there is none: its ``__init__.py`` is running or done by then, and a package whose
``__init__.py`` lists names of its own modules would be a circle otherwise; a module that takes a name from there has
the edge, and is found. Not seen are imports by a computed name (`importlib`), as of the names that ``vatt`` gives.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("kernels", "vatt", "train", "bench")

Graph = dict[str, set[str]]


def modules(root: Path, layers: tuple[str, ...]) -> dict[str, Path]:
    """Name -> file of every module; ``kernels`` is ``vatt.kernels``, as it is imported through the link."""
    found = {}
    for layer in layers:
        for path in sorted((root / layer).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[:2] == ("vatt", "kernels"):
                continue  # the link, where the walk follows it
            name = ".".join(parts).removesuffix(".__init__")
            found[f"vatt.{name}" if layer == "kernels" else name] = path
    return found


def graph(root: Path, layers: tuple[str, ...]) -> Graph:
    known = modules(root, layers)
    edges: Graph = {}
    for name, path in known.items():
        named = set(_imports(name, path, known))
        packages = {package for other in named for package in _above(other) if package in known}
        outside = {package for package in packages if not f"{name}.".startswith(f"{package}.")}
        edges[name] = (named | outside) - {name}
    return edges


def _above(name: str) -> list[str]:
    """The packages that a module is in."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _imports(name: str, path: Path, known: dict[str, Path]):
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                if inner in known or source in known:
                    yield inner if inner in known else source


def circles(edges: Graph) -> list[list[str]]:
    """The strongly connected parts of more than one module (Tarjan), each sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def way_around(edges: Graph, part: list[str]) -> str:
    """The shortest circle through the first module of a part, as text."""
    ways = [[part[0]]]
    for way in ways:
        for other in sorted(edges[way[-1]] & set(part)):
            if other == part[0]:
                return " -> ".join([*way, other])
            if not any(other in earlier for earlier in ways):
                ways.append([*way, other])
    raise AssertionError("no circle")


def test_no_import_goes_in_a_circle():
    edges = graph(ROOT, LAYERS)
    assert "vatt.kernels.attention.op" in edges["vatt.kernels.attention"]
    assert "vatt.models.vatt" in edges["vatt.models"]
    assert "train.core.engine" in edges
    found = circles(edges)
    told = "\n".join(f"{way_around(edges, part)}  (in all: {', '.join(part)})" for part in found)
    assert not found, f"imports go in a circle:\n{told}"


TOY = {
    "vatt/__init__.py": "from vatt.rooms import door",
    "vatt/rooms/__init__.py": "from vatt.rooms.a import name",
    "vatt/rooms/a.py": "import math\nfrom . import b",
    "vatt/rooms/b.py": "",
    "vatt/rooms/c.py": "from vatt.rooms import b\nimport vatt.rooms.a",
    "vatt/halls/__init__.py": "from vatt.rooms.b import name",
    "vatt/halls/x.py": "",
}


@pytest.mark.parametrize(
    ("file", "text", "circle"),
    [
        ("vatt/rooms/b.py", "def late():\n    from vatt.rooms.a import name", ["vatt.rooms.a", "vatt.rooms.b"]),
        ("vatt/rooms/b.py", "if TYPE_CHECKING:\n    from .a import name", ["vatt.rooms.a", "vatt.rooms.b"]),
        ("vatt/rooms/b.py", "import vatt.rooms.c", ["vatt.rooms.a", "vatt.rooms.b", "vatt.rooms.c"]),
        # a name of rooms/__init__.py, which takes one of a
        ("vatt/rooms/b.py", "from vatt.rooms import name", ["vatt.rooms", "vatt.rooms.a", "vatt.rooms.b"]),
        # halls/__init__.py runs before halls/x.py, and takes a name of b, for which rooms/__init__.py runs first
        ("vatt/rooms/b.py", "from vatt.halls.x import y", ["vatt.halls", "vatt.rooms", "vatt.rooms.a", "vatt.rooms.b"]),
        ("kernels/op.py", "def f():\n    from . import op2", ["vatt.kernels.op", "vatt.kernels.op2"]),
        ("kernels/op.py", "def f():\n    from .op2 import g", ["vatt.kernels.op", "vatt.kernels.op2"]),
    ],
)
def test_a_circle_is_found_wherever_it_hides(tmp_path, file, text, circle):
    tree = {**TOY, "kernels/__init__.py": "", "kernels/op.py": "", "kernels/op2.py": "from .op import h"}
    for name, content in tree.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert circles(graph(tmp_path, ("vatt", "kernels"))) == []
    (tmp_path / file).write_text(text)
    edges = graph(tmp_path, ("vatt", "kernels"))
    assert circles(edges) == [circle]
    assert way_around(edges, circle).startswith(f"{circle[0]} -> ")
