"""Opening media that may be anything: which formats are read, for how long, and how large what is read may be.

FFmpeg is given the bytes of one open file and nothing else, no name and no way to open another: a name that looks like
an address or a pattern of pictures (``dog%d.jpg``) is only a name, and a playlist cannot lead elsewhere. All reads pass
`Source`, which ends them when the time is over, wherever in FFmpeg they come from.
"""

from __future__ import annotations

import errno
import io
import logging
import math
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import av
import av.error
from av.container.input import InputContainer
from av.stream import Disposition

from vatt.data.decode.boxes import impossible
from vatt.data.decode.heads import declared_size, is_text, is_whole, lacks_end
from vatt.data.decode.pyav_faults import settle_layout
from vatt.errors import UserError

SECONDS = 30.0  # that opening and reading may take where the caller has no limit of its own
# Pixels of a frame of a film: the most of level 6.2 of H.264 and HEVC, 8192 x 4352. Decoders hold up to 17 such frames.
MOST_PIXELS = 35_651_584
MOST_PICTURE_PIXELS = 1 << 26  # of a picture, 8192 x 8192: half a gigabyte at 16 bits and four channels
MOST_BYTES = 1 << 28  # of a picture file; that FFmpeg may ask for at once, as for one packet; of packets held in memory
LEAST_RATE, MOST_RATE = 100, 6_144_000  # samples a second that are read: from slow sensors to the fastest recorders
MOST_CHANNELS = 512  # as FFmpeg's decoders have it
MOST_SAMPLES = 1 << 27  # of all channels in a window: half a gigabyte
_CHUNK = 1 << 20  # bytes that one read gives at most; FFmpeg asks again
_BUFFER = 1 << 16  # bytes that FFmpeg reads of a file at a time, and of a packed piece, each read of which costs more
_PIECE_BUFFER = 1 << 18
_HEAD = 1 << 16  # bytes at the beginning that are looked at before FFmpeg is asked
# Of a picture that is cut short or damaged, these decoders give a part otherwise, grey or striped below.
_STRICT = {"mjpeg": {"err_detect": "explode"}, "png": {"err_detect": "crccheck+explode"}}
_EXPECTED = (av.error.FFmpegError, OSError, EOFError, ValueError, ArithmeticError, MemoryError)
_LOG = logging.getLogger(__name__)

# What FFmpeg may take a file for: formats that hold the media themselves. Left out are lists of other files, addresses
# and streams (concat, hls, sdp, rtsp, vobsub, image2), devices, scripts, drawings (svg) and subtitles.
FORMATS = (
    # films, with sound or without
    "mov,matroska,webm,avi,mpegts,mpeg,asf,asf_o,flv,live_flv,kux,ogg,mxf,gxf,lxf,nut,nuv,rm,ivr,dv,wtv,ty,pva,"
    "h261,h263,h264,hevc,vvc,evc,obu,ivf,av1,m4v,mpegvideo,cavsvideo,avs2,avs3,dirac,vc1,mjpeg,yuv4mpegpipe,"
    "film_cpk,roq,smk,bink,flic,4xm,dhav,cine,filmstrip,r3d,lmlm4,mtv,vivo,mv,nsv,dnxhd,usm,xmv,amv,"
    # sounds
    "wav,w64,aiff,au,caf,mp3,flac,aac,loas,ac3,eac3,ac4,dts,dtshd,truehd,mlp,amr,amrnb,amrwb,ape,wv,tta,tak,mpc,mpc8,"
    "voc,dsf,iff,gsm,sbc,qcp,shn,spdif,xwma,xa,rso,sox,ircam,nistsphere,oma,qoa,osq,rka,bonk,lc3,iamf,aa,aax,"
    # pictures
    "gif,apng,ico,jpeg_pipe,jpegls_pipe,jpegxl_pipe,jpegxl_anim,jpegxs_pipe,png_pipe,webp_pipe,webp_anim,bmp_pipe,"
    "tiff_pipe,j2k_pipe,qoi_pipe,ppm_pipe,pgm_pipe,pbm_pipe,pam_pipe,pgmyuv_pipe,pfm_pipe,phm_pipe,psd_pipe,exr_pipe,"
    "hdr_pipe,dds_pipe,dpx_pipe,pcx_pipe,sgi_pipe,sunrast_pipe,fits"
)


class MediaError(UserError):
    """A file that gives no clip: which file, which part of it (``field``), and why."""

    def __init__(self, file: Path | str, field: str, reason: str) -> None:
        super().__init__(f"{file}: {field}: {reason}")
        self.file, self.field, self.reason = str(file), field, reason

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str]]:  # so that it comes back from a worker whole
        return MediaError, (self.file, self.field, self.reason)


