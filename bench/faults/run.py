"""Injects faults into small runs, and tells what came of it: ``python -m bench faults [--only WORDS] [--quick]``.

A run is 12 steps of a tiny model on 12 clips, with a checkpoint every 3 steps, on the CPU. After the fault the same
command is started again; losses, weights and moments are compared with those of a run that nothing disturbed.
"""

from __future__ import annotations

import argparse
import re
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import torch

from bench.faults.harness import Harness, NotInjected, PromiseBroken
from bench.faults.kinds import FAULTS, Fault
from vatt import results
from vatt.errors import UserError
from vatt.files import TREE, write_text

RESULTS, PAGE = TREE / "bench" / "results" / "faults.csv", TREE / "docs" / "reliability.md"
BASE = "dc225b4"  # before any of these faults was injected
FIGURES = ("injected", "survived", "lost", "may_lose", "compared", "equal", "equality", "kills", "below")
FIELDS = ("time", "commit", "dirty", "device", "python", "torch", "deepspeed", "seed", "fault", *FIGURES, "command")
Row = dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """0, or 1 if anything is below its promise. Raises UserError for what the user can mend."""
    parser = argparse.ArgumentParser("python -m bench faults", description=__doc__)
    add = parser.add_argument
    add("--only", action="append", default=[], metavar="WORDS", help="in the name of the fault; may be repeated")
    add("--list", action="store_true", help="only print the names")
    add("--quick", action="store_true", help="a few of each kind, without launchers and mounts")
    add("--times", type=int, metavar="N", help="how often each is injected")
    add("--first", type=int, default=0, metavar="N", help="number of the first one (default: %(default)s)")
    add("--seed", type=int, default=int(time.time()), help="default: from the clock")
    add("--base", default=BASE, metavar="COMMIT", help="an earlier commit that begins a run (default: %(default)s)")
    add("--write", action="store_true", help=f"add rows to {RESULTS.relative_to(TREE)}")
    add("--page", action="store_true", help=f"only write the table of {PAGE.relative_to(TREE)}, from those rows")
    options = parser.parse_args(argv)
    if options.page:
        write_text(PAGE, filled(PAGE.read_text(encoding="utf-8"), results.read(RESULTS, FIELDS)))
        return 0
    chosen = [fault for fault in FAULTS if all(words in fault.name for words in options.only)]
    chosen = [fault for fault in chosen if fault.quick or not options.quick]
    if not chosen:
        raise UserError(f"--only {' '.join(options.only)}: no fault has such a name; --list prints all")
    if options.list:
        print("\n".join(fault.name for fault in chosen))
        return 0
    print(f"seed {options.seed}", flush=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix="vatt-faults-", ignore_cleanup_errors=True) as folder:
        harness = Harness(Path(folder).resolve(), options.base)
        print(f"a run: {harness.cpu:.1f} s of CPU time, {harness.operations} file operations", flush=True)
        for fault in chosen:
            times = options.times or (fault.quick if options.quick else fault.times) or harness.operations
            rows.append(inject(harness, fault, options.seed, range(options.first, options.first + times)))
    print(table(rows))
    if options.write:
        where: Row = {**results.origin(torch.device("cpu"), aside=RESULTS), "deepspeed": version("deepspeed")}
        where["command"] = shlex.join(["python", "-m", "bench", "faults", *argv])
        where = {name: where[name] for name in FIELDS if name in where} | {"seed": options.seed}
        results.append(RESULTS, [where | row for row in rows], FIELDS)
    return int(any(row["below"] for row in rows))


def inject(harness: Harness, fault: Fault, seed: int, numbers: range) -> Row:
    """Injects a fault so often, and counts. What is below its promise is printed with what does it again."""
    row: Row = {"fault": fault.name, "may_lose": fault.lose, "equality": fault.equal, "kills": fault.kills}
    row |= dict.fromkeys(("injected", "survived", "lost", "compared", "equal", "below"), 0)
    began = time.monotonic()
    for number in numbers:
        try:
            outcome = fault.inject(harness, Random(f"{seed} {fault.name} {number}"), number)
            row["survived"] += 1
            row["lost"] = max(row["lost"], outcome.lost)
            row["compared"] += outcome.equal is not None
            row["equal"] += outcome.equal is True
            why = outcome.why if outcome.lost <= fault.lose else f"{outcome.lost} steps were lost"
        except PromiseBroken as error:
            why = str(error)
        except NotInjected as error:
            print(f"{fault.name}: not injected: {error}", flush=True)
            break
        row["injected"] += 1
        row["below"] += bool(why)
        if why:
            again = f"--only {shlex.quote(fault.name)} --seed {seed} --first {number} --times 1"
            print(f"BELOW {fault.name}: {why}\n    python -m bench faults {again}", flush=True)
        harness.clear()
    seconds = time.monotonic() - began
    print(f"{fault.name}: {row['injected']} times, {row['below']} below, {seconds:.0f} s", flush=True)
    return row


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """In Markdown, and how many kills there were."""
    head = "| fault | injected | survived | most steps lost (promised) | equal | promised | below |"
    lines = [head, "| --- " * 7 + "|"]
    for row in rows:
        lost, equal = f"{row['lost']} ({row['may_lose']})", f"{row['equal']} of {row['compared']}"
        cells = [row["injected"], row["survived"], lost, equal if int(row["compared"]) else "-", row["equality"]]
        cells = [*cells, row["below"]] if int(row["injected"]) else ["not injected", *[""] * 5]
        lines.append(f"| {row['fault']} | {' | '.join(map(str, cells))} |")
    kills = [row for row in rows if str(row["kills"]) == "True"]
    total, below = (sum(int(row[name]) for row in kills) for name in ("injected", "below"))
    return "\n".join([*lines, "", f"{total} kills, {below} of them below the promise."])


def filled(page: str, rows: Sequence[Mapping[str, str]]) -> str:
    """The page with the table of the newest row of each fault between its marks, and what they were made on."""
    newest = {row["fault"]: row for row in rows}
    rows = [newest[fault.name] for fault in FAULTS if fault.name in newest]
    every = {name: ", ".join(sorted({row[name] for row in rows})) for name in FIELDS}
    days = ", ".join(sorted({row["time"][:10] for row in rows}))
    libraries = f"Python {every['python']}, torch {every['torch']}, DeepSpeed {every['deepspeed']}"
    text = f"{table(rows)}\n\n{days}, commit {every['commit']}, {every['device']}; {libraries}; seed {every['seed']}.\n"
    marks = re.compile(r"(<!-- table: python -m bench faults -->\n).*?(<!-- end of table -->)", re.S)
    return marks.sub(lambda found: found[1] + text + found[2], page)
