"""How the packages of an extra are added to this installation: what a message says where one is missing."""

from __future__ import annotations

import shlex
from pathlib import Path

_HERE = Path(__file__).resolve().parents[1]  # a checkout, or the folder of installed packages


def install(extra: str, root: Path = _HERE) -> str:
    """The command that adds ``extra``.

    Of a checkout that this runs from: ``pip install -e '.[export]'``, with its path where it is not the working folder.
    Of an installed wheel: ``pip install 'vatt-torch[export]'``, which fetches nothing but the packages of the extra.
    """
    if not (root / "pyproject.toml").is_file():
        return f"pip install 'vatt-torch[{extra}]'"
    try:
        here = Path.cwd() == root
    except OSError:  # the working folder is gone
        here = False
    return f"pip install -e '.[{extra}]'" if here else f"pip install -e {shlex.quote(f'{root}[{extra}]')}"
