"""Shards written by hand, of any bytes, for tests of reading; and a web server that misbehaves where it is told to."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from vatt.data.shards.format import Index, Settings, Shard, shard_names
from vatt.data.shards.lines import PieceLine, RowLine, SourceLine

SETTINGS = Settings(256, 10.0, 3.2, 60.0, 10**9, 48000, "by hand", "by hand", "by hand")


@dataclass
class Made:
    """A source to pack: its pieces as (begins, seconds, bytes), and the rest of its line."""

    source: str
    pieces: list[tuple[float, float, bytes]]
    rows: list[RowLine]
    duration: float = 10.0
    sound: float | None = 10.0
    kind: str = "video"
    captions: Sequence = field(default_factory=tuple)


def write_shards(folder: Path, shards: list[list[Made]], settings: Settings = SETTINGS, ending: str = "mov") -> Index:
    """Writes the shards with these sources, and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    found, number = [], 0
    for place, sources in enumerate(shards):
        file, lines = shard_names(place)
        texts, seconds = [], 0.0
        with tarfile.open(folder / file, "w", format=tarfile.GNU_FORMAT) as tar:
            for made in sources:
                pieces = []
                for part, (begins, length, content) in enumerate(made.pieces):
                    about = tarfile.TarInfo(f"{number:08d}-{part:04d}.{ending}")
                    about.size = len(content)
                    offset = tar.offset + 512
                    tar.addfile(about, io.BytesIO(content))
                    digest = hashlib.sha256(content).hexdigest()
                    pieces.append(PieceLine(about.name, offset, len(content), digest, begins, length))
                    seconds += length
                line = SourceLine(
                    made.source,
                    number,
                    made.kind,
                    bytes=1,
                    sha256="0" * 64,
                    duration=made.duration,
                    sound=made.sound,
                    rows=made.rows,
                    captions=made.captions,
                    pieces=pieces,
                )
                texts.append(line.text())
                number += 1
        content = "".join(text + "\n" for text in texts).encode()
        (folder / lines).write_bytes(content)
        tar_bytes = (folder / file).read_bytes()
        found.append(
            Shard(
                file=file,
                bytes=len(tar_bytes),
                sha256=hashlib.sha256(tar_bytes).hexdigest(),
                lines=lines,
                lines_bytes=len(content),
                lines_sha256=hashlib.sha256(content).hexdigest(),
                sources=len(sources),
                pieces=sum(len(made.pieces) for made in sources),
                clips=sum(len(made.rows) for made in sources),
                seconds=seconds,
            )
        )
    index = Index(settings, "by hand", tuple(found), 0)
    (folder / "index.json").write_text(index.text())
    return index


class Server:
    """Serves a folder on 127.0.0.1, with ranges.

    Attributes:
        behaviours: by file, what the next requests get, one after the other: a status; "whole" (all of the file),
            "stall" and "close" (after half of the body), "slow" and "drip" (a byte at a time), "wrong" (other bytes),
            "elsewhere" (another range). Then all is well. "always NAME" stays.
        requests: (file, range) of each request. sent: bytes of bodies by file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.behaviours: dict[str, list] = defaultdict(list)
        self.requests: list[tuple[str, str | None]] = []
        self.sent: Counter[str] = Counter()
        self.over = threading.Event()
        handler = type("Handler", (_Handler,), {"about": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/shards"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def asked(self, suffix: str) -> list[tuple[str, str | None]]:
        """The requests of files with this ending."""
        return [request for request in self.requests if request[0].endswith(suffix)]

    def close(self) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    about: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        name = self.path.partition("?")[0].rpartition("/")[2]
        asked = self.headers.get("Range")
        self.about.requests.append((name, asked))
        waiting = self.about.behaviours[name]
        how = (waiting[0] if str(waiting[0]).startswith("always") else waiting.pop(0)) if waiting else None
        how = int(how.removeprefix("always ")) if str(how).startswith("always ") and how[7:].isdigit() else how
        how = str(how).removeprefix("always ") if isinstance(how, str) else how
        path = self.about.folder / (name if self.path.startswith(f"/shards/{name}") else "absent")
        if isinstance(how, int) or not path.is_file():
            self.send_response(how or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, total = 0, path.stat().st_size
        last = total - 1
        if asked is None or how == "whole":
            self.send_response(200)
        else:
            first, last = (int(part) for part in asked.removeprefix("bytes=").split("-"))
            if last >= total:
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            shift = 1 if how == "elsewhere" else 0
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first + shift}-{last + shift}/{total}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        with path.open("rb") as file:
            file.seek(first)
            content = file.read(last + 1 - first)
        if how == "wrong":
            content = bytes([content[0] ^ 1]) + content[1:]
        try:
            self._send(content, how)
        except (BrokenPipeError, ConnectionResetError):  # the client had enough
            self.close_connection = True

    def _send(self, content, how):
        if how in ("stall", "close"):
            self._write(content[: len(content) // 2])
            if how == "stall":
                self.about.over.wait()
            self.close_connection = True
        elif how == "slow":
            self._write(content[:1])
            self.about.over.wait(0.3)
            self._write(content[1:])
        elif how == "drip":
            for place in range(len(content)):
                self._write(content[place : place + 1])
                if self.about.over.wait(0.05):
                    return
        else:
            for place in range(0, len(content), 2**16):
                self._write(content[place : place + 2**16])

    def _write(self, content):
        self.wfile.write(content)
        self.wfile.flush()
        name = self.path.partition("?")[0].rpartition("/")[2]
        self.about.sent[name] += len(content)
