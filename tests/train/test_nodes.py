"""Several nodes: what launchers say, what nodes must have alike, and what ends a job of which one has gone."""

from __future__ import annotations

import socket
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from tests.limits import HANG
from train.core import launch, nodes, ranks
from train.core.launch import Launch, device_of, find_launch, first_host, launched_rank
from train.core.nodes import check_clips, check_folder, check_settings, check_versions
from train.core.ranks import RankContext
from train.core.watch import FAILED, Watch
from vatt.config import ConfigError
from vatt.data import Clip

STEP = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[007-009,12],big1",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "2",
}


def test_tasks_of_srun_are_ranks():
    variables = dict(STEP)
    assert find_launch(variables) == Launch(rank=3, ranks=4, local_rank=1)
    assert (variables["MASTER_ADDR"], variables["MASTER_PORT"]) == ("gpu007", "23650")
    assert (variables["RANK"], variables["WORLD_SIZE"], variables["LOCAL_RANK"]) == ("3", "4", "1")
    told = dict(STEP, MASTER_ADDR="10.0.0.1", MASTER_PORT="29500")
    find_launch(told)
    assert (told["MASTER_ADDR"], told["MASTER_PORT"]) == ("10.0.0.1", "29500")
    assert launched_rank(STEP) == 3


def test_torchrun_within_srun_counts_and_a_batch_script_is_one_process():
    of_torchrun = dict(STEP, RANK="0", LOCAL_RANK="0", WORLD_SIZE="2", MASTER_ADDR="a", MASTER_PORT="1")
    assert find_launch(of_torchrun) == Launch(0, 2, 0)
    script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}
    assert find_launch(script) == Launch()
    assert launched_rank({}) == 0


@pytest.mark.parametrize(
    ("listed", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[1-3]", "n1"), ("a[07,09-12]-ib,b", "a07-ib"), ("r[2-3]n[5-6]", "r2n5")],
)
def test_the_first_host_of_a_list(listed, first):
    assert first_host(listed) == first


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "MASTER_ADDR, MASTER_PORT not"),
        ({"RANK": "1"}, "WORLD_SIZE=''"),
        ({"RANK": "two", "WORLD_SIZE": "2"}, "RANK='two'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2: is not below WORLD_SIZE=2"),
        ({**STEP, "SLURM_LOCALID": ""}, "LOCAL_RANK=''"),
    ],
)
def test_what_a_launcher_left_out_is_named(variables, words):
    with pytest.raises(ConfigError, match=words):
        find_launch(dict(variables))


