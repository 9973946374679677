"""Injects faults into small runs, and tells what came of it: ``python -m bench faults [--only NAME] [--quick]``.

Each run is 12 steps of a tiny model on 12 clips, a checkpoint every 3 steps, on the CPU. After the fault the same
command is started again; losses, final weights and moments are compared with those of a run that nothing disturbed.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import torch

from bench.faults.kinds import FAULTS, Fault
from bench.faults.lab import Below, Lab, NotInjected, Outcome
from vatt import results
from vatt.errors import UserError
from vatt.files import TREE, write_text

RESULTS, PAGE = TREE / "bench" / "results" / "faults.csv", TREE / "docs" / "reliability.md"
BASE = "dc225b4"  # before anything of this was mended
FIGURES = ("injected", "survived", "lost", "may_lose", "compared", "equal", "equality", "kills", "below")
FIELDS = ("time", "commit", "dirty", "device", "python", "torch", "deepspeed", "seed", "fault", *FIGURES, "command")


def main(argv: Sequence[str]) -> int:
    """0, or 1 if anything is below its promise. Raises UserError for what the user can mend."""
    parser = argparse.ArgumentParser("python -m bench faults", description=__doc__)
    add = parser.add_argument
    add("--only", action="append", default=[], metavar="WORDS", help="faults whose names hold these; may be repeated")
    add("--quick", action="store_true", help="a few of each kind, without launchers and mounts")
    add("--times", type=int, metavar="N", help="how often each is injected")
    add("--first", type=int, default=0, metavar="N", help="leave out the first ones, as --seed and number make them")
    add("--seed", type=int, default=None, help="default: from the clock; it is printed")
    add("--base", default=BASE, metavar="COMMIT", help="an earlier commit that begins a run (default: %(default)s)")
    add("--results", type=Path, metavar="FILE.csv", help="append a row for each fault")
    add("--page", action="store_true", help=f"write the table into {PAGE.relative_to(TREE)}, from {RESULTS.name}")
    add("--list", action="store_true", help="only print the names")
    add("--fuzz", choices=("media", "text"), help="in place of all this: damaged files, by tests/fuzz/")
    add("--count", type=int, default=200, help="of --fuzz: files (default: %(default)s)")
    options = parser.parse_args(argv)
    seed = int(time.time()) if options.seed is None else options.seed
    if options.fuzz:
        return int(importlib.import_module(f"tests.fuzz.{options.fuzz}").main(options.count, seed))
    chosen = [fault for fault in FAULTS if all(word.lower() in fault.name.lower() for word in options.only)]
    chosen = [fault for fault in chosen if not options.quick or fault.quick]
    if not chosen:
        raise UserError(f"--only {' '.join(options.only)}: no fault has such a name; --list prints all")
    if options.list:
        print("\n".join(fault.name for fault in chosen))
        return 0
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="vatt-faults-") as folder:
        rows = inject_all(Lab(Path(folder).resolve(), options.base, options.quick), chosen, seed, options)
    print(table(rows))
    if options.results:
        words = ["python", "-m", "bench", "faults", *argv, *([] if options.seed is not None else ["--seed", str(seed)])]
        where = origin(options.results) | {"seed": seed, "command": shlex.join(words)}
        results.append(options.results, [{**where, **row} for row in rows], FIELDS)
    if options.page:
        write_page()
    return int(any(row["below"] for row in rows))


def inject_all(lab: Lab, chosen: Sequence[Fault], seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each fault. What is below its promise is printed with the command that does it again."""
    lab.reference()
    rows = []
    for fault in chosen:
        times = options.times or (fault.quick if options.quick else fault.times) or lab.operations
        counts: Counter[str] = Counter()
        lost, began, reasons = 0, time.monotonic(), []
        for number in range(options.first, options.first + times):
            try:
                outcome = fault.inject(lab, Random(f"{seed} {fault.name} {number}"), number)
                reason = judged(fault, outcome)
                counts["survived"] += 1
                lost = max(lost, outcome.lost or 0)
                counts["compared"] += outcome.equal is not None
                counts["equal"] += outcome.equal is True
            except NotInjected as error:
                print(f"{fault.name}: not injected: {error}", flush=True)
                break
            except Below as error:
                reason = str(error)
            counts["injected"] += 1
            if reason:
                reasons.append(reason)
                again = f"--only {shlex.quote(fault.name)} --seed {seed} --first {number} --times 1"
                print(f"BELOW {fault.name}, number {number}: {reason}\n    python -m bench faults {again}", flush=True)
            lab.clear()
        taken = time.monotonic() - began
        print(f"{fault.name}: {counts['injected']} times, {len(reasons)} below, {taken:.0f} s", flush=True)
        about = {
            "fault": fault.name,
            "may_lose": fault.lose,
            "equality": fault.equal,
            "lost": lost,
            "kills": fault.kills,
        }
        figures = {name: counts[name] for name in ("injected", "survived", "compared", "equal")}
        rows.append({**about, **figures, "lost": lost, "below": len(reasons)})
    return rows


def judged(fault: Fault, outcome: Outcome) -> str:
    """What of an outcome is below the promise; empty if nothing is."""
    if (outcome.lost or 0) > fault.lose:
        return f"{outcome.lost} steps were lost, {fault.lose} may be"
    return outcome.why if outcome.equal is False else ""


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """In Markdown, and how many kills there were."""
    lines = [
        "| fault | injected | survived | most steps lost (promised) | equal | promised | below |",
        "| --- " * 7 + "|",
    ]
    for row in rows:
        if not int(row["injected"]):
            lines.append(f"| {row['fault']} | not injected | | | | | |")
            continue
        equal = f"{row['equal']} of {row['compared']}" if int(row["compared"]) else "-"
        cells = (row["fault"], row["injected"], row["survived"], f"{row['lost']} ({row['may_lose']})", equal)
        lines.append(f"| {' | '.join(map(str, cells))} | {row['equality']} | {row['below']} |")
    kills = [row for row in rows if str(row["kills"]) == "True"]
    total, wrong = (sum(int(row[name]) for row in kills) for name in ("injected", "below"))
    return "\n".join([*lines, "", f"{total} kills, {wrong} below their promise."])


def origin(path: Path) -> dict[str, Any]:
    """Where rows that are made now come from."""
    found = results.origin(torch.device("cpu"), aside=path)
    return {name: found[name] for name in FIELDS if name in found} | {"deepspeed": version("deepspeed")}


def write_page() -> None:
    """The newest row of each fault, between the marks of the page."""
    rows = list({row["fault"]: row for row in results.read(RESULTS, FIELDS)}.values())
    known = [fault.name for fault in FAULTS]
    rows = sorted((row for row in rows if row["fault"] in known), key=lambda row: known.index(row["fault"]))
    text, made = PAGE.read_text(encoding="utf-8"), f"{table(rows)}\n\n{told(rows)}\n"
    marks = re.compile(r"(<!-- table: python -m bench faults -->\n).*?(<!-- end of table -->)", re.S)
    write_text(PAGE, marks.sub(lambda found: found[1] + made + found[2], text))


def told(rows: Sequence[Mapping[str, str]]) -> str:
    """What the rows were made on, in a line."""

    def every(name: str) -> str:
        return ", ".join(sorted({row[name] for row in rows}))

    days = ", ".join(sorted({row["time"][:10] for row in rows}))
    libraries = f"Python {every('python')}, torch {every('torch')}, DeepSpeed {every('deepspeed')}"
    return f"{days}, commit {every('commit')}, {every('device')}; {libraries}; seed {every('seed')}."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
