"""The documents hang together: lengths, links, pictures, what is generated, and the site that is built of them."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FOLDERS = (".", "docs", "examples", "bench", "tests/reference")
DOCUMENTS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


CURRENT = [path for path in DOCUMENTS if path.name not in ("CHANGELOG.md", "LOG.md") and "reference" not in path.parts]
PATH = re.compile(r"(?<![\w./-])(?:(?:kernels|vatt|train|bench|tests|docs|examples)/[\w./<*{}-]+)")


def resolve(name):
    """Whether a dotted name leads to a module, or to what is in one."""
    try:
        return pkgutil.resolve_name(name) is not None
    except (ImportError, AttributeError):
        return False


def script(name):
    """A file of docs/scripts as a module."""
    spec = spec_from_file_location(name, DOCS / "scripts" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(path):
    """A document without its code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S))


def anchors(path):
    """The anchors of the headings, as code hosts and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S), re.M)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 140


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_pictures_are_there(path):
    for target in LINK.findall(prose(path)):
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{target}: no such file"
        assert file.is_relative_to(ROOT), f"{target}: outside of the repository"
        if anchor:
            assert anchor in anchors(file), f"{target}: no such heading"


@pytest.mark.parametrize("path", CURRENT, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_names_that_the_text_speaks_of_exist(path):
    """In code spans and drawings: paths of this repository, and dotted names of its modules and what is in them."""
    text = path.read_text(encoding="utf-8")
    for word in sorted(set(PATH.findall(text))):
        name = word.rstrip("./,")
        if re.search(r"[A-Z<]{2}|[<*{]", re.sub(r"(README|ARCHITECTURE|LOG|CONTRIBUTING)\.md", "", name)):
            continue  # a placeholder
        assert (ROOT / name).exists(), f"{path.name} speaks of {name}"
    for name in sorted(set(re.findall(r"`((?:vatt|train|bench)(?:\.[a-zA-Z_]\w*)+)`", text))):
        assert name.endswith(".csv") or resolve(name), f"{path.name} speaks of {name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_code_block_ends(path):
    assert len(re.findall(r"^\s*```", path.read_text(encoding="utf-8"), re.M)) % 2 == 0


@pytest.mark.parametrize("path", CURRENT, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_python_in_the_text_imports_what_exists(path):
    for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    assert resolve(f"{node.module}:{alias.name}"), f"{node.module} has no {alias.name}"


def test_every_page_is_in_the_navigation_and_the_reverse():
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("nav:")[1].split("theme:")[0]
    named = re.findall(r": (\S+\.md)$", config, re.M)
    assert len(named) == len(set(named))
    pages = {path.name for path in DOCS.glob("*.md")}
    assert pages <= set(named), "in docs/, but not in mkdocs.yml"
    for name in set(named) - pages:
        assert (ROOT / name).is_file(), f"mkdocs.yml names {name}"


def test_every_page_is_on_the_list_of_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert page.name == "index.md" or f"(docs/{page.name})" in text, page.name


def test_the_picture_and_the_tables_of_search_are_those_of_the_committed_rows(tmp_path, monkeypatch):
    module, text = script("search_picture"), (DOCS / "results.md").read_text(encoding="utf-8")
    for name in ("recalls", "in_common", "levels"):
        assert f"<!-- table: python docs/scripts/search_picture.py, {name} -->" in text, name
    monkeypatch.setattr(module, "PICTURE", tmp_path / "search.svg")
    monkeypatch.setattr(module, "PAGE", tmp_path / "results.md")
    (tmp_path / "results.md").write_text(text, encoding="utf-8")
    module.main()
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == text
    assert (tmp_path / "search.svg").read_text(encoding="utf-8") == (DOCS / "search.svg").read_text(encoding="utf-8")


def test_the_tables_of_settings_are_those_of_the_dataclasses():
    module, text = script("settings"), (DOCS / "settings.md").read_text(encoding="utf-8")
    assert module.write(text) == text, "run: python docs/scripts/settings.py"
    assert "| `lr` | `float` above 0, at most 100 |" in text
    assert "|  |\n" not in module.tables(), "a setting without a description"


@pytest.mark.parametrize("path", CURRENT, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_rows_of_a_table_have_as_many_cells_as_its_head(path):
    """A bar inside of a cell ends it on a code host, in code spans too."""
    columns = 0
    for number, line in enumerate(re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S).splitlines()):
        cells = line.count("|") - line.count("\\|") if line.startswith("|") else 0
        assert not (cells and columns) or cells == columns, f"{path.name}, line {number + 1}: {line}"
        columns = cells


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed: pip install -e '.[docs]'")
def test_the_site_builds_strictly_and_needs_no_network(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(list(DOCS.glob("*.md")))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=[\"']?(https?:[^\"'\s>]+)", text)
        assert not fetched, f"{page.name} fetches {fetched}"
        assert "::: vatt" not in text, f"{page.name} has a docstring that was not filled in"
    api = "".join(page.read_text(encoding="utf-8") for page in pages if page.name.startswith("api"))
    for word in ("VATT.embed_video", "packed_attention", "Raises"):
        assert word in api, f"the API page lacks {word}"
