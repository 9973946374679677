"""Runs several command lines of train/ in one process per rank: starting processes costs more than what they do.

``python -m tests.train.command_job JOBS.json`` with [[script, [argument, ...]], ...].

Prints a line ``== exit N`` after each job.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import torch

from train.core import command, ranks


def main() -> None:
    torch.set_num_threads(1)
    context = ranks.start_distributed()
    command.start_distributed = lambda: context  # the ranks have met once and stay together
    command.stop_distributed = ranks.wait_for_all
    for script, arguments in json.loads(Path(sys.argv[1]).read_text()):
        try:
            code = import_module(f"train.{script}").main(arguments)
        except SystemExit as end:  # argparse
            code = end.code
        print(f"== exit {code}", flush=True)
    ranks.stop_distributed()


if __name__ == "__main__":
    main()
    command.leave(0)
