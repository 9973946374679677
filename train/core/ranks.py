"""The processes of a job: joining, agreeing, leaving. Plain torch.distributed."""

from __future__ import annotations

import gc
import hashlib
import os
import re
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from train.core.launch import MEETING, choose_network, device_of, find_launch, interfaces, launched_rank, meet
from train.core.watch import FAILED, Watch
from vatt.config import ConfigError
from vatt.distributed import UnequalRanks
from vatt.environment import cores
from vatt.errors import UserError, printable
from vatt.evaluation.ranking import Together
from vatt.precision import type_of

# A second group beside that of the gradients, on the CPU: a rank waits in it as long as the others live, however long
# one of them evaluates, and learns at once when one has gone. NCCL gives up after ten minutes.
_patient: dist.ProcessGroup | None = None
_LONG = timedelta(days=7)
_store: dist.Store | None = None  # through which the ranks met, and tell each other why one ends
_watch: Watch | None = None  # for ranks that fail and nodes that fall silent
_SOON = timedelta(seconds=3)  # in which ranks that fail alike come to tell it

Model = TypeVar("Model", bound=nn.Module)


class RankLost(UserError, RuntimeError):
    """Another rank has ended. The message says what is known of it."""


@dataclass
class RankContext:
    """This process among those of the job.

    Attributes:
        rank, ranks: its number, and how many there are.
        device: where it computes.
        began: when it joined (time.monotonic).
        places: the name of the node of each rank; without it all are on this one.
        cores: those that this rank has for itself: its share of those that other ranks of its node may use, too.
    """

    rank: int
    ranks: int
    device: torch.device
    began: float = field(default_factory=time.monotonic)
    places: list[str] = field(default_factory=list)
    cores: int = 0

    def __post_init__(self) -> None:
        self.places = self.places or [socket.gethostname()] * self.ranks
        self.cores = self.cores or max(1, cores() // self.local_ranks)

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes, in the order of their first ranks."""
        return list(dict.fromkeys(self.places))

    @property
    def node(self) -> str:
        """The name of this node."""
        return self.places[self.rank]

    @property
    def local_ranks(self) -> int:
        """How many ranks share this node, its cores and its memory."""
        return self.places.count(self.node)

    @property
    def first_of_node(self) -> bool:
        """Whether no rank before this one is on its node."""
        return self.places.index(self.node) == self.rank

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone speaks and writes."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """The name of the GPU as PyTorch reports it, or "CPU"."""
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"

    def __str__(self) -> str:
        ranks = "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"
        return ranks if len(self.nodes) == 1 else f"{ranks} on {len(self.nodes)} nodes"

    def say(self, text: str) -> None:
        """A line for people, on rank 0."""
        if self.first:
            print(printable(text, keep="\n"), flush=True)

    def shard(self, count: int) -> range:
        """The indices of this rank among ``count``: every index belongs to exactly one rank."""
        return range(self.rank, count, self.ranks)

    def to_device(self, model: Model, precision: str) -> Model:
        """The model on the device of this rank, in the type of ``--precision``."""
        return model.to(self.device, type_of(precision, self.device))


def start_distributed() -> RankContext:
    """Joins the ranks that a launcher started, or makes this process the only one.

    Raises:
        ConfigError: the ranks cannot meet, or what the launcher set makes no sense. RankLost: another one has failed.
    """
    launch = find_launch()
    device = device_of(launch)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    global _patient, _store, _watch
    if not dist.is_initialized():
        choose_network(launch)
        _store = _store or meet(launch)
        _wait_for_all_to_come(_store, launch.ranks)
        try:
            backend = "nccl" if device.type == "cuda" else "gloo"
            _watch = Watch(_store) if launch.ranks > 1 else None  # connecting may wait in vain for one that failed
            dist.init_process_group(backend, store=_store, rank=launch.rank, world_size=launch.ranks)
            _patient = dist.new_group(backend="gloo", timeout=_LONG)
        except RuntimeError as error:
            raise ConfigError(
                f"the ranks have met, but cannot reach each other ({str(error).splitlines()[0]}); name the network "
                f"that the nodes share by GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME (here: {interfaces()})"
            ) from error
    places = _places()
    context = RankContext(launch.rank, launch.ranks, device, places=places, cores=_own_cores(places, launch.rank))
    if context.ranks > 1:  # srun does not say it, and an evaluation shares the memory of its node by it
        os.environ.setdefault("LOCAL_WORLD_SIZE", str(context.local_ranks))
    if len(context.nodes) > 1 and context.first_of_node and _watch is not None:
        _watch.beat_for(context.node, context.nodes)
    return context


def _wait_for_all_to_come(store: dist.Store, ranks: int) -> None:
    """Before the ranks connect to each other, which may hang if one has failed already."""
    here, until = store.add("here", 1), time.monotonic() + MEETING.total_seconds()
    while here < ranks:
        if why := _told(store):
            raise RankLost(f"another rank has ended: {why}")
        if time.monotonic() > until:
            raise ConfigError(
                f"only {here} of {ranks} ranks came within {MEETING}; start the same command on every node"
            )
        time.sleep(0.1)
        here = store.add("here", 0)


def _places() -> list[str]:
    """The name of the node of each rank: its host's, with a number where several hosts have one name.

    A host is told from others by its name and the number of its start, so containers of one machine count as several,
    which is right for the memory they share.
    """
    path = Path("/proc/sys/kernel/random/boot_id")
    started = path.read_text().strip() if path.is_file() else ""
    hosts: list[tuple[str, str]] = gather((socket.gethostname(), started))
    different = list(dict.fromkeys(hosts))
    names = [name for name, _ in different]
    numbered = {
        host: host[0] if names.count(host[0]) == 1 else f"{host[0]}#{different.index(host)}" for host in different
    }
    return [numbered[host] for host in hosts]


def _own_cores(places: list[str], rank: int) -> int:
    """Launchers may bind each rank to cores of its own (srun), or none (torchrun): those of several are divided."""
    allowed: list[list[int]] = gather(sorted(os.sched_getaffinity(0)))
    others = [cpus for place, cpus in zip(places, allowed, strict=True) if place == places[rank]]
    users = Counter(cpu for cpus in others for cpu in cpus)
    return max(1, int(sum(1 / users[cpu] for cpu in allowed[rank]) + 1e-6))


def agree(flags: list[bool], clips: int | None = None) -> list[bool]:
    """Each flag, true on all ranks if it was on any: what all must do together.

    Args:
        clips: of this rank's batch. They are compared here, where the hosts wait for each other anyway: a step with
            unequal batches would hang or abort in the collectives of the loss.

    Raises:
        UnequalRanks: on every rank, if the ranks have batches of different sizes.
    """
    if dist.get_world_size() == 1:
        return flags
    sizes = [] if clips is None else [clips, -clips]  # the largest of the negative ones is the smallest
    votes = torch.tensor([*map(int, flags), *sizes], dtype=torch.int64)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=_patient)  # on the CPU: the GPU goes on meanwhile
    found = votes.tolist()
    if sizes and found[-2] != -found[-1]:
        raise UnequalRanks(
            f"batch: all ranks must have equally many clips; this one has {clips}, others have between {-found[-1]} "
            f"and {found[-2]}"
        )
    return [bool(vote) for vote in found[: len(flags)]]


def gather(item: Any) -> list[Any]:
    """The items of all ranks, in rank order, on the CPU. They are pickled, which is safe among our own processes."""
    items: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(items, item, group=_patient)
    return items


def everyone() -> Together:
    """All ranks, for tensors of the CPU."""
    return Together(_patient)


def wait_for_all() -> None:
    """Returns when all ranks have called it."""
    dist.barrier(group=_patient)


def rank_lost(error: RuntimeError) -> RankLost | None:
    """What to say if gloo or NCCL raised the error because another rank has gone; None if it is another error."""
    text = str(error).lower()
    by_gloo = "gloo" in text and any(words in text for words in _GONE)
    if not by_gloo and not (isinstance(error, dist.DistBackendError) and "ncclremoteerror" in text):
        return None
    until = time.monotonic() + _SOON.total_seconds()
    while _watch is not None and _watch.reason is None and time.monotonic() < until:  # the store may be slower
        time.sleep(0.05)
    why = _watch.reason if _watch is not None else None
    host = re.search(r"\[([\w.:]+)\]:\d+", text)
    where = f" at {host[1]}" if host else ""
    return RankLost(
        f"another rank{where} has ended: {why or 'it did not say why, see its own output; it may have been killed'}"
    )


# What gloo says of a connection to a rank that has ended, or whose machine cannot be reached any more.
_GONE = ("closed by peer", "reset by peer", "broken pipe", "connection timed out", "no route to host", "pair closure")


def tell(message: str, once: bool = False, kind: str = "error: ") -> None:
    """Prints an error, once for all ranks that fail alike: rank 0 speaks for those with the same message.

    Args:
        once: whether one of all ranks is enough, whatever they have to tell.
        kind: what the line begins with; "" where it is no error.
    """
    global _store
    rank, ranks = launched_rank(), int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or 1)
    from_whom = f"{socket.gethostname()}, rank {rank}: " if rank else ""

    def speak() -> None:
        with suppress(OSError):  # the terminal has gone
            print(kind + printable(from_whom + message, keep="\n"), file=sys.stderr, flush=True)

    if rank == 0:
        speak()
    if ranks == 1 or not (kind or _store):  # one that is told to end does not wait for others first
        return
    key = "told once" if once else "told " + hashlib.sha256(printable(message).encode()).hexdigest()[:16]
    try:
        # Wrong arguments are found before the ranks have met. A store that has gone is not sought again.
        store = _store = _store or meet(find_launch(), 5 * _SOON)
        if rank == 0:
            _note(store, message, once and bool(kind))
            store.set(key, "")
            until = time.monotonic() + _SOON.total_seconds()
            while store.add("ended", 0) < ranks - 1 and time.monotonic() < until:  # this process may hold the store
                time.sleep(0.05)
            return
        if not _comes(store, key) and store.add(f"{key}, others", 1) == 1:
            speak()
        _note(store, from_whom + message, once and bool(kind))
        store.add("ended", 1)
    except (RuntimeError, UserError):
        if rank:
            speak()


def _note(store: dist.Store, message: str, once: bool) -> None:
    """Leaves the reason of this rank for those who are about to lose it."""
    if not once:
        store.compare_set(FAILED, "", message.partition("\n")[0])


def _comes(store: dist.Store, key: str) -> bool:
    try:
        store.wait([key], _SOON)
    except RuntimeError:
        return False
    return True


def _told(store: dist.Store) -> str | None:
    """What the first rank that failed had to tell."""
    return store.get(FAILED).decode() if store.check([FAILED]) else None


def stop_distributed() -> None:
    """Leaves together. Ranks that end while others still talk to them abort those."""
    global _patient, _store, _watch
    if dist.is_initialized():
        wait_for_all()
        if _watch is not None:
            _watch.stop()
        gc.collect()
        dist.destroy_process_group()
        _patient = _store = _watch = None
