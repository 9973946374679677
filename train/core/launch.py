"""Where a launcher put this process: torchrun and deepspeed say so in RANK and its kin, srun in other variables."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vatt.config import ConfigError

if not torch.cuda.is_available():  # else DeepSpeed warns of that when it is imported, before the one line of an error
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

# How long ranks wait for each other at the start. Who starts the nodes by hand needs minutes.
MEETING = timedelta(minutes=10)
_NEEDED = ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """The number of this process, how many there are, and its number on its node."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0


def find_launch(variables: MutableMapping[str, str] = os.environ) -> Launch:
    """What the launcher says. Variables of torchrun that are missing, because srun started the process or nobody did,
    are put in, for DeepSpeed reads some.

    Raises:
        ConfigError: some are missing or are no numbers; names them.
    """
    if "RANK" not in variables:
        if _step_of_slurm(variables):
            _use_slurm(variables)
        else:
            variables.update({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"})
    rank, ranks = _number(variables, "RANK"), _number(variables, "WORLD_SIZE")
    if not 0 <= rank < ranks:
        raise ConfigError(f"RANK={rank}: is not below WORLD_SIZE={ranks}")
    if ranks > 1 and (missing := [name for name in _NEEDED if not variables.get(name)]):
        raise ConfigError(f"RANK is set, {', '.join(missing)} not: start several ranks with torchrun or deepspeed")
    return Launch(rank, ranks, _number(variables, "LOCAL_RANK", "0"))


def launched_rank(variables: Mapping[str, str] = os.environ) -> int:
    """The number of this process as far as a launcher told it, else 0."""
    text = variables.get("RANK") or (variables.get("SLURM_PROCID") if _step_of_slurm(variables) else None)
    return int(text) if text and text.isdecimal() else 0


def _step_of_slurm(variables: Mapping[str, str]) -> bool:
    """Whether srun started several of us. In a batch script outside of srun SLURM_PROCID is set too, but not this."""
    tasks = variables.get("SLURM_STEP_NUM_TASKS", "1")
    return "SLURM_PROCID" in variables and tasks.isdecimal() and int(tasks) > 1


def _use_slurm(variables: MutableMapping[str, str]) -> None:
    """``srun python train/pretrain.py``: ranks are its tasks. They meet at the first node, at a port that follows from
    the numbers of job and step; MASTER_ADDR and MASTER_PORT, where set, come first."""
    job, step = _number(variables, "SLURM_JOB_ID", "0"), _number(variables, "SLURM_STEP_ID", "0")
    variables["RANK"] = variables["SLURM_PROCID"]
    variables["WORLD_SIZE"] = variables["SLURM_STEP_NUM_TASKS"]
    variables["LOCAL_RANK"] = variables.get("SLURM_LOCALID", "")
    variables.setdefault("MASTER_ADDR", first_host(variables.get("SLURM_STEP_NODELIST", "")))
    variables.setdefault("MASTER_PORT", str(20_000 + (job + 97 * step) % 10_000))


def first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes: "gpu[007-009,12],big1" begins with gpu007."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def _number(variables: Mapping[str, str], name: str, otherwise: str = "") -> int:
    text = variables.get(name, otherwise)
    if not text.isdecimal():
        raise ConfigError(f"{name}={text!r}: is no number; a launcher such as torchrun sets it")
    return int(text)


def device_of(launch: Launch, variables: Mapping[str, str] = os.environ) -> torch.device:
    """The GPU of this rank, or the CPU of a machine without GPUs.

    Raises:
        ConfigError: more ranks were started on this node than it has GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count, local = torch.cuda.device_count(), launch.local_rank
    if launch.ranks > 1 and "LOCAL_RANK" not in variables:
        raise ConfigError("RANK is set, LOCAL_RANK not, which says what GPU is ours: start with torchrun or deepspeed")
    if count == 1 and _step_of_slurm(variables):  # --gpus-per-task=1: each task sees its own alone
        local = 0
    if local >= count:
        raise ConfigError(
            f"{socket.gethostname()}: rank {launch.rank} is number {local} of its node, which has {count} GPUs; start "
            "fewer ranks there (--nproc_per_node, slots=, --ntasks-per-node)"
        )
    return torch.device("cuda", local)


def meet(launch: Launch, timeout: timedelta | None = None) -> dist.Store:
    """The store through which the ranks find each other.

    Raises:
        ConfigError: they do not come together in time; the message names address and port.
    """
    if launch.ranks == 1:
        return dist.HashStore()
    timeout = timeout or MEETING
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, _, _ = next(dist.rendezvous("env://", launch.rank, launch.ranks, timeout=timeout))
        return dist.PrefixStore("vatt", store)
    except (dist.DistError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if "EADDRINUSE" in reason:
            raise ConfigError(
                f"port {os.environ['MASTER_PORT']} of this machine is taken, so the ranks cannot meet there; name "
                "another: --master_port PORT of torchrun or deepspeed, or MASTER_PORT"
            ) from error
        raise ConfigError(
            f"the ranks cannot meet at {place} ({reason}); start the same command on every node, with the address of "
            "node 0, which the others must reach"
        ) from error


def choose_network(launch: Launch, variables: MutableMapping[str, str] = os.environ) -> None:
    """Makes gloo take the network that leads to MASTER_ADDR, unless GLOO_SOCKET_IFNAME names one. By itself it takes
    the address that this machine's own name has, which is often none, or the loopback's."""
    local = variables.get("LOCAL_WORLD_SIZE") or variables.get("LOCAL_SIZE") or variables.get("SLURM_NTASKS_PER_NODE")
    if launch.ranks == 1 or local == str(launch.ranks) or variables.get("GLOO_SOCKET_IFNAME"):
        return
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((variables["MASTER_ADDR"], 9))  # sends nothing; the system chooses the way
            own = probe.getsockname()[0]
            name = next((name for _, name in socket.if_nameindex() if _address(probe, name) == own), "lo")
    except OSError:
        return
    if name != "lo":
        variables["GLOO_SOCKET_IFNAME"] = name


def _address(probe: socket.socket, interface: str) -> str | None:
    """The IPv4 address of an interface, as Linux tells it."""
    try:
        found = fcntl.ioctl(probe, 0x8915, struct.pack("256s", interface.encode()[:15]))  # SIOCGIFADDR
    except OSError:
        return None
    return socket.inet_ntoa(found[20:24])


def connect_again(store: Any, timeout: timedelta) -> dist.Store:
    """The same store through a connection of its own: calls through one wait for each other, perhaps in vain."""
    other: dist.Store = store.clone()  # not in torch's stubs
    other.set_timeout(timeout)
    return other


def interfaces() -> str:
    """The network interfaces of this machine but the loopback, for a message."""
    return ", ".join(name for _, name in socket.if_nameindex() if name != "lo") or "none but the loopback"
