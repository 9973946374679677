"""A folder of a film, a sound and a picture with hostile names and captions, its index, and a server of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the page needs the extra serve")
pytest.importorskip("uvicorn", reason="the page needs the extra serve")

import uvicorn
from matplotlib.image import imsave

from tests.data.media import write
from tests.inference.library_models import save_model
from tests.limits import HANG
from vatt.search import Index, IndexJob, build_index
from vatt.serve.app import Settings, build_app
from vatt.serve.server import listen

RATE = 16000
HOSTILE = '"><img src=x onerror="document.hacked=1">.mp4'  # a name of a file, and so is the next one
TURNED = "a\u202e4pm.\x1b[31m 'red' & <b>.mp4"
CAPTION = "<script>document.hacked=2</script> a red circle moves here"


@dataclass(frozen=True)
class Served:
    """An index, the folder of its media, and the places of its files by their endings."""

    index: Index
    folder: Path
    film: int
    hostile: int
    turned: int
    sound: int
    picture: int


def frames(colour: tuple[int, int, int], seconds: float, fps: int = 10) -> np.ndarray:
    """A square that moves on grey."""
    found = np.full((round(seconds * fps), 48, 64, 3), 90, np.uint8)
    for number, frame in enumerate(found):
        left = number % 40
        frame[12:36, left : left + 24] = colour
    return found


def tone(seconds: float, pitch: float) -> np.ndarray:
    """A sound that is loud once a second."""
    at = np.arange(round(seconds * RATE)) / RATE
    return (0.4 * np.sin(2 * np.pi * pitch * at) * (0.3 + 0.7 * (at % 1 < 0.5))).astype(np.float32)


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Served:
    folder = tmp_path_factory.mktemp("serve")
    media, sub = folder / "media", folder / "media" / "holiday" / "2024"
    sub.mkdir(parents=True)
    write(media / "film.mp4", frames((220, 30, 30), 9.0), sound=tone(9.0, 440), rate=RATE)
    (media / "film.srt").write_text(f"1\n00:00:00,000 --> 00:00:09,000\n{CAPTION}\n", encoding="utf-8")
    write(sub / HOSTILE, frames((30, 60, 220), 3.0))
    write(sub / TURNED, frames((240, 220, 40), 3.0), sound=tone(3.0, 880), rate=RATE)
    write(sub / "hum.wav", None, sound=tone(4.0, 220), rate=RATE, audio_codec="pcm_s16le")
    imsave(media / "still.png", frames((30, 200, 60), 0.1)[0])
    model = save_model(folder / "model")
    build_index(IndexJob(media, model, folder / "index", workers=0, pictures=True))
    index = Index.open(folder / "index")
    names = [file.name for file in index.files]
    where = [next(n for n, name in enumerate(names) if name.endswith(end)) for end in (HOSTILE, TURNED, "wav", "png")]
    return Served(index, media, names.index("film.mp4"), *where)


@contextlib.contextmanager
def running(app, host: str = "127.0.0.1"):
    """The address of a real server of ``app``."""
    with listen(host, 0) as bound:
        config = uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        try:
            until = time.monotonic() + HANG
            while not server.started and time.monotonic() < until:
                assert thread.is_alive()
                time.sleep(0.02)
            yield f"http://{host}:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="session")
def address(served):
    """Of a server for all tests of this folder, whose processes start once."""
    with running(build_app(served.index, "holiday films", Settings(upload_bytes=1 << 20, processes=1))) as found:
        yield found


@pytest.fixture(scope="session")
def taken_port():
    """A port that another program has."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.fixture(scope="session")
def client(address):
    """Of the real server, so that what uvicorn does is tested, too."""
    httpx = pytest.importorskip("httpx2")
    with httpx.Client(base_url=address, timeout=HANG) as found:
        yield found


def told(answer, status=200):
    """What an answer says."""
    assert answer.status_code == status, answer.text
    return answer.json()
