"""The streams of a file: which is its film and which its sound, how long they are, and whether the file was cut off.

A header is believed where it counts what the file holds. One that guesses by bit rate, or was written before the end
was known (pipes, live recordings), is not: the packets are read once, and what they say is kept for this process.

Times are seconds from the start of the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.error
from av.audio.stream import AudioStream
from av.container.input import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from vatt.data.decode.opening import TimeLimit, open_media
from vatt.data.decode.pyav_faults import channels_of, packets_of

_NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_FOR_SOME = Disposition.hearing_impaired | Disposition.visual_impaired | Disposition.comment
# Formats (by FFmpeg's names) that are nothing but frames of one codec: lengths are guessed from the bit rate.
_BARE = {
    *("aac", "ac3", "adx", "amr", "amrnb", "amrwb", "av1", "cavsvideo", "dirac", "dts", "dtshd", "eac3", "evc"),
    *("g722", "g723_1", "g729", "gsm", "h261", "h263", "h264", "hevc", "ipu", "loas", "m4v", "mjpeg", "mlp"),
    *("mpegvideo", "obu", "sbc", "truehd", "vc1", "vvc"),
}
_KEPT = 4096  # files whose ends are kept
_LEAST_BYTES = 100  # of a second; a header that claims more time for a file is not believed, and reading that is quick
_ENDS: dict[tuple[Path, int, int], dict[int, float]] = {}  # by path, size and change
_LATE = 1.0  # seconds: a Matroska file that begins so late may count its length from 0, or from its first frame


def film_of(container: InputContainer) -> VideoStream | None:
    """The stream of pictures that players show: no cover or thumbnails if there is another, the one that is marked as
    default, the largest; the first of equal ones. A stream without a decoder comes last."""
    return max(container.streams.video, key=_picture_rank, default=None)


def sound_of(container: InputContainer) -> AudioStream | None:
    """The stream of sound that players play: the one that is marked as default, no comment and not for those who hear
    or see badly, of the most channels; the first of equal ones. A stream without a decoder comes last."""
    return max(container.streams.audio, key=_sound_rank, default=None)


def _picture_rank(stream: Any) -> tuple[int, ...]:
    codec, marks = stream.codec_context, stream.disposition
    pixels = codec.width * codec.height if codec is not None else 0
    return not marks & _NO_FILM, codec is not None, _marked(marks), pixels


def _sound_rank(stream: Any) -> tuple[int, ...]:
    codec, marks = stream.codec_context, stream.disposition
    return codec is not None, _marked(marks), 0 if codec is None else channels_of(codec.layout)


def _marked(marks: Disposition) -> int:
    return bool(marks & Disposition.default) - bool(marks & _FOR_SOME)


def duration_of(container: InputContainer, path: Path, limit: TimeLimit | None = None) -> float:
    """Seconds of an open file; 0 if not even its packets say.

    Raises:
        MediaError: its packets had to be read, and cannot be.
    """
    if _is_sure(container, path):
        begins = (container.start_time or 0) / av.time_base
        known = [float(s.duration * s.time_base) for s in container.streams if s.duration and s.time_base]
        if container.duration and (begins < _LATE or container.format.name != "matroska,webm"):
            seconds = container.duration / av.time_base
            if 0 < seconds * _LEAST_BYTES <= os.stat(path).st_size:
                return seconds
        if known and not container.duration:
            return max(known)
    return max(_ends(path, limit).values(), default=0.0)


def sound_length(container: InputContainer, path: Path, limit: TimeLimit | None = None) -> tuple[float, bool]:
    """Seconds of sound, and whether that is sure. Beside a picture, sound may end before the file does: its own length
    counts, and where it has none (.webm, .mkv) it is not known."""
    stream = sound_of(container)
    if stream is None:
        return 0.0, False
    whole, film = duration_of(container, path, limit), film_of(container)
    if film is None or film.disposition & _NO_FILM:
        return whole, True
    own = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if own and stream.start_time:
        own += max(0.0, float(stream.start_time * (stream.time_base or 0)) - (container.start_time or 0) / av.time_base)
    return (min(own, whole) if whole else own, True) if own else (whole, False)


def _is_sure(container: InputContainer, path: Path) -> bool:
    """Whether the length that FFmpeg tells was counted by who wrote the file, or read from its last packets."""
    names = container.format.name.split(",")
    if _BARE & set(names):
        return False
    if "mp3" in names:
        return _counts_frames(path)
    if "avi" in names or "wav" in names:
        with path.open("rb") as file:
            return 0 < int.from_bytes(file.read(8)[4:], "little") < 0xFFFFFFFF
    return True


def _counts_frames(path: Path) -> bool:
    """Whether an .mp3 begins with a frame that tells the number of frames."""
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3":
            length = sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
            file.seek(length + (20 if head[5] & 16 else 10))
        else:
            file.seek(0)
        first = file.read(4096)
    for mark in (b"Xing", b"Info"):
        at = first.find(mark)
        if at >= 0 and len(first) > at + 8:
            return bool(first[at + 7] & 1)
    return b"VBRI" in first


def _ends(path: Path, limit: TimeLimit | None) -> dict[int, float]:
    """Where each stream of picture or sound ends, by its number."""
    found = os.stat(path)
    key = path, found.st_size, found.st_mtime_ns
    if key not in _ENDS:
        while len(_ENDS) >= _KEPT:
            del _ENDS[next(iter(_ENDS))]
        with open_media(path, "container", limit=limit) as container:
            _ENDS[key] = _read_ends(container)
    return _ENDS[key]


def _read_ends(container: InputContainer) -> dict[int, float]:
    begins = (container.start_time or 0) / av.time_base
    streams = [s for s in (*container.streams.video, *container.streams.audio) if not s.disposition & _NO_FILM]
    ends = {stream.index: 0.0 for stream in streams}
    for packet in packets_of(container, streams):
        stream: Any = packet.stream
        base, stamp = float(stream.time_base or 0), packet.dts if packet.pts is None else packet.pts
        lasts = (packet.duration or 0) * base
        if stamp is not None:
            ends[stream.index] = max(ends[stream.index], stamp * base - begins + lasts)
        else:  # as in raw H.264: one follows the other
            ends[stream.index] += lasts or frame_seconds(stream)
    return ends


def frame_seconds(stream: Any) -> float:
    """How long a frame of a film is shown, by its header; 0.04 where that does not say."""
    rate = stream.average_rate or stream.guessed_rate if stream.type == "video" else None
    return 1 / float(rate) if rate else 0.04


def is_cut_off(path: Path, names: str) -> bool | None:
    """Whether the end of a file is missing, by its own structure; None where that does not say.

    Args:
        names: of its format, as FFmpeg has them.
    """
    formats = set(names.split(","))
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if "mov" in formats:
            return _boxes_reach_past(file, size)
        if "matroska" in formats:
            return _segment_reaches_past(file, size)
        if formats & {"avi", "wav"}:
            return _chunks_reach_past(file, size)
        if "flv" in formats:
            return _has_part_of_a_tag(file, size)
    return False if formats & {"mpegts", "mpeg", "ogg", *_BARE} else None  # their length is where they end


def _boxes_reach_past(file: BinaryIO, size: int) -> bool:
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: to the end of the file
            return False
        at += length
    return at > size


def _segment_reaches_past(file: BinaryIO, size: int) -> bool:
    file.seek(0)
    head = file.read(4096)
    at = head.find(b"\x18\x53\x80\x67") + 4
    if at < 4 or at >= len(head) or not head[at]:
        return False
    count = 9 - head[at].bit_length()  # of the bytes that the length has
    length = int.from_bytes(head[at : at + count], "big") & ((1 << 7 * count) - 1)
    return length != (1 << 7 * count) - 1 and at + count + length > size  # all ones: it was not known


def _chunks_reach_past(file: BinaryIO, size: int) -> bool:
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or not 0 < length < 0xFFFFFFFF:
            return False
        at += 8 + length
    return at > size + 1  # a byte that makes the length even may be missing


def _has_part_of_a_tag(file: BinaryIO, size: int) -> bool:
    file.seek(max(0, size - 4))
    length = int.from_bytes(file.read(4), "big")
    at = size - 4 - length
    if length < 11 or at < 9:
        return True
    file.seek(at)
    head = file.read(4)
    return head[0] & 31 not in (8, 9, 18) or int.from_bytes(head[1:], "big") + 11 != length
