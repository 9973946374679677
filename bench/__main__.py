"""``python -m bench SUBCOMMAND``: everything that can be measured, compared, checked and read.

measure   ops           operations, beside what others would write
          steps         whole training steps, beside complete models of others
          jobs          training, loading, embedding and memory as a user runs them
          decode        reading clips on one core, from files and shards, beside other decoders
compare   compare       this tree and another commit (--base REF) in turns; results first, then times
check     check         every operation on a GPU at real shapes, then speed and launch parameters: a first session
          compiled      registers, shared memory and spills for A100, H100 and B200, without a GPU
          sweep         launch parameters of the kernels
          faults        kills, full disks, damaged checkpoints in small runs: what comes of each, and what is promised
read      report        the results as a page, a picture and a table
          lower-bounds  the least time of each operation, on an H100

Options of each: ``python -m bench SUBCOMMAND --help``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from vatt.config import nearest
from vatt.errors import UserError

# The function main(arguments) -> exit status of each, and arguments that stand before those given.
SUBCOMMANDS: dict[str, tuple[str, list[str]]] = {
    "ops": ("bench.run", ["ops"]),
    "steps": ("bench.run", ["steps"]),
    "compare": ("bench.run", ["compare"]),
    "check": ("bench.check", []),
    "sweep": ("bench.check", ["--only", "sweep"]),
    "compiled": ("bench.checks.compiled", []),
    "lower-bounds": ("bench.measure.peaks", []),
    "jobs": ("bench.jobs.run", []),
    "decode": ("bench.jobs.run", ["--only", "decode"]),
    "faults": ("bench.faults.run", []),
    "report": ("bench.report.run", []),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a sub-command. 2, with one line, for what the user can mend."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__)
        return 0
    if name not in SUBCOMMANDS:
        print(f"bench: unknown sub-command {name!r}; {nearest(name, SUBCOMMANDS)}", file=sys.stderr)
        return 2
    module, before = SUBCOMMANDS[name]
    try:
        return int(importlib.import_module(module).main([*before, *rest]))
    except (UserError, OSError) as error:  # a full disk, a folder that cannot be written
        print(f"bench {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"bench {name}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
