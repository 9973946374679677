"""Jobs of two nodes, which are two groups of processes on this machine: under SLURM's script, and under torchrun.

The first job has a stand-in for srun. One of its nodes is killed, and the other must end by itself. The second runs two
command lines: what the first would have done undisturbed, and its resumption on one node.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.limits import HANG
from tests.train.pretraining import environment, losses, words_of
from tests.train.ranks import ROOT, free_port

CLUSTER = ROOT / "examples" / "cluster"
SCRIPTS = sorted(CLUSTER.glob("*.slurm"))
# A rate that does not depend on the length of the run: one is killed, the other ends.
LEVEL = ["optim.kind=sgd", "optim.lr=1e-3", "optim.final_lr=1e-3", "optim.warmup_steps=0"]
SAVED, STEPS = 3, 6

# Starts two tasks, which believe to be on two hosts, and leaves their process numbers and how they ended. Unlike srun
# it leaves the one alone when the other fails.
SRUN = """
[ "$1" = --kill-on-bad-exit=1 ]
shift
here=$(dirname "$0")
export SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST='127.0.0.[1-2]' SLURM_LOCALID=0 PYTHONPATH="$here:$PYTHONPATH"
for task in 0 1; do
  SLURM_PROCID=$task NODE=node$((task + 1)) "$@" >"$here/log-$task" 2>&1 &
  echo $! >"$here/.pid-$task"
  mv "$here/.pid-$task" "$here/pid-$task"
done
code=0
for task in 0 1; do
  status=0
  wait "$(cat "$here/pid-$task")" || status=$?
  echo $status >"$here/status-$task"
  [ $status = 0 ] || code=$status
done
exit $code
"""
HOST = "import os, socket\nif name := os.environ.get('NODE'): socket.gethostname = lambda: name\n"


def stand_in(folder, name, text):
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\nset -euo pipefail\n{text}")
    path.chmod(0o755)


def slurm(folder, **variables):
    """The variables of a SLURM job whose commands are those in ``folder``."""
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    given = {"PATH": path, "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "7"}
    return environment() | given | variables


@pytest.fixture(scope="module")
def killed(sample, tmp_path_factory):
    """A job of examples/cluster/pretrain.slurm whose second node was killed: its folder, that of its logs, its status,
    and the seconds that the first node went on."""
    folder = tmp_path_factory.mktemp("slurm")
    stand_in(folder, "srun", SRUN)
    (folder / "sitecustomize.py").write_text(HOST)
    out = folder / "run"
    words = words_of(sample, out, "--steps", 5000, *LEVEL, f"run.save_every={SAVED}", "run.keep=1000")
    words = [word for word in words if word not in ("--out", out)] + ["engine.threads=1"]
    job = subprocess.Popen(
        ["bash", str(CLUSTER / "pretrain.slurm"), str(out), *map(str, words)],
        cwd=ROOT,
        env=slurm(folder, MASTER_PORT=str(free_port())),
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + HANG
        while not (out / "checkpoints" / f"step-{SAVED:08d}" / "state.json").is_file():
            logs = [path.read_text() for path in folder.glob("log-*")]
            assert job.poll() is None, "\n".join(logs)
            assert time.monotonic() < deadline, "\n".join(logs)
            time.sleep(0.1)
        os.kill(int((folder / "pid-1").read_text()), signal.SIGKILL)
        at = time.monotonic()
        code = job.wait(timeout=HANG)
        yield out, folder, code, time.monotonic() - at
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_node_that_is_killed_ends_the_other(killed):
    out, folder, code, seconds = killed
    assert code != 0
    assert (folder / "status-0").read_text() == "1\n"
    assert (folder / "status-1").read_text() == "137\n"
    said = (folder / "log-0").read_text()
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: another rank")
    assert "has ended" in error
    assert error.endswith("the newest checkpoint is whole: go on with --resume")
    assert "2 x CPU on 2 nodes" in said
    assert "step" not in (folder / "log-1").read_text()  # rank 0 alone speaks
    assert json.loads((out / "environment.json").read_text())["nodes"] == "node1, node2"
    assert seconds < 120


@pytest.mark.slow
def test_the_ranks_of_a_node_are_known_where_the_launcher_does_not_tell_them():
    """Or each would take its node to hold all ranks of the job, and leave memory for them."""
    script = """
