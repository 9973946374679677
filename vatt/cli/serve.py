"""``vatt serve INDEX``: a page that searches an index by words, sounds and clips, and plays what it finds."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from vatt.cli.progress import waiting
from vatt.cli.search import NO_INDEX
from vatt.errors import UserError, printable
from vatt.extras import install
from vatt.files import check_there


class ServeError(UserError, RuntimeError):
    """The page cannot be served."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("index", type=Path, metavar="INDEX", help="folder that `vatt index` has written")
    add("--model", type=Path, metavar="DIR", help="folder of the model or run (where the index says that it was)")
    add("--store", metavar="URI", help="where `vatt index --store` has put a copy; then not all windows are looked at")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on (127.0.0.1: this machine alone)")
    add("--port", type=int, default=8350, metavar="N", help="to listen on; 0 takes a free one (8350)")
    add("--allow-host", action="append", default=[], metavar="NAME", help="further names of this server, as of a proxy")
    add("--max-upload", type=int, default=64, metavar="MIB", help="largest sound or clip to search by (64)")
    add("--workers", type=int, default=2, metavar="N", help="processes that open media (2)")
    add("--device", metavar="D", help="cpu, cuda, cuda:1 (cuda, or cpu without one)")


def run(options: argparse.Namespace) -> int:
    """Serves until it is told to end. Raises UserError: the index, the model or the address cannot be used."""
    for name in ("starlette", "uvicorn"):
        if find_spec(name) is None:
            raise ServeError(f"vatt serve needs {name}: {install('serve')}")
    for flag, value, least, most in (
        ("--port", options.port, 0, 65535),
        ("--max-upload", options.max_upload, 1, 1024),
        ("--workers", options.workers, 1, 64),
    ):
        if not least <= value <= most:
            raise ServeError(f"{flag}: from {least} to {most}, got {value}")
    check_there(options.index, NO_INDEX.format(printable(options.index)))
    with waiting("reading the index and the model"):
        from vatt.environment import default_device
        from vatt.search import Index
        from vatt.search.lance import LanceCopy
        from vatt.serve.app import Settings, build_app
        from vatt.serve.guard import is_local
        from vatt.serve.server import listen, serve

        index = Index.open(options.index, model=options.model, device=options.device or default_device())
        if options.store is not None:
            index.copy = LanceCopy.open(options.store, index)
        _ = index.encoder.model  # a model that cannot be loaded is told now, and the first search need not wait for it
    settings = Settings(options.host, tuple(options.allow_host), options.max_upload << 20, options.workers)
    app = build_app(index, options.index.resolve().name, settings)
    with listen(options.host, options.port) as bound:
        port = bound.getsockname()[1]
        shown = f"[{options.host}]" if ":" in options.host else options.host
        print(f"{printable(options.index)}: {len(index.files)} files, {len(index)} windows")
        print(f"http://{shown}:{port}/  (Ctrl-C ends it)", flush=True)
        if not is_local(options.host):
            print(
                f"warning: whoever reaches {printable(options.host)} can search and play all files of this index",
                file=sys.stderr,
            )
        serve(app, bound)
    return 0
