"""A command line of train/pretrain.py that also writes down what each step reads: ``python -m tests.train.reading_job
FILE argument...``, one process a rank. A line is {step, rank, clips: [[index, hash of all that was read of it]]}.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from train import pretrain
from train.core import command
from train.core.engine import Engine, StepResult


def read_of(batch: dict[str, Any]) -> list[list[Any]]:
    """The index of each sample, and a hash of its picture, sound and sentences."""
    found = []
    for number, index in enumerate(batch["index"].tolist()):
        digest = hashlib.sha256()
        for _, x in sorted(item for item in batch.items() if isinstance(item[1], Tensor)):
            digest.update(x[number].contiguous().numpy().tobytes())
        found.append([index, digest.hexdigest()])
    return found


def main() -> int:
    path, train_step = Path(sys.argv[1]), Engine.train_step

    def recorded(self: Engine, batch: Iterable[dict[str, Any]], lr: float, seed: int) -> StepResult:
        def listened() -> Iterator[dict[str, Any]]:
            clips = []
            for part in batch:
                clips += read_of(part)
                yield part
            rank = os.environ["RANK"]
            with path.with_suffix(f".{rank}").open("a") as file:
                file.write(json.dumps({"step": seed % 1_000_003, "rank": int(rank), "clips": clips}) + "\n")

        return train_step(self, listened(), lr, seed)

    Engine.train_step = recorded  # type: ignore[method-assign]
    return pretrain.main(sys.argv[2:])


if __name__ == "__main__":
    command.leave(main())
