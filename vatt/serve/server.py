"""Listening on an address, and answering until a signal ends it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from vatt import signals
from vatt.errors import UserError
from vatt.isolated import end_all

_CONNECTIONS = 1024  # at once; more are told that the server is busy
_GOODBYE = 2  # seconds that answers under way have, such as a film that plays, once the server is told to end


class ListenError(UserError, OSError):
    """The address cannot be listened on."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that the address is known, and is ours, before anything is printed.

    Raises:
        ListenError: no such address here, or another program has it.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(2048)
        except BaseException:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ListenError(f"--host {host}, --port {port}: cannot be listened on: {why}") from error
    return bound


def serve(app: Starlette, bound: socket.socket) -> None:
    """Answers on ``bound`` until a signal comes, which it raises as `vatt.signals` does, once all has ended."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        ws="none",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_GOODBYE,
    )
    server = _Server(config)

    def end() -> None:
        server.should_exit = True

    # Nothing is raised in the loop of asyncio, which a half-built or half-closed one would tell in a traceback.
    with signals.put_off(second_raises=False):
        signals.on_signal(end)
        if signals.received() is not None:  # it came before
            end()
        # What is cut off now, such as a film that plays, is no fault.
        logging.getLogger("uvicorn.error").addFilter(lambda record: not server.should_exit)
        try:
            server.run([bound])
        finally:
            signals.on_signal(end, forget=True)
            end_all()  # those at work, or still starting
    with signals.may_interrupt():
        pass


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `vatt.signals`. What uvicorn hears of, it would raise anew inside its loop."""
        yield
