"""The routes of ``vatt serve``: the page, searches, uploads, and the media of the index.

Everything is asked for by numbers of the index or by a token; no part of a request is ever a path on the disk.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from vatt.errors import UserError, in_short, printable
from vatt.search import Index, IndexedFile, Query
from vatt.serve import guard
from vatt.serve.collection import media_type
from vatt.serve.decoding import BusyError, DecodeError, Decoder, Poster, Shape, Upload
from vatt.serve.originals import Original, Originals
from vatt.serve.parameters import filter_of, kind_of_name, number, read_body, whole_number
from vatt.serve.projection import MOST_POINTS, project, spread
from vatt.serve.views import Kept, View, Views

MOST_WORDS = 1000  # characters of a sentence that is asked
MOST_HITS = 200
UPLOAD_BYTES = 64 << 20
_UPLOADS = 4  # at once, each in memory
_TOKENS = 256  # uploads whose vectors are kept
_SENTENCES = 4096  # whose vectors are kept
_WAITING = 2048  # sentences that may wait for the model
_ASSETS = {"css": "text/css", "js": "text/javascript", "html": "text/html", "svg": "image/svg+xml"}
_FOREVER = {"cache-control": "private, max-age=86400, immutable"}  # of what an address with `v` leads to
_ASK_AGAIN = {"cache-control": "no-cache"}


@dataclass(frozen=True)
class Settings:
    """How a collection is served: the address that the server is bound to, further names that it has, the bytes of an
    upload, and the processes that open media."""

    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    upload_bytes: int = UPLOAD_BYTES
    processes: int = 2


def build_app(index: Index, name: str, settings: Settings | None = None) -> Starlette:
    """The application that serves an open index, for uvicorn or a test client.

    Args:
        name: of the index, for the page.
    """
    return _Server(index, name, settings or Settings()).app()


class _Server:
    def __init__(self, index: Index, name: str, settings: Settings) -> None:
        self.name, self.settings = name, settings
        self.views = Views(index)
        self.originals = Originals()
        self.decoder, self.uploads = Decoder(settings.processes), Decoder(1, _UPLOADS)
        self.model = ThreadPoolExecutor(1, "model")  # which computes on all cores anyway
        self.waiting = 0
        self.assets = _assets()
        self.sentences = Kept[str, Query](_SENTENCES)
        self.tokens = Kept[str, Query](_TOKENS)
        self.sending = 0

    def app(self) -> Starlette:
        get: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
            ("/", self.page),
            ("/static/{name}", self.asset),
            ("/api/collection", self.described),
            ("/api/browse", self.browse),
            ("/api/search", self.search),
            ("/api/map", self.mapped),
            ("/api/moments/{number:int}", self.moments),
            ("/api/moment/{number:int}", self.moment),
            ("/media/{number:int}", self.media),
            ("/poster/{number:int}", self.poster),
            ("/shape/{number:int}", self.shape),
        ]
        routes = [Route(path, function, methods=["GET"]) for path, function in get]
        routes.append(Route("/api/upload", self.upload, methods=["POST"]))
        guarded = Middleware(guard.Guard, host=self.settings.host, names=self.settings.names)
        handlers: dict[Any, Any] = {UserError: _told, HTTPException: _refused, ClientDisconnect: _gone}
        return Starlette(routes=routes, middleware=[guarded], lifespan=self.running, exception_handlers=handlers)

    @asynccontextmanager
    async def running(self, app: Starlette) -> AsyncIterator[None]:
        with self.decoder, self.uploads:
            yield
        self.model.shutdown(wait=False, cancel_futures=True)

    # The page

    async def page(self, request: Request) -> Response:
        content = self.assets["index.html"][0]
        return Response(
            content,
            media_type="text/html; charset=utf-8",
            headers={"content-security-policy": guard.PAGE_POLICY, "cache-control": "no-cache"},
        )

    async def asset(self, request: Request) -> Response:
        found = self.assets.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404, "no such file")
        return Response(found[0], media_type=found[1], headers={"cache-control": "no-cache"})

    async def described(self, request: Request) -> Response:
        view = await self.views.newest()
        about = await run_in_threadpool(view.collection.about)
        more = {
            "name": printable(self.name),
            "model": printable(view.index.model.name),
            "spaces": list(view.collection.spaces()),
            "upload_bytes": self.settings.upload_bytes,
            "v": view.version,
        }
        return _json({**about, **more})

    # Searching

    async def browse(self, request: Request) -> Response:
        """Files in order of their names, with the first window of each."""
        first, count = whole_number(request, "from", 0, 0, 10**9), whole_number(request, "count", 48, 1, MOST_HITS)
        wanted, view = filter_of(request), await self.views.newest()

        def found() -> dict[str, Any]:
            numbers = [number for number, file in enumerate(view.index.files) if wanted.passes(file)]
            rows = [view.collection.rows_of(number)[:1] for number in numbers[first : first + count]]
            return {
                "v": view.version,
                "total": len(numbers),
                "results": [view.collection.moment(int(row)) for some in rows for row in some],
            }

        return _json(await run_in_threadpool(found))

    async def search(self, request: Request) -> Response:
        began = time.perf_counter()
        text = request.query_params.get("text", "").strip()
        if len(text) > MOST_WORDS:
            raise HTTPException(400, f"text: has {len(text)} characters, at most {MOST_WORDS}")
        weight = number(request, "weight", 0.5, 0.0, 1.0)  # of the words beside what else is asked
        other = await self._other(request)
        asked: list[Query] = []
        if text and (other is None or weight > 0):
            asked.append((await self._words(text)).weighted(weight if other is not None else 1.0))
        if other is not None and (not text or weight < 1):
            asked.append(other.weighted(1 - weight if text else 1.0))
        if not asked:
            raise HTTPException(400, "text: say what to search for")
        top, wanted = whole_number(request, "top", 48, 1, MOST_HITS), filter_of(request)
        view = await self.views.newest()

        def found() -> dict[str, Any]:
            hits = view.index.search(asked, top=top, filters=wanted)
            # A file may have several of the moments: how many files are shown does not tell whether there are more.
            return {"v": view.version, "results": view.collection.found(hits), "more": len(hits) >= top}

        answer = await run_in_threadpool(found)
        return _json({"milliseconds": round(1000 * (time.perf_counter() - began), 1), **answer})

    async def _words(self, text: str) -> Query:
        if (known := self.sentences.get(text)) is None:
            known = await self._by_model(self.views.now.index.encoder.words, text)
            self.sentences.keep(text, known, 1)
        return known

    async def _by_model(self, function: Callable[..., Query], *arguments: Any) -> Query:
        """The model has a thread of its own, which sentences and uploads wait for."""
        if self.waiting >= _WAITING:
            raise BusyError("too many searches wait; try again in a moment")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.model, function, *arguments)
        finally:
            self.waiting -= 1

    async def _other(self, request: Request) -> Query | None:
        """The upload or the moment that a search names."""
        if token := request.query_params.get("upload"):
            if (known := self.tokens.get(token)) is None:
                raise HTTPException(410, "upload: is not known any more; send it again")
            return known
        if "like" in request.query_params:
            row, index = whole_number(request, "like", 0, 0, 10**12), self._shown(request).index
            if row >= len(index):
                raise HTTPException(404, "like: no such moment")
            return await run_in_threadpool(index.encoder.like, row)
        return None

    async def upload(self, request: Request) -> Response:
        """The body is the file. Answers a token to search by, and what to show of it."""
        name = request.query_params.get("name", "")[-200:]
        kind = kind_of_name(name)
        if kind is None:
            raise HTTPException(415, "name: ends like no video, sound or picture that is known here")
        asked_by = request.query_params.get("by") or ("audio" if kind == "audio" else "video")
        by: Literal["video", "audio"] = "audio" if asked_by == "audio" else "video"
        if by != asked_by or (by, kind) in (("video", "audio"), ("audio", "image")):
            raise HTTPException(400, "by: a video has a picture and sound, other files only one of them")
        at = number(request, "at", 0.0, 0.0, 1e6) if "at" in request.query_params else None
        if self.sending >= _UPLOADS:
            raise BusyError("other uploads are under way; try again in a moment")
        self.sending += 1
        try:
            content = await read_body(request, self.settings.upload_bytes)
            decoded = await self.uploads.ask(Upload(content, name, kind, by, self.views.now.index.input, at=at))
            del content
            encoder = self.views.now.index.encoder
            query = await self._by_model(encoder.of_sound if by == "audio" else encoder.of_frames, decoded.x_V)
        finally:
            self.sending -= 1
        token = secrets.token_urlsafe(12)
        self.tokens.keep(token, query, 1)
        picture = base64.b64encode(decoded.jpeg).decode()
        return _json(
            {
                "token": token,
                "name": printable(name),
                "kind": kind,
                "by": by,
                "peaks": list(decoded.peaks),
                "picture": f"data:image/jpeg;base64,{picture}" if picture else "",
            }
        )

    async def moments(self, request: Request) -> Response:
        view = self._shown(request)
        number = _file(view, request)
        return _json({**view.collection.file(number), "moments": view.collection.moments(number)})

    async def moment(self, request: Request) -> Response:
        return _json(_moment(self._shown(request), request))

    async def mapped(self, request: Request) -> Response:
        view = await self.views.newest()
        spaces = await run_in_threadpool(view.collection.spaces)
        what = request.query_params.get("by") or next(iter(spaces), "")
        if what not in spaces:
            raise HTTPException(404, "by: this index has no vectors of that")
        known = view.maps.get(what)
        if known is None or (known.done() and (known.cancelled() or known.exception() is not None)):
            view.maps[what] = known = asyncio.ensure_future(run_in_threadpool(_map, view, spaces[what]))
        content = await asyncio.shield(known)  # which goes on when one of those who wait has gone
        return Response(content, media_type="application/json", headers={"cache-control": "no-store"})

    # Media

    async def media(self, request: Request) -> Response:
        view = self._shown(request)
        file = view.index.files[_file(view, request)]
        original = await run_in_threadpool(self.originals.open, file)
        return _OriginalResponse(original, media_type=media_type(file), headers=_caching(request))

    async def poster(self, request: Request) -> Response:
        """A picture of the middle of a window."""
        view = self._shown(request)
        moment = _moment(view, request)
        row, file = moment["row"], view.index.files[moment["item"]]
        if file.kind == "audio":
            raise HTTPException(404, "there is no picture of it")
        if (content := view.pictures.get(row)) is None:
            if row not in view.coming:
                made = self._picture(file, (moment["start"] + moment["end"]) / 2)
                view.coming[row] = asyncio.ensure_future(made)
                view.coming[row].add_done_callback(lambda made: _keep(view, row, made))
            content = await asyncio.shield(view.coming[row])
        return Response(content, media_type="image/jpeg", headers=_caching(request))

    async def _picture(self, file: IndexedFile, at: float) -> bytes:
        original = await run_in_threadpool(self.originals.open, file)
        try:
            content: bytes = await self.decoder.ask(Poster(original.path, file.kind, at))
        finally:
            original.close()
        return content

    async def shape(self, request: Request) -> Response:
        """How loud a window is, from its beginning to its end."""
        view = self._shown(request)
        moment = _moment(view, request)
        file = view.index.files[moment["item"]]
        if file.kind == "image":
            raise HTTPException(404, "there is no sound of it")
        original = await run_in_threadpool(self.originals.open, file)
        try:
            peaks = await self.decoder.ask(Shape(original.path, moment["start"], moment["end"]))
        finally:
            original.close()
        return JSONResponse({"peaks": peaks}, headers=_caching(request))

    def _shown(self, request: Request) -> View:
        """To be asked once a request: without ``v`` it is the newest, which may be another one the next time."""
        return self.views.shown(request.query_params.get("v"))


class _OriginalResponse(FileResponse):
    """Sends an open file, or a range of it, and closes it."""

    def __init__(self, original: Original, **options: Any) -> None:
        super().__init__(original.path, stat_result=original.status, **options)
        self.original = original

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.original.close()


def _file(view: View, request: Request) -> int:
    number: int = request.path_params["number"]
    if number >= len(view.index.files):
        raise HTTPException(404, "no such file in this index")
    return number


def _moment(view: View, request: Request) -> dict[str, Any]:
    try:
        return view.collection.moment(request.path_params["number"])
    except IndexError as error:
        raise HTTPException(404, "no such moment in this index") from error


def _caching(request: Request) -> dict[str, str]:
    """Without ``v`` an address means something else when the index has changed."""
    return _FOREVER if "v" in request.query_params else _ASK_AGAIN


def _map(view: View, space: str) -> bytes:
    rows = np.flatnonzero(view.index.has(space))
    shown = rows[spread(len(rows), MOST_POINTS)]
    found = project(view.index.vectors(space, shown))
    points = [
        {**view.collection.moment(row), "x": round(x, 4), "y": round(y, 4), "group": group}
        for row, (x, y), group in zip(shown.tolist(), found.places.tolist(), found.groups.tolist(), strict=True)
    ]
    return _dumped({"points": points, "of": len(rows), "method": found.method})


def _keep(view: View, row: int, made: asyncio.Future[bytes]) -> None:
    del view.coming[row]
    if not made.cancelled() and made.exception() is None:
        view.pictures.keep(row, made.result(), len(made.result()))


def _assets() -> dict[str, tuple[bytes, str]]:
    """Name -> content and type of the files of the page, read once."""
    folder = resources.files("vatt.serve") / "static"
    return {
        file.name: (file.read_bytes(), _ASSETS[file.name.rpartition(".")[2]] + "; charset=utf-8")
        for file in folder.iterdir()
        if file.name.rpartition(".")[2] in _ASSETS
    }


def _dumped(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _json(value: Any) -> Response:
    return Response(_dumped(value), media_type="application/json", headers={"cache-control": "no-store"})


async def _told(request: Request, error: Exception) -> Response:
    status = 503 if isinstance(error, BusyError) else 422 if isinstance(error, DecodeError) else 400
    return JSONResponse({"error": printable(in_short(str(error), 500))}, status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
