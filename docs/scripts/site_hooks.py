"""Hooks of mkdocs: documents and data of the repository that lie outside docs/ become part of the site.

The pages in docs/ link to them as a reader of the repository would, by ``../CHANGELOG.md``. On the site docs/ is the
root, and each of them lies under its path in the repository: links lose the steps that lead into or out of docs/.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#:]+)(#[^)\s]*)?\)")  # [text](path#anchor), not of another site
OUTSIDE = (
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "bench/LOG.md",
    "bench/results/*.csv",
    "bench/results/*.svg",
    "examples/README.md",
    "examples/*.py",
    "examples/cluster/*",
    "tests/reference/README.md",
)


def on_files(files: Files, config: Any) -> Files:
    """Adds the files of `OUTSIDE`."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links between files of the repository into links between files of the site."""
    source = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()

    def turn(found: re.Match[str]) -> str:
        before, target, anchor = found.groups()
        in_repository = normpath(f"{dirname(source)}/{target}".lstrip("/"))
        return f"{before}{relpath(_on_site(in_repository), dirname(_on_site(source)) or '.')}{anchor or ''})"

    return LINK.sub(turn, markdown)


def _on_site(path: str) -> str:
    return "index.md" if path == "README.md" else path.removeprefix(f"docs{os.sep}")
