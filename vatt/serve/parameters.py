"""What a request of the page may say, and the limits of it: the body of an upload, and parameters by name."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request

from vatt.files import kind_of
from vatt.search import Filter

UPLOAD_SECONDS = 120.0  # that sending an upload may take


async def read_body(request: Request, most: int) -> bytes:
    """The whole body. Raises HTTPException: it is too large, empty or too slow."""
    too_large = HTTPException(413, f"the file is larger than {most >> 20} MiB, which is the most that is taken here")
    with_length = request.headers.get("content-length", "")
    if with_length.isdecimal() and int(with_length) > most:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
    except TimeoutError as error:
        raise HTTPException(408, "the upload took too long") from error
    if not size:
        raise HTTPException(400, "the file is empty")
    return b"".join(parts)


def kind_of_name(name: str) -> str | None:
    """By the ending of a name, of which nothing else is used."""
    return kind_of(Path("upload." + name.rpartition(".")[2][:8].replace("/", "").replace("\0", "")))


def filter_of(request: Request) -> Filter:
    """Which files are searched: kind, folder, and how long they may be."""
    kind = request.query_params.get("kind", "")
    if kind not in ("", "video", "audio", "image"):
        raise HTTPException(400, "kind: video, audio or image")
    return Filter(
        folder=request.query_params.get("folder", "")[:4096],
        kinds=(kind,) if kind else (),
        min_seconds=number(request, "shortest", 0.0, 0.0, math.inf),
        max_seconds=number(request, "longest", math.inf, 0.0, math.inf),
    )


def whole_number(request: Request, name: str, otherwise: int, least: int, most: int) -> int:
    """A parameter from ``least`` to ``most``. Raises HTTPException."""
    text = request.query_params.get(name)
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdecimal() and len(text) <= 15 and least <= int(text) <= most):
        raise HTTPException(400, f"{name}: a whole number from {least} to {most}")
    return int(text)


def number(request: Request, name: str, otherwise: float, least: float, most: float) -> float:
    """As `whole_number`, of any number."""
    text = request.query_params.get(name)
    if text is None:
        return otherwise
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise HTTPException(400, f"{name}: a number from {least:g} to {most:g}")
    return value
