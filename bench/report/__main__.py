"""Makes a page, a picture or a table of results files: ``python -m bench.report [FILE.csv ...]``.

The page is one file that loads nothing from elsewhere. With --svg or --markdown alone no page is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import store
from bench.report.cases import newest
from bench.report.head import anchor, head
from bench.report.history import history
from bench.report.html import heading, page, paragraph, section
from bench.report.markdown import markdown
from bench.report.peers import against_peers
from bench.report.picture import picture
from bench.report.roofline import roofline
from bench.report.rows import Machine, load, machines
from bench.report.tables import all_rows, jobs
from bench.store import Row, StoreError
from vatt.files import appearing

PAGE = Path("bench-report.html")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.csv", help="default: bench/results/results.csv")
    parser.add_argument("--out", type=Path, metavar="PAGE.html", help=f"where the page goes; default: {PAGE}")
    parser.add_argument("--svg", type=Path, metavar="PICTURE.svg", help="write a picture of bars for a README")
    parser.add_argument("--markdown", action="store_true", help="print a table for a README")
    options = parser.parse_intermixed_args(arguments)  # files before or behind the options
    options.files = options.files or [store.RESULTS]
    if options.out is None and options.svg is None and not options.markdown:
        options.out = PAGE
    return options


def document(rows: Sequence[Row]) -> str:
    """The page of these rows, the older before the newer."""
    by_machine = machines(rows)
    parts = [
        "<h1>What was measured</h1>",
        head(by_machine),
        *(_machine(place, machine, of) for place, (machine, of) in enumerate(by_machine.items())),
        section("Whole jobs", jobs(rows), name="jobs"),
        section("All rows", all_rows(rows), name="all"),
    ]
    return page("VATT benchmarks", parts)


def _machine(place: int, machine: Machine, rows: Sequence[Row]) -> str:
    cases = newest(rows)
    if not cases:
        body = [paragraph("No operation and no whole step was measured here.", "soft")]
    else:
        newness = "Each case as the newest code had it that was measured with its peers; its commit stands at it."
        body = [paragraph(newness, "soft"), heading("Roofline"), roofline(cases), against_peers(cases)]
        body += [heading("History"), history(rows)]
    return section(machine.name, *body, name=anchor(place))


def write(files: Mapping[Path, str]) -> None:
    """Writes all files, each whole or not at all.

    Raises:
        OSError: a folder that is not there or cannot be written to.
    """
    with ExitStack() as ready:
        for path, text in files.items():
            ready.enter_context(appearing(path)).write_text(text, encoding="utf-8")


def main(arguments: Iterable[str] | None = None) -> int:
    """0, or 1 with one line on the standard error output."""
    options = parse(None if arguments is None else list(arguments))
    try:
        rows = load(options.files)
        files = {} if options.out is None else {options.out: document(rows)}
        if options.svg is not None:
            files[options.svg] = picture(machines(rows))
        table = markdown(machines(rows)) if options.markdown else ""
        write(files)
    except (StoreError, OSError) as error:
        print("bench.report: " + " ".join(str(error).split()), file=sys.stderr)
        return 1
    for path in files:
        print(f"{path}: {len(rows)} rows", file=sys.stderr)
    print(table, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
