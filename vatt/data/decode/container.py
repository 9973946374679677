"""An open media file: what is wrong with it, how long it is, and its decoded frames from some time on.

Times are seconds from the start of the file, or of the source of a packed clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import av
import av.error
from av.audio.stream import AudioStream
from av.container.input import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vatt.data.decode.opening import MOST_BYTES, MediaError, Piece, TimeLimit, open_media
from vatt.data.decode.pyav_faults import packets_of
from vatt.data.decode.streams import duration_of, film_of, is_cut_off, sound_of

SHORTEST = 0.5  # seconds; a file that is shorter than the window but not than this is padded at its end
ROUNDING = 0.0005  # seconds: a frame whose rounded stamp is so little after a moment is shown at it (.mkv: whole ms)
MAY_END_EARLY = 0.5  # seconds by which streams fall short of the duration in the header of sound files

ChooseStart = Callable[[float], float]  # duration of the file -> start of the window, both in seconds


@dataclass(frozen=True)
class Packing:
    """What media were packed for: ``name`` of the data set, pixels of the shorter side, frames a second, and seconds of
    the longest window."""

    name: str
    size: int
    fps: float
    window: float


class Packed(Protocol):
    """Where the media of a clip are that `vatt data pack` has transcoded, see `vatt.data.shards`."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def duration(self) -> float:
        """Of the whole source, seconds; 0 if it was not known."""
        ...

    @property
    def sound(self) -> float | None:
        """Seconds of its sound; None if it has none, 0 if that was not known."""
        ...

    @property
    def packing(self) -> Packing: ...

    @property
    def digest(self) -> str:
        """Of the content of all pieces."""
        ...

    def piece(self, start: float, seconds: float) -> Piece:
        """The piece that holds the window of ``seconds`` from ``start`` on, in seconds of the source. Raises
        MediaError: none does."""
        ...


Length = Callable[[InputContainer, Path, TimeLimit | None], float]  # of an open file, seconds
Media = Path | Packed  # what the functions of this folder decode: a file, or a packed clip
BACK = (
    0.0,
    2.0,
    10.0,
    None,
)  # seconds further back, where a file leads behind the wanted time; None: to its first byte
_BY_BYTES = {"wav", "w64", "aiff", "au", "voc", "ircam", "sox", "nistsphere"}
_BEGINNING = 0.2  # seconds: windows that begin before it need all that comes before them


class Opened:
    """An open file or piece, and one window that is wanted of it.

    Attributes:
        name: of the file or piece, for messages.
        start: of the window in the source, seconds.
        at: of the window in ``container``, from its time 0 on, seconds.
        origin: the time stamp of that time 0, seconds: that of the first frame of a file; a piece counts from 0.
        duration: of ``container``, seconds; 0 if it is not known.
    """

    def __init__(self, media: Path | Piece, kind: str, stack: ExitStack, timeout: float) -> None:
        self.media, self.kind = media, kind
        self.name = media if isinstance(media, Path) else media.name
        self.start = self.at = self.duration = 0.0
        self.limit = TimeLimit(self.name, timeout)
        self._open()
        stack.push(self._close)

    def _open(self) -> None:
        self._context = open_media(self.media, self.kind, limit=lambda: self.limit)
        self.container = self._context.__enter__()
        self._untouched, self._sought = True, False
        self.origin = (self.container.start_time or 0) / av.time_base if isinstance(self.media, Path) else 0.0

    def _close(self, *error: Any) -> bool | None:
        return self._context.__exit__(*error)

    @property
    def video(self) -> VideoStream | None:
        """The film, see `film_of`."""
        return film_of(self.container)

    @property
    def audio(self) -> AudioStream | None:
        """The sound, see `sound_of`."""
        return sound_of(self.container)

    @property
    def is_cut_off(self) -> bool | None:
        """See `vatt.data.decode.streams.is_cut_off`; None of a piece."""
        return is_cut_off(self.media, self.container.format.name) if isinstance(self.media, Path) else None

    def seek(self, time: float | None, stream: Any) -> bool:
        """Goes to the last keyframe of a stream at or before ``time`` (seconds from time 0), as far as the file can
        tell; None: to its first byte, whatever its index says. True: surely there.

        It may open the file again: get the streams afterwards.
        """
        if self._untouched and (time is None or time <= 0):
            return True
        # For a window at the beginning, seeking to 0 would lose packets in front of it that decoders of sound need.
        if time is not None and (time > 0 or self.at > _BEGINNING) and stream.time_base and self._finds_times(stream):
            with suppress(av.error.FFmpegError):  # such a file cannot seek
                self.container.seek(
                    int((max(0.0, time) + self.origin) / stream.time_base), stream=stream, backward=True
                )
                self._sought = True
                return False
        self._close(None, None, None)
        self._open()
        return True

    def _finds_times(self, stream: Any) -> bool:
        """Whether a seek can be believed. FFmpeg counts bytes in .wav and its like, wrongly where it is no PCM."""
        counts = bool(_BY_BYTES & set(self.container.format.name.split(",")))
        return not counts or (stream.codec_context is not None and stream.codec_context.name.startswith("pcm_"))

    def packets(self, *streams: Any) -> Iterator[Packet]:
        """The packets of streams in the order of the file, to its end. Raises MediaError: the time is over."""
        self._untouched = False
        # After a seek in MPEG-PS, FFmpeg gives the first stamp to what it finds of the frame before.
        doubtful = self._sought and self.container.format.name == "mpeg"
        unsure = {stream.index: 2 for stream in streams} if doubtful else {}
        alone = len(self.container.streams) == 1  # then each packet is one that is asked for
        for number, packet in enumerate(packets_of(self.container, streams)):
            if not number & 7:  # thousands of clips read some hundred packets each
                self.limit.check()
            if alone:
                self.limit.left = MOST_BYTES
            if unsure and unsure[packet.stream_index]:
                unsure[packet.stream_index] -= packet.pos is not None  # where a stamp stands
                if unsure[packet.stream_index]:
                    continue
            yield packet


