"""``vatt push RUN OWNER/NAME --license apache-2.0``: a model and a page on it to the hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from vatt.cli.progress import waiting
from vatt.errors import printable
from vatt.files import check_there


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a run or of a model")
    add("name", metavar="NAME", help="OWNER/NAME on the hub (HF_ENDPOINT names another hub)")
    add("--license", required=True, metavar="ID", help="of the weights: apache-2.0, mit, cc-by-4.0, other, ...")
    add("--private", action="store_true", help="only you may see a model that is new there")
    add("--dry-run", action="store_true", help="write the folder that would be sent, and send nothing")
    add("--out", type=Path, metavar="DIR", help="of --dry-run (RUN-hub, beside RUN)")


def run(options: argparse.Namespace) -> int:
    """Sends or writes the model. Raises UserError: it cannot be sent, or there is none."""
    check_there(options.run)
    with waiting("starting PyTorch"):
        from vatt.hub.share import push, write_folder

    if options.dry_run:
        source = Path(options.run).absolute()
        out = options.out or source.with_name(f"{source.name}-hub")
        write_folder(options.run, options.name, options.license, out)
        print(f"{printable(out)}: what would be sent as {options.name}")
        for path in sorted(out.iterdir()):
            print(f"  {path.name}: {path.stat().st_size:,} bytes")
    else:
        print(printable(push(options.run, options.name, options.license, private=options.private or None)))
    return 0
