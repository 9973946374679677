"""Where measured rows go: to the screen, and to a results file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench import store
from bench.measure.peaks import DevicePeaks, measure_peaks
from vatt import results

Row = dict[str, Any]
WORDS = {
    "floor_share": "{:.0%} of the device peak",
    "rate": "{:.4g} {unit}",
    "mfu": "MFU {:.1%}",
    "wait_share": "waiting {:.0%}",
    "peak_mib": "{:.0f} MiB",
    "error": "error {:.1e}",
}
SAME = ("commit", "dirty", "device", "torch", "triton", "threads")  # of the same origin


def line(row: Row) -> str:
    """A row as one short line of text."""
    head = f"{row['op']} {row['case']} p={row.get('dropout', 0):g} {row.get('mode', '')} {row['provider']}"
    if row.get("ms") is None:
        return f"{head}: {row['note']}"
    parts = [f"{row['ms']:.4g} ms ({row['ms_p20']:.4g} to {row['ms_p80']:.4g})"]
    parts += [words.format(row[name], **row) for name, words in WORDS.items() if row.get(name) is not None]
    return f"{head}: {', '.join(parts)}{' (' + row['note'] + ')' if row.get('note') else ''}"


class Writer:
    """Prints rows and appends them to a results file."""

    def __init__(
        self,
        path: Path | None,
        device: torch.device,
        resume: bool = False,
        commit: str | None = None,
        any_origin: bool = False,
    ) -> None:
        """``resume``: `known` finds rows that ``path`` has already, of this commit and device unless of ``any_origin``.
        ``commit``: of a tree that is no clone, where git cannot tell."""
        self.path, self.device, self.any_origin = path, device, any_origin
        self.origin = store.origin(device, aside=path)
        if commit is not None:
            self.origin["commit"] = commit[:12]
        self.rows: list[Row] = []
        self.before = store.read(path) if resume and path is not None and path.exists() else []

    def __call__(self, row: Row) -> None:
        self.rows.append(row)
        print(line(row), flush=True)
        if self.path is not None:
            store.append(self.path, [{**self.origin, "time": results.now(), **row}])

    def known(self, row: Row) -> bool:
        """Whether the file had this row before this run. Changes that are in no commit have no name, so nobody knows
        whether two rows with them are of the same code."""
        named = self.origin["dirty"] == "unknown" and self.origin["commit"] != "unknown"  # --commit says what it is
        if not (self.any_origin or named or self.origin["dirty"] == "False"):
            return False
        wanted = {} if self.any_origin else {name: self.origin[name] for name in SAME}
        wanted |= {name: results.text(row[name]) for name in ("suite", "op", "case", "dtype", "dropout", "provider")}
        return any(all(old[name] == value for name, value in wanted.items()) for old in self.before)

    def peaks(self, size: str) -> DevicePeaks:
        """Measures the peaks of the device and adds their rows."""
        found, timings = measure_peaks(self.device, size)
        for name, timing in timings.items():
            rate = {"gbps": found.copy * 1e-9} if name == "copy" else {"tflops": getattr(found, name) * 1e-12}
            row = dict(suite="roof", op="roof", case=name, provider="torch", ms=timing.best, ms_p20=timing.p20)
            row |= dict(ms_p80=timing.p80, repeats=timing.repeats, floor_share=1.0, command="python -m bench ops")
            self(row | rate)
        return found