import socket
socket.gethostname = lambda: NODE
from train.core.ranks import start_distributed, stop_distributed
from vatt.distributed import ranks_here
start_distributed()
print("here", ranks_here())
stop_distributed()
"""
    step = {"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NODELIST": "127.0.0.1", "MASTER_PORT": str(free_port())}
    places = {0: ("node1", "0"), 1: ("node1", "1"), 2: ("node2", "0")}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", script.replace("NODE", repr(node))],
            env={**os.environ, "PYTHONPATH": str(ROOT), **step, "SLURM_PROCID": str(task), "SLURM_LOCALID": local},
            stdout=subprocess.PIPE,
            text=True,
        )
        for task, (node, local) in places.items()
    ]
    said = [job.communicate(timeout=HANG)[0].splitlines() for job in jobs]
    assert [[line for line in lines if line.startswith("here")] for lines in said] == [
        ["here 2"],
        ["here 2"],
        ["here 1"],
    ]


@pytest.fixture(scope="module")
def went_on(sample, killed, tmp_path_factory):
    """Folders of a run that nobody disturbed, and of the killed one, resumed: both on the two ranks of one node."""
    folder = tmp_path_factory.mktemp("torchrun")
    whole, resumed = folder / "whole", folder / "resumed"
    shutil.copytree(killed[0], resumed)
    for path in (resumed / "checkpoints").iterdir():
        if path.name != f"step-{SAVED:08d}":
            shutil.rmtree(path)
    jobs = [
        words_of(sample, whole, "--steps", STEPS, *LEVEL, "engine.threads=1"),
        ["--out", resumed, "--resume", "--steps", STEPS],
    ]
    listed = folder / "jobs.json"
    listed.write_text(json.dumps([["pretrain", [str(word) for word in words]] for words in jobs]))
    port = str(free_port())
    agents = [
        subprocess.Popen(
            [
                *[sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", str(node)],
                *["--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", port],
                *["-m", "tests.train.command_job", str(listed)],
            ],
            cwd=ROOT,
            env=environment() | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    try:
        outputs = [agent.communicate(timeout=HANG)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(outputs)
    assert outputs[0].count("== exit 0") == 2, "\n".join(outputs)
    assert f"resumed from step {SAVED}" in outputs[0]
    return whole, resumed


@pytest.mark.slow
def test_two_nodes_give_the_losses_of_one(killed, went_on):
    """Bit by bit: two ranks reduce in the same order, wherever they are."""
    of_two, of_one = losses(killed[0]), losses(went_on[0])
    steps = [step for step in of_one if step <= SAVED]
    assert len(steps) == SAVED
    assert {step: of_two[step] for step in steps} == {step: of_one[step] for step in steps}


@pytest.mark.slow
def test_one_node_goes_on_where_two_were(went_on):
    whole, resumed = map(losses, went_on)
    assert sorted(whole) == list(range(1, STEPS + 1))
    assert resumed == whole


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_are_right_for_the_shell(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    if shellcheck := shutil.which("shellcheck"):
        done = subprocess.run([shellcheck, str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def said_by(script, folder, *words, **variables):
    """What the script starts: the stand-ins print their command line."""
    for name in ("srun", "vatt"):
        stand_in(folder, name, 'echo "$(basename "$0") $*"\n')
    command = ["bash", str(CLUSTER / script), *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=slurm(folder, **variables), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_job_that_is_submitted_again_goes_on(tmp_path):
    run = tmp_path / "run"
    start = "srun --kill-on-bad-exit=1 python -u train/pretrain.py --out"
    assert said_by("pretrain.slurm", tmp_path, run, "--data", "x") == f"{start} {run} --resume auto --data x"


def test_jobs_of_an_array_name_their_share(tmp_path):
    variables = {"SLURM_ARRAY_TASK_ID": "17", "SLURM_CPUS_PER_TASK": "4"}
    said = said_by("pack.slurm", tmp_path, 64, "a.csv", "shards", "--size", 128, **variables)
    assert said == "vatt data pack a.csv --out shards --jobs 4 --shard-of 17/64 --size 128"
    said = said_by("embed.slurm", tmp_path, 64, "a.csv", "model", "v.npy", "--space", "audio", **variables)
    assert said == "vatt embed a.csv --model model --out v.npy --workers 4 --shard-of 17/64 --space audio"


def test_deepspeed_reads_the_hostfile():
    from deepspeed.launcher.runner import fetch_hostfile

    assert dict(fetch_hostfile(str(CLUSTER / "hostfile"))) == {"node1": 8, "node2": 8}
