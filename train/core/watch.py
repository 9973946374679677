"""A rank that failed, or a node that fell silent, ends the other ranks in bounded time, whatever they wait for.

Where a process is killed, its connections close, and gloo tells at once. But a rank that waits for its GPU may wait for
NCCL's ten minutes; and where a machine lost its power or its network, no connection is closed, and gloo would wait for
days. So each rank listens in the store through which they all met for one that had to say why it failed, and the first
rank of each node counts beats there, and watches those of the next node.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist

from train.core.launch import connect_again
from vatt.errors import printable

BEAT = 1.0  # seconds
SILENCE = 120  # beats without a word from a node, until it counts as gone
GRACE = 60  # beats that a rank has to learn of a failure by itself, and to finish a checkpoint
FAILED = "failed"  # the key of what the first rank that failed had to say


class Watch:
    """Listens in threads of its own until `stop`.

    All waiting is counted in own beats, not in time: a job that its scheduler suspends as a whole goes on afterwards.

    Args:
        store: of all ranks.
        lost: called with a message when the job is lost; ends the process.

    Attributes:
        reason: why another rank failed, as soon as that is known.
    """

    def __init__(
        self,
        store: dist.Store,
        *,
        beat: float = BEAT,
        silence: int = SILENCE,
        grace: int = GRACE,
        lost: Callable[[str], object] | None = None,
    ) -> None:
        self.reason: str | None = None
        self._store = connect_again(store, timedelta(seconds=10 * beat))
        self._own = self._watched = ""
        self._beat, self._silence, self._grace, self._lost = beat, silence, grace, lost or _end
        self._stopped = threading.Event()
        self._heard = 0  # changes of the other node's count that were seen
        for work in (self._listen, self._judge):
            threading.Thread(target=work, name=f"watch {work.__name__}", daemon=True).start()

    def beat_for(self, own: str, nodes: Sequence[str]) -> None:
        """Begins to count beats for the node ``own``, and to watch the one that follows it in ``nodes``."""
        self._own, self._watched = own, nodes[(list(nodes).index(own) + 1) % len(nodes)]

    def stop(self) -> None:
        """Ends the watch, before the process or its store does."""
        self._stopped.set()

    def _listen(self) -> None:
        """A call may hang as long as the store cannot be reached. Once it failed, what held the store has ended."""
        before = -1
        while not self._stopped.wait(self._beat):
            try:
                if self._store.check([FAILED]):
                    self.reason = self._store.get(FAILED).decode()
                    return
                if not self._own:
                    continue
                self._store.add(f"beats of {self._own}", 1)
                count = self._store.add(f"beats of {self._watched}", 0)
            except RuntimeError:
                self.reason = "the one that began the job is not there any more; its own output may say why"
                return
            if count != before:
                before, self._heard = count, self._heard + 1

    def _judge(self) -> None:
        heard, silent, known = 0, 0, 0
        while not self._stopped.wait(self._beat):
            silent = silent + 1 if self._own and self._heard == heard and self.reason is None else 0
            known += self.reason is not None
            heard = self._heard
            if known >= self._grace:
                return self._give_up(f"another rank has ended: {self.reason}")
            if silent >= self._silence:
                return self._give_up(
                    f"nothing was heard from {self._watched}, or from the node that began the job, for "
                    f"{self._silence * self._beat:.0f} s: it has stopped, or the network to it"
                )
        return None

    def _give_up(self, message: str) -> None:
        if not self._stopped.is_set():
            self._lost(message)


def _end(message: str) -> NoReturn:
    """At once: other threads may wait for ever in a collective, or for the GPU."""
    print(f"error: {printable(message)}", file=sys.stderr, flush=True)
    os._exit(1)