@contextmanager
def open_windows(
    media: Media,
    choose_starts: Sequence[ChooseStart],
    seconds: float,
    timeout: float,
    kind: str,
    length: Length | None = None,
) -> Iterator[Iterator[tuple[int, Opened]]]:
    """Opens a file, or those pieces of a packed clip which hold the windows of ``seconds`` that are picked.

    Each of ``choose_starts`` is told the duration of the whole source, or of its sound if ``kind`` is "audio";
    ``length`` measures that of a file, `duration_of` if it is not given. The block gets the windows one by one, with
    their numbers, in an order in which each piece is opened once; each has ``timeout`` seconds.

    Raises:
        MediaError: as `open_media`; a file that is known to be too short; what a packed clip raises.
    """
    with ExitStack() as stack:
        if isinstance(media, Path):
            yield _of_file(media, choose_starts, timeout, kind, length or duration_of, stack)
        else:
            yield _of_packed(media, choose_starts, seconds, timeout, kind, stack)


def _of_file(
    path: Path,
    choose_starts: Sequence[ChooseStart],
    timeout: float,
    kind: str,
    length: Length,
    stack: ExitStack,
) -> Iterator[tuple[int, Opened]]:
    opened = Opened(path, kind, stack, timeout)
    opened.duration = length(opened.container, path, opened.limit)
    check_duration(path, opened.duration)
    for number, choose_start in enumerate(choose_starts):
        if number:
            opened.limit = TimeLimit(path, timeout)
        opened.start = opened.at = max(0.0, choose_start(opened.duration))
        yield number, opened


def _of_packed(
    packed: Packed, choose_starts: Sequence[ChooseStart], seconds: float, timeout: float, kind: str, stack: ExitStack
) -> Iterator[tuple[int, Opened]]:
    duration = (packed.sound or packed.duration) if kind == "audio" else packed.duration
    starts = [max(0.0, choose_start(duration)) for choose_start in choose_starts]
    opened: Opened | None = None
    for number in sorted(range(len(starts)), key=starts.__getitem__):
        piece = packed.piece(starts[number], seconds)
        if opened is None or opened.name != piece.name:
            stack.pop_all().close()
            opened = Opened(piece, kind, stack, timeout)
            opened.duration = piece.seconds
        opened.limit = TimeLimit(piece.name, timeout)
        opened.start, opened.at = starts[number], starts[number] - piece.begins
        yield number, opened


def check_duration(path: Path | str, duration: float) -> None:
    """Raises MediaError for a file that is known to be too short to use."""
    if 0 < duration < SHORTEST:
        raise MediaError(path, "duration", f"{duration:.2f} s, at least {SHORTEST} s are needed")


def breaks_off(opened: Opened, last: float) -> str:
    """In words: the stream ends at ``last`` (seconds from time 0), long before the header says."""
    return f"breaks off at {last:.2f} s, though the file should last {opened.duration:.2f} s"
