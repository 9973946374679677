"""Starts the processes of jobs with several ranks, and reports what they printed if one fails."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from safetensors.torch import load_file

from tests.limits import HANG

ROOT = Path(__file__).resolve().parents[2]
ENGINE_JOB = str(Path(__file__).with_name("engine_job.py"))


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(ranks: int, *command: str, **environment: str) -> list[str]:
    """Runs ``python command...`` once per rank; the output of each. Fails if any rank ends with an error."""
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", **environment}
    shared["MASTER_PORT"] = str(free_port())
    shared["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=HANG)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes == [0] * ranks, f"ranks ended with {codes}:\n" + "\n---\n".join(outputs)
    return outputs


def run_engine(folder: Path, jobs: dict[str, dict], ranks: int, **environment: str) -> dict[str, tuple]:
    """Jobs of engine_job.py by name, one after the other in the same processes: (log, weights, optimizer state).

    A job may "load" what another one of the folder left.
    """
    listed = [{**job, "out": str(folder / name)} for name, job in jobs.items()]
    for job in listed:
        if "load" in job:
            job["load"] = str(folder / job["load"])
    path = folder / f"jobs-{ranks}-{len(jobs)}.json"
    path.write_text(json.dumps(listed))
    run_ranks(ranks, ENGINE_JOB, str(path), **environment)
    return {
        name: (
            json.loads((folder / name).read_text()),
            load_file(folder / f"{name}.model"),
            load_file(folder / f"{name}.optimizer"),
        )
        for name in jobs
    }


def run_commands(folder: Path, jobs: list[tuple[str, list]], ranks: int = 1) -> list[tuple[str, int]]:
    """What rank 0 printed for each command line (script of train/, words), and its exit status."""
    path = folder / "jobs.json"
    path.write_text(json.dumps([[script, [str(word) for word in words]] for script, words in jobs]))
    text, *_ = run_ranks(ranks, "-m", "tests.train.command_job", str(path))
    parts = text.split("== exit ")
    found = []
    for before, after in pairwise(parts):
        found.append((before.partition("\n")[2] if found else before, int(after.split("\n", 1)[0])))
    assert len(found) == len(jobs), text
    return found
