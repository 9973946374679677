"""``vatt accounting``: what every model costs in every phase, or with --published the paper's figures beside ours."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from vatt.cli.progress import waiting
from vatt.config import ConfigError
from vatt.presets import PRESETS

if TYPE_CHECKING:
    from vatt.analysis.accounting import Account
    from vatt.analysis.published import Figure

_COLUMNS = (
    "model",
    "phase",
    "input",
    "tokens",
    "parameters, M",
    "forward, GFLOP",
    "step, GFLOP",
    "activations, MiB",
    "bytes moved, GB",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", nargs="+", default=list(PRESETS), metavar="NAME", help="default: all")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--published", action="store_true", help="the paper's figures beside ours instead")


def run(options: argparse.Namespace) -> int:
    """Prints a Markdown table, or JSON. Raises ConfigError for an unknown model."""
    with waiting("starting PyTorch"):
        from vatt.analysis.accounting import accounts
        from vatt.analysis.published import figures

    if options.published:
        print(*published_table(figures()), sep="\n")
        return 0
    try:
        found = [account for name in options.model for account in accounts(name)]
    except ConfigError as error:
        raise ConfigError(f"--model: {error}") from error
    print(json.dumps([asdict(a) for a in found], indent=1) if options.json else "\n".join(account_table(found)))
    return 0


def account_table(found: Iterable[Account]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| " + " | ".join(_COLUMNS) + " |"
    yield "|" + "---|" * 3 + "---:|" * (len(_COLUMNS) - 3)
    for a in found:
        cells = [a.model, a.phase, a.input, f"{a.tokens:,}", f"{a.parameters / 1e6:.1f}", f"{a.forward / 1e9:.1f}"]
        cells.append("" if a.step is None else f"{a.step / 1e9:.1f}")
        cells.append("" if a.activations is None else f"{a.activations / 2**20:.0f}")
        cells.append("" if a.traffic is None else f"{a.traffic / 1e9:.2f}")
        yield "| " + " | ".join(cells) + " |"


def published_table(found: Iterable[Figure]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| | published | counted | off |"
    yield "|---|---|---|---|"
    for figure in found:
        yield f"| {figure.what} | {figure.published:g} {figure.unit} | {figure.counted:.2f} | {figure.off:+.1%} |"