class Piece(Protocol):
    """A part of a packed clip, a small media file of its own, whose time 0 is ``begins`` in the source.

    Attributes:
        name: shard and member, for messages.
        begins, seconds: where it lies in the source, and how long it is.
    """

    begins: float
    seconds: float

    @property
    def name(self) -> str: ...

    def open(self) -> BinaryIO:
        """Its bytes, seekable. Raises MediaError: they cannot be had."""
        ...

    def expect(self) -> None:
        """It will be opened soon: begins to fetch what is far away, and returns at once."""
        ...


class TimeLimit:
    """Stops a decode that takes too long. It is looked at between packets and at each read of FFmpeg's own.

    Attributes:
        left: bytes that may be read before the next packet has come.
    """

    def __init__(self, file: Path | str, seconds: float) -> None:
        self.file, self.seconds, self.left = file, seconds, math.inf
        self.restart()

    def restart(self) -> None:
        """The seconds count from now on."""
        self.end = time.monotonic() + self.seconds

    def check(self) -> None:
        """Raises MediaError: the time is over."""
        if time.monotonic() > self.end:
            raise MediaError(self.file, "decode", f"took more than {self.seconds:g} s (data.decode_timeout)")


class Source:
    """The bytes of one open file, as FFmpeg reads them.

    Args:
        label: of the file, for messages. (PyAV would take what is called ``name`` for its address.)
        limit: asked at each read, as each window of a file has a limit of its own.
        buffer: bytes that FFmpeg reads at a time.
    """

    def __init__(self, file: BinaryIO, label: Path | str, limit: Callable[[], TimeLimit], buffer: int) -> None:
        self._file, self.label, self.limit, self.buffer = file, label, limit, buffer
        self._refused = False  # once is enough: PyAV raises it when FFmpeg comes back, and FFmpeg is told of an end

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes. Raises MediaError: the time is over, or so much would not fit into memory."""
        if self._refused:
            return b""
        try:
            limit = self.limit()
            limit.check()
            self._check_size(size, limit)
        except MediaError:
            self._refused = True
            raise
        content = self._file.read(min(size, _CHUNK))
        limit.left -= len(content)
        return content

    def _check_size(self, size: int, limit: TimeLimit) -> None:
        if size > MOST_BYTES:
            raise MediaError(self.label, "container", f"has a part of {size:,} bytes, at most {MOST_BYTES:,} are read")
        if limit.left < 0:
            raise MediaError(self.label, "container", f"has nothing to decode in {MOST_BYTES:,} bytes")

    def seek(self, offset: int, whence: int = 0) -> int:
        """As that of a file; FFmpeg is told of a place that does not exist by a negative number, and goes on."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            return -errno.EINVAL

    def tell(self) -> int:
        """As that of a file."""
        return self._file.tell()


@contextmanager
def open_media(
    media: Path | Piece | bytes,
    kind: str,
    broken: str = "container",
    limit: TimeLimit | Callable[[], TimeLimit] | None = None,
    name: str = "",
) -> Iterator[InputContainer]:
    """The open file. Whatever decoding raises inside the block becomes a MediaError.

    Args:
        media: a file, a piece, or the content of one.
        kind: "video", "audio" or "image": the field of the error if there is no such file.
        broken: the field of the error if it cannot be decoded.
        limit: of the time, or what gives the one that holds now; `SECONDS` if there is none.
        name: of ``media`` that are bytes, for messages.

    Raises:
        MediaError: no regular file, none of `FORMATS`, too large, or it cannot be decoded.
    """
    label: Path | str = media if isinstance(media, Path) else name if isinstance(media, bytes) else media.name
    held = TimeLimit(label, SECONDS) if limit is None else limit
    now = held if callable(held) else lambda: held
    with _bytes_of(media, kind) as file:
        try:
            if not isinstance(media, Path):
                now().restart()  # fetching a piece has limits of its own
            container = _open(file, label, kind, broken, now, short=not isinstance(media, Path))
            try:
                yield container
            finally:
                container.close()
        except UserError:
            raise
        except Exception as error:  # no exception of a library in one clip ends the job
            if not isinstance(error, _EXPECTED):
                _LOG.info("%s: %s", label, error, exc_info=True)
            reason = "is truncated" if kind == "image" and lacks_end(file) else reason_of(error)
            raise MediaError(label, broken, f"cannot be decoded: {reason}") from error


def reason_of(error: Exception) -> str:
    """Why a library failed, without the number and the path again."""
    words = getattr(error, "strerror", None) or str(error)
    if isinstance(error, av.error.FFmpegError) and error.errno == errno.EPERM:
        words = "damaged"  # FFmpeg's -1, which looks like a lack of permission
    return words if isinstance(error, _EXPECTED) and words else f"{type(error).__name__} {words}".strip()