def test_a_rank_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(Launch(5, 8, 1), {"LOCAL_RANK": "1"}) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"rank 6 is number 2 of its node, which has 2 GPUs"):
        device_of(Launch(6, 8, 2), {"LOCAL_RANK": "2"})
    with pytest.raises(ConfigError, match="LOCAL_RANK not"):
        device_of(Launch(1, 8, 0), {"RANK": "1"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device_of(Launch(3, 4, 1), {**STEP, "LOCAL_RANK": "1"}) == torch.device("cuda", 0)  # --gpus-per-task=1


def test_ranks_that_do_not_come_are_told(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", port)
        for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        with pytest.raises(ConfigError, match=rf"port {port} of this machine is taken.*MASTER_PORT"):
            launch.meet(Launch(0, 2, 0), launch.timedelta(seconds=5))
    with pytest.raises(ConfigError, match=rf"cannot meet at 127.0.0.1:{port} .*the same command on every node"):
        launch.meet(Launch(1, 2, 0), launch.timedelta(seconds=1))
    monkeypatch.setattr(ranks, "MEETING", launch.timedelta(seconds=0.2))
    with pytest.raises(ConfigError, match="only 1 of 2 ranks came"):
        ranks._wait_for_all_to_come(dist.HashStore(), 2)
    store = dist.HashStore()
    store.set(FAILED, "node2, rank 1: no such flag")
    with pytest.raises(ranks.RankLost, match="another rank has ended: node2, rank 1: no such flag"):
        ranks._wait_for_all_to_come(store, 2)


def test_ranks_that_fail_alike_are_told_once(monkeypatch, capsys):
    store = dist.HashStore()
    monkeypatch.setattr(ranks, "_store", store)
    monkeypatch.setattr(ranks, "_SOON", launch.timedelta(seconds=0.2))
    monkeypatch.setattr(ranks.socket, "gethostname", lambda: "node2")
    monkeypatch.setenv("WORLD_SIZE", "5")

    def said(rank, message, once=False):
        monkeypatch.setenv("RANK", str(rank))
        ranks.tell(message, once)
        return capsys.readouterr().err

    assert said(0, "no such key\nusage") == "error: no such key\nusage\n"
    assert said(1, "no such key\nusage") == ""
    assert said(2, "no such file") == "error: node2, rank 2: no such file\n"
    assert said(3, "no such file") == ""
    assert said(3, "another rank has ended", once=True) == "error: node2, rank 3: another rank has ended\n"
    assert said(4, "another rank at 10.0.0.1 has ended", once=True) == ""
    assert store.get(FAILED) == b"no such key"  # what the others may hear: the first reason, in one line

    def gone(*_):
        raise dist.DistNetworkError("the store has gone")

    monkeypatch.setattr(ranks, "_store", SimpleNamespace(wait=gone, add=gone, set=gone, compare_set=gone))
    assert said(1, "full") == "error: node2, rank 1: full\n"
    assert said(0, "full") == "error: full\n"


def two_nodes(monkeypatch, other, rank=0):
    """A context of two nodes, in which the other rank answers each question with ``other(own)``."""

    def gather(own):
        return [own, other(own)] if rank == 0 else [other(own), own]

    for module in (nodes, ranks):
        monkeypatch.setattr(module, "gather", gather)
        monkeypatch.setattr(module, "wait_for_all", lambda: None)
    return RankContext(rank, 2, torch.device("cpu"), places=["node1", "node2"])


def test_a_rank_knows_its_node_and_its_share_of_the_cores(monkeypatch):
    context = RankContext(2, 3, torch.device("cpu"), places=["a", "b", "b"])
    assert (context.nodes, context.node, context.local_ranks, context.first_of_node) == (["a", "b"], "b", 2, False)
    assert str(context) == "3 ranks on 2 nodes"
    for own, others, cores in (
        ([0, 1, 2, 3], [[0, 1, 2, 3]], 2),  # torchrun binds none
        ([2, 3], [[0, 1]], 2),  # srun binds each
        ([0], [[0]], 1),
    ):
        monkeypatch.setattr(ranks, "gather", lambda _, own=own, others=others: [[0, 1], *others, own])
        monkeypatch.setattr(ranks.os, "sched_getaffinity", lambda _, own=own: set(own))
        assert ranks._own_cores(["a", "b", "b"], 2) == cores


def test_hosts_of_one_name_are_several_nodes(monkeypatch):
    monkeypatch.setattr(ranks, "gather", lambda own: [("n", "x"), ("n", "y"), ("m", "z"), ("n", "x")])
    assert ranks._places() == ["n#0", "n#1", "m", "n#0"]


def changed(own):
    """Another torch on the other node: its answer to what differs from rank 0."""
    return {"torch": "2.0.0"} if own == {} else own


def test_other_software_is_refused_by_the_name_of_the_node(monkeypatch):
    context = two_nodes(monkeypatch, changed)
    with pytest.raises(ConfigError, match=r"node2, rank 1: has torch 2\.0\.0 \(rank 0: .*the same software"):
        check_versions(context)
    check_versions(two_nodes(monkeypatch, lambda own: own))


def test_other_settings_are_refused(monkeypatch):
    """As rank 1 sees it, whose own differ from what rank 0 sends."""
    theirs = {"run.steps": "3", "engine.zero": "0", "--resume": "False"}
    context = two_nodes(monkeypatch, lambda own: theirs if own is None else {}, rank=1)
    values = {"run": {"steps": 4}, "engine": {"zero": 0}}
    with pytest.raises(ConfigError, match=r"node2, rank 1: has run\.steps 4 \(rank 0: 3\); start the same command"):
        check_settings(context, values, resume=False)
    check_settings(context, {"run": {"steps": 3}, "engine": {"zero": 0}}, resume=False)


def test_a_folder_that_a_node_does_not_see_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(nodes, "_PATIENCE", 0.1)
    context = two_nodes(monkeypatch, lambda own: False if own is True else own)
    with pytest.raises(ConfigError, match=rf"--out {tmp_path}: node1 made it, but node2 cannot see it"):
        check_folder(context, tmp_path)
    assert not list(tmp_path.iterdir())
    check_folder(two_nodes(monkeypatch, lambda own: own), tmp_path)
    blind = two_nodes(monkeypatch, lambda own: own, rank=1)  # what node2 itself says: rank 0 left no mark here
    with pytest.raises(ConfigError, match="cannot see it"):
        check_folder(blind, tmp_path / "absent")


def test_other_clips_are_refused(monkeypatch, tmp_path):
    clips = [Clip(tmp_path / f"{number}.mp4") for number in range(3)]
    first = {}

    def other(own):
        return first if own is None else {}

    of_rank_0 = two_nodes(monkeypatch, lambda own: first.update(own) or own)
    check_clips(of_rank_0, "data.sources", clips)
    context = two_nodes(monkeypatch, other, rank=1)
    check_clips(context, "data.sources", clips)
    with pytest.raises(ConfigError, match=r"node2, rank 1: has data.sources 2 clips .*rank 0: 3 clips"):
        check_clips(context, "data.sources", clips[:2])


class Lost:
    """What a watch has to say at its end."""

    def __init__(self):
        self.said, self.came = [], threading.Event()

    def __call__(self, message):
        self.said.append(message)
        self.came.set()


def watch(store, lost, **options):
    return Watch(store, **{"beat": 0.02, "silence": 10, "grace": 5, "lost": lost, **options})


def test_a_node_that_falls_silent_is_missed_and_the_other_is_not():
    store, lost = dist.HashStore(), Lost()
    one, two = watch(store, lost, silence=50), watch(store, Lost(), silence=10**6)
    one.beat_for("a", ["a", "b"])
    two.beat_for("b", ["a", "b"])
    time.sleep(2)  # as long as two times the silence that counts
    assert not lost.said
    two.stop()
    assert lost.came.wait(HANG)
    assert lost.said[0].startswith("nothing was heard from b, or from the node that began the job, for 1 s")


def test_a_failure_is_learned_and_ends_who_goes_on_waiting():
    store, lost = dist.HashStore(), Lost()
    one = watch(store, lost)
    store.set(FAILED, "node2, rank 1: disk full")
    assert lost.came.wait(HANG)
    assert lost.said == ["another rank has ended: node2, rank 1: disk full"]
    assert one.reason == "node2, rank 1: disk full"


def test_what_gloo_says_of_a_lost_rank_becomes_a_line(monkeypatch):
    error = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:4242")
    monkeypatch.setattr(ranks, "_watch", SimpleNamespace(reason="node2, rank 1: a.csv: no such file"))
    assert str(ranks.rank_lost(error)) == "another rank at 10.0.0.2 has ended: node2, rank 1: a.csv: no such file"
    assert ranks.rank_lost(RuntimeError("shapes differ")) is None
    remote = dist.DistBackendError("NCCL error: ncclRemoteError: A call failed, a remote process exiting prematurely")
    assert "has ended" in str(ranks.rank_lost(remote))
