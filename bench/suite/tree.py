"""Another commit beside this tree: its library, measured by the benchmark of this tree."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import ROOT

LIBRARY = ("vatt", "kernels")


class TreeError(ValueError):
    """A commit that cannot be checked out; the message says why."""


def resolve(ref: str, repository: Path = ROOT) -> str:
    """The full commit of a name. Raises TreeError."""
    done = _git(repository, "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
    if done.returncode:
        raise TreeError(f"--base: {ref!r} is no commit of {repository}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def checkout(commit: str, repository: Path = ROOT) -> Iterator[Path]:
    """A folder with the library of ``commit`` and the bench/ of this tree, from which ``python -m bench...`` runs.

    It is a git worktree with links to it, so both sides are measured by the same code; gone when the block ends.

    Raises:
        TreeError: git refuses, or the commit has no such library.
    """
    with tempfile.TemporaryDirectory(prefix="vatt-bench-") as scratch:
        tree, mixed = Path(scratch) / "tree", Path(scratch) / "mixed"
        done = _git(repository, "worktree", "add", "--detach", "--force", str(tree), commit)
        if done.returncode:
            raise TreeError(f"--base: git worktree add {commit}: {done.stderr.strip()}")
        try:
            mixed.mkdir()
            for name in LIBRARY:
                if not (tree / name).is_dir():
                    raise TreeError(f"--base: {commit[:12]} has no folder {name}/")
                (mixed / name).symlink_to(tree / name, target_is_directory=True)
            (mixed / "bench").symlink_to(ROOT / "bench", target_is_directory=True)
            yield mixed
        finally:
            _git(repository, "worktree", "remove", "--force", str(tree))


def _git(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", "-C", str(repository), *words], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TreeError(f"--base: git does not run: {error}") from error
