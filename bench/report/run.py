"""Makes a page, a picture or a table of results files: ``python -m bench report [FILE.csv ...]``.

The page is one file that loads nothing from elsewhere. With --svg or --markdown alone no page is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import store
from bench.report.data import load, machines
from bench.report.page import document
from bench.report.summary import markdown, picture
from bench.store import StoreError
from vatt.files import appearing

PAGE = Path("bench-report.html")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.csv", help="default: bench/results/results.csv")
    parser.add_argument("--out", type=Path, metavar="PAGE.html", help=f"where the page goes; default: {PAGE}")
    parser.add_argument("--svg", type=Path, metavar="PICTURE.svg", help="write a picture of bars for a README")
    parser.add_argument("--markdown", action="store_true", help="print a table for a README")
    options = parser.parse_intermixed_args(argv)  # files before or behind the options
    options.files = options.files or [store.RESULTS]
    if options.out is None and options.svg is None and not options.markdown:
        options.out = PAGE
    return options


def main(argv: Sequence[str]) -> int:
    """0, or 1 with one line on the standard error output."""
    options = parse(argv)
    try:
        rows = load(options.files)
        files = {} if options.out is None else {options.out: document(rows)}
        if options.svg is not None:
            files[options.svg] = picture(machines(rows))
        table = markdown(machines(rows)) if options.markdown else ""
        with ExitStack() as stack:  # all files, or none
            for path, text in files.items():
                stack.enter_context(appearing(path)).write_text(text, encoding="utf-8")
    except (StoreError, OSError) as error:
        print("bench report: " + " ".join(str(error).split()), file=sys.stderr)
        return 1
    for path in files:
        print(f"{path}: {len(rows)} rows", file=sys.stderr)
    print(table, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
