"""A process that measures for `bench.suite.compare`: one side of a comparison, with the library of its own folder.

It reads one JSON object a line from its standard input and answers with one a line; what libraries print goes to the
standard error output.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import vatt
from bench import correctness
from bench.evaluate import evaluate
from bench.measure.timing import reason, sample, tidy
from bench.suite.catalogue import Wish, subjects
from bench.suite.ops import OpSubject
from bench.suite.prepared import Prepared, Subject

Answer = dict[str, Any]


class Worker:
    """Holds the subject and the calls that were prepared last."""

    def __init__(self, device: str, threads: int, wish: dict[str, Any]) -> None:
        self.device = torch.device(device)
        if device == "cpu":
            torch.set_num_threads(threads)
        found = subjects(Wish(**wish), self.device, kernels=device == "cuda")
        self.subjects = {subject.name: subject for subject in found}
        self.subject: Subject | None = None
        self.prepared: Prepared | None = None

    def hello(self) -> Answer:
        return {"library": str(Path(vatt.__file__).resolve().parent)}

    def prepare(self, case: str, provider: str) -> Answer:
        self.release()
        self.subject = self.subjects[case]
        self.prepared = self.subject.prepare(provider)
        return {"modes": list(self.prepared.calls), "about": self.subject.about, "note": "; ".join(self.prepared.notes)}

    def measure(self, mode: str, seconds: float) -> Answer:
        assert self.prepared is not None
        times, _ = sample(self.prepared.calls[mode], self.device, seconds, self.prepared.refresh)
        return {"ms": times}

    def check(self, case: str, backends: list[str]) -> Answer:
        """What is wrong with the results of an operation, against a wider type."""
        subject = self.subjects[case]
        assert isinstance(subject, OpSubject)
        rows = list(correctness.check(subject.shape, 0.0, self.device, backends))
        return {"wrong": [correctness.line(row) for row in rows if not row["passed"]], "tensors": len(rows)}

    def outputs(self, case: str, provider: str, path: str) -> Answer:
        """Writes all outputs and gradients of an operation to a file, for the other side to compare."""
        from safetensors.torch import save_file

        subject = self.subjects[case]
        assert isinstance(subject, OpSubject)
        subject.release()  # inputs as they are made, not as measuring left them
        found = evaluate(subject.problem, provider, subject.shape.dtype)
        save_file({name: value.detach().cpu().clone().contiguous() for name, value in found.items()}, path)
        subject.release()
        return {}

    def release(self) -> Answer:
        self.prepared = None
        if self.subject is not None:
            self.subject.release()
            self.subject = None
        tidy(self.device)
        return {}


def serve(worker: Worker, lines: Any, answer: Callable[[Answer], None]) -> None:
    """Does what each line asks for. A failure is an answer too: {"failed": reason}."""
    for text in lines:
        request = json.loads(text)
        try:
            answer(getattr(worker, request.pop("do"))(**request))
        except Exception as failure:  # whatever a compiler or a driver raises is the answer
            answer({"failed": reason(failure)})


def main() -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(found: Answer) -> None:
        channel.write(json.dumps(found) + "\n")
        channel.flush()

    serve(Worker(**json.loads(sys.argv[1])), sys.stdin, answer)


if __name__ == "__main__":
    main()
