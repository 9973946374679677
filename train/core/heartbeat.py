"""A node that fell silent ends the job: its power failed, or the network to it, so that no connection was closed.

Where a process is killed, its connections close and gloo tells the other ranks at once. Where a machine goes, nothing
comes any more: gloo would wait for days, and NCCL for its ten minutes. So the first rank of each node counts beats in
the store through which the ranks met, and watches the beats of the next node.
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

BEAT = 5.0  # seconds
SILENCE = 24  # beats without a word from a node, until it counts as gone


class Heartbeat:
    """Beats and watches in threads of its own until `stop`.

    Silence is counted in our own beats, not in time: a job that its scheduler suspends as a whole goes on afterwards.

    Args:
        store: of all nodes.
        nodes: their names.
        own: the name of this one. The next one in the list is watched.
        lost: called with a message when a node is lost; ends the process.
    """

    def __init__(
        self,
        store: dist.Store,
        nodes: Sequence[str],
        own: str,
        *,
        beat: float = BEAT,
        silence: int = SILENCE,
        lost: Callable[[str], object] | None = None,
    ) -> None:
        self._store = connect_again(store, timedelta(seconds=beat))
        self._own = own
        self._watched = nodes[(list(nodes).index(own) + 1) % len(nodes)]
        self._beat, self._silence, self._lost = beat, silence, lost or _end
        self._stopped = threading.Event()
        self._heard = 0  # changes of the other's count that were seen
        for work in (self._talk, self._judge):
            threading.Thread(target=work, name=f"heartbeat {work.__name__}", daemon=True).start()

    def stop(self) -> None:
        """Ends the watch, before the process or its store does."""
        self._stopped.set()

    def _talk(self) -> None:
        """Counts a beat and looks at the other node's. A call may hang as long as the store cannot be reached."""
        before = -1
        while not self._stopped.wait(self._beat):
            try:
                self._store.add(f"beats of {self._own}", 1)
                count = self._store.add(f"beats of {self._watched}", 0)
            except RuntimeError:  # the store has gone, with the node that held it
                continue
            if count != before:
                before = count
                self._heard += 1

    def _judge(self) -> None:
        heard, silent = 0, 0
        while not self._stopped.wait(self._beat):
            silent, heard = (silent + 1 if self._heard == heard else 0), self._heard
            if silent >= self._silence:
                self._lost(
                    f"nothing was heard from {self._watched}, or from the node that began the job, for "
                    f"{self._silence * self._beat:.0f} s: it has stopped, or the network to it"
                )
                return


def _end(message: str) -> NoReturn:
    """At once: other threads may wait for ever in a collective, or for the GPU."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)