def _bytes_of(media: Path | Piece | bytes, kind: str) -> BinaryIO:
    if isinstance(media, bytes):
        return io.BytesIO(media)
    if not isinstance(media, Path):
        try:
            return media.open()
        except OSError as error:
            raise MediaError(media.name, kind, f"cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.stat(media).st_mode):  # opening a device may already do something
            raise MediaError(media, kind, "is not a regular file")
        # A pipe that has come in its place meanwhile would block here for ever.
        number = os.open(media, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise MediaError(media, kind, "is not a regular file")
    except (OSError, ValueError) as error:
        missing = isinstance(error, ValueError) or error.errno in (errno.ENOENT, errno.ENOTDIR)
        reason = "no such file" if missing else f"cannot be read: {os.strerror(getattr(error, 'errno', 0))}"
        raise MediaError(media, kind, reason) from error
    return open(number, "rb", buffering=0)


def _open(
    file: BinaryIO, name: Path | str, kind: str, broken: str, limit: Callable[[], TimeLimit], short: bool
) -> InputContainer:
    """``short``: of a file that is known to be well-formed, little is read to learn what it holds."""
    head = file.read(_HEAD)
    most = MOST_PICTURE_PIXELS if kind == "image" else MOST_PIXELS
    if kind != "audio":
        _check_pixels(name, kind, declared_size(head), most)
    source = Source(file, name, limit, _PIECE_BUFFER if short else _BUFFER)
    if why := "" if short else impossible(source, head, file.seek(0, io.SEEK_END)):
        raise MediaError(name, broken, why)
    if kind == "image":
        _check_whole(file, name, head, broken)
    # The head of .mp4, .mov and a piece says all that is needed; FFmpeg would decode frames to learn more.
    described = kind != "image" and (short or head[4:8] == b"ftyp")
    try:
        decoders = {"max_pixels": str(most)} | ({"skip_frame": "all"} if described else {})
        container = _ask(source, {"probesize": "2048"} if described else {}, decoders)
        try:
            _prepare(container, source, kind, most)
        except BaseException:
            container.close()
            raise
    except (av.error.ArgumentError, av.error.InvalidDataError) as error:  # formats not allowed; damage
        if is_text(head):
            why = "is text, and no container of media (playlists, scripts and subtitles are not opened)"
            raise MediaError(name, broken, f"cannot be decoded: {why}") from error
        raise
    return container


def _ask(source: Source, options: dict[str, str], decoders: dict[str, str]) -> InputContainer:
    """Lets FFmpeg find out what a file is; ``decoders``: options of those that it uses for this."""
    source.seek(0)
    source.limit().left = MOST_BYTES
    allowed: Any = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
    more: Any = {"container_options": allowed | options, "options": decoders, "metadata_errors": "replace"}
    container = av.open(source, "r", buffer_size=source.buffer, **more)
    source.limit().left = math.inf
    return container


def _prepare(container: InputContainer, source: Source, kind: str, most: int) -> None:
    """Sets the limits of the decoders. Raises MediaError: a picture is too large."""
    for stream in container.streams:
        codec: Any = stream.codec_context
        if codec is None:
            continue
        if stream.type in ("video", "audio"):
            codec.thread_count = 1  # the loader has a process for each core, with which threads would compete
        if stream.type == "video":
            codec.options = {"max_pixels": str(most)} | (_STRICT.get(codec.name, {}) if kind == "image" else {})
            if kind != "audio" and not stream.disposition & Disposition.attached_pic:
                size = codec.width, codec.height
                _check_pixels(source.label, kind, size if all(size) else _refused_size(source, stream.index), most)
        elif stream.type == "audio":
            settle_layout(codec)


def _refused_size(source: Source, index: int) -> tuple[int, int] | None:
    """What the header says of a picture that FFmpeg has forgotten, as its decoder refused it: it is asked once more,
    without decoders."""
    at = source.tell()
    try:
        with suppress(av.error.FFmpegError), _ask(source, {"codec_whitelist": "none"}, {}) as container:
            codec: Any = container.streams[index].codec_context
            return codec.width, codec.height
        return None
    finally:
        source.seek(at)  # where the first container reads on


def _check_pixels(name: Path | str, kind: str, size: tuple[int, int] | None, most: int) -> None:
    if size is not None and size[0] * size[1] > most:
        raise MediaError(name, kind, f"its picture has {size[0]} x {size[1]} pixels, at most {most:,} are decoded")


def _check_whole(file: BinaryIO, name: Path | str, head: bytes, broken: str) -> None:
    """Raises MediaError: a picture file that is too large or cut short."""
    size = file.seek(0, io.SEEK_END)
    if size > MOST_BYTES:
        raise MediaError(name, "image", f"has {size:,} bytes, at most {MOST_BYTES:,} are read of a picture")
    if not is_whole(file, head, size):
        raise MediaError(name, broken, "cannot be decoded: is truncated")
