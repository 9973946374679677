"""Sound: a window of it from a sound file or a video, as mono at one rate.

Channels are averaged, so that a sound that is the same on two channels keeps its level; the subwoofer of 5.1 counts as
one of six. Shapes: L samples. Times are seconds from the start of the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container.input import InputContainer
from av.packet import Packet

from vatt.clip import SILENCE, InputConfig
from vatt.data.decode.container import (
    BACK,
    MAY_END_EARLY,
    ChooseStart,
    Media,
    MediaError,
    Opened,
    TimeLimit,
    breaks_off,
    open_windows,
)
from vatt.data.decode.opening import (
    LEAST_RATE,
    MOST_BYTES,
    MOST_CHANNELS,
    MOST_RATE,
    MOST_SAMPLES,
    open_media,
    reason_of,
)
from vatt.data.decode.pyav_faults import channels_of, packets_of
from vatt.data.decode.streams import sound_length, sound_of

PREROLL = 0.2  # seconds of sound before the window that decoders begin with: MP3 and Opus need some frames
_TAIL = 0.05  # seconds after it, for the filter of resampling
_GAP = 0.03  # seconds between two frames from which on it is a gap
NO_NUMBERS = "holds values that are not numbers (NaN or infinite)"
_FLOATS = {"pcm_f32le": "<f4", "pcm_f32be": ">f4", "pcm_f64le": "<f8", "pcm_f64be": ">f8"}
# Sample formats of FFmpeg, packed or planar: the type, the value of silence, and that of full scale.
_FORMATS: dict[str, tuple[Any, int, float]] = {
    "u8": (np.uint8, 128, 128.0),
    "s16": (np.int16, 0, 2.0**15),
    "s32": (np.int32, 0, 2.0**31),
    "s64": (np.int64, 0, 2.0**63),
    "flt": (np.float32, 0, 1.0),
    "dbl": (np.float64, 0, 1.0),
}


def decode_sound(
    media: Media,
    choose_start: ChooseStart,
    spec: InputConfig,
    timeout: float = 30.0,
    out_L: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Sound of the window that ``choose_start`` picks, of a sound file or a video: mono float32 (L,), and its start.

    Past the end of the sound there is silence. It is written to ``out_L`` where that is given.

    Raises:
        MediaError: no regular file, not a media file, no sound, none that can be decoded, the stream ends long before
            the header says, or the time limit.
    """
    out_L = np.empty(spec.samples, np.float32) if out_L is None else out_L
    (start,) = decode_sounds(media, [choose_start], [out_L], spec, timeout)
    return out_L, start


def decode_sounds(
    media: Media,
    choose_starts: Sequence[ChooseStart],
    outs: Sequence[np.ndarray],
    spec: InputConfig,
    timeout: float = 30.0,
    *,
    once: bool = False,
) -> list[float]:
    """The sounds of several windows of one clip, written to ``outs``; see `decode_sound`. Returns where they begin.

    With ``once``, of windows that begin at one time only the first is written.
    """
    if not isinstance(media, Path) and media.sound is None:
        raise MediaError(media.name, "audio", "the file has no sound")
    starts = [0.0] * len(outs)
    read: set[float] = set()
    with open_windows(media, choose_starts, spec.seconds, timeout, "audio", _length) as windows:
        for number, opened in windows:
            starts[number] = opened.start
            if once and opened.start in read:
                continue
            read.add(opened.start)
            if opened.audio is None:
                raise MediaError(opened.name, "audio", "the file has no sound")
            if isinstance(media, Path):
                duration, sure = opened.duration, sound_length(opened.container, media)[1]
            else:  # the sound of a piece ends with the piece, or before it where that of the source does
                sure = bool(media.sound)
                duration = min(opened.duration, (media.sound or media.duration) - (opened.start - opened.at))
            sound = Sound(opened, spec)
            sound.read()
            last = sound.write(outs[number])
            if why := sound.lost or sound.fault(last, duration if sure else 0.0):
                raise MediaError(opened.name, "audio", why)
    return starts


def check_numbers(path: Path, timeout: float = 30.0) -> None:
    """Looks through all sound of a file that is stored as floating-point numbers; of other codecs none is.

    Raises:
        MediaError: it holds values that are not numbers, with the time of the first; the time limit.
    """
    with open_media(path, "audio", limit=TimeLimit(path, timeout)) as container:
        stream: Any = sound_of(container)
        codec = stream.codec_context if stream is not None else None
        kind = _FLOATS.get(codec.name) if codec is not None else None
        if kind is None:
            return
        for packet in packets_of(container, [stream]):
            values = np.frombuffer(bytes(packet), kind, packet.size // np.dtype(kind).itemsize)
            if not np.isfinite(values).all():
                at = float((packet.pts or 0) * stream.time_base) - (container.start_time or 0) / av.time_base
                raise MediaError(path, "audio", f"{NO_NUMBERS}, from {max(0.0, at):.2f} s on")


def is_silent(audio_L: np.ndarray) -> bool:
    """Whether a window nowhere exceeds `vatt.clip.SILENCE`: such a window has no sound, whatever its file says."""
    return max(float(audio_L.max(initial=0.0)), -float(audio_L.min(initial=0.0))) <= SILENCE


def sound_digest(audio_L: np.ndarray) -> bytes:
    """16 bytes that are the same for windows (or several, stacked) of equal samples, as copies of a file give them."""
    return hashlib.blake2b(np.ascontiguousarray(audio_L).view(np.uint8).data, digest_size=16).digest()


def _length(container: InputContainer, path: Path, limit: TimeLimit | None) -> float:
    return sound_length(container, path, limit)[0]


class Sound:
    """The sound of one window: its packets, however they come, then its samples.

    Attributes:
        done: no more packets are needed.
        lost: after `write`: why most of the sound is not there, though the file has it; a film is used without it.
    """

    stream: Any  # of PyAV, whose stubs do not tell the kinds apart

    def __init__(self, opened: Opened, spec: InputConfig) -> None:
        self.opened, self.spec = opened, spec
        self.end = opened.at + spec.seconds + _TAIL
        self.begin(False)

    def begin(self, from_start: bool) -> None:
        """Packets come from here on; ``from_start``: with the first one of the file."""
        self.stream = self.opened.audio  # of the container, which may have been opened again
        self.base = float(self.stream.time_base or 0)
        self.from_start, self.done, self.lost = from_start, False, ""
        self._packets: list[Packet] = []
        self._bytes = 0
        self._promised = 0.0  # where the packets end
        self._first: float | None = None  # the time of the first packet that came
        self._next = 0  # the stamp of the next packet, if it does not say
        ticks = 1 / self.base if self.base else 0.0
        self._from = (self.opened.at - PREROLL + self.opened.origin) * ticks  # stamps of what is kept
        self._until = (self.end + self.opened.origin) * ticks

    def take(self, packet: Packet) -> None:
        """The next packet of the stream."""
        stamp = packet.pts
        if stamp is None:
            stamp = self._next if packet.dts is None else packet.dts
        if self._first is None:
            self._first = stamp * self.base - self.opened.origin
        duration = packet.duration or 0
        self._next = stamp + duration
        if stamp > self._until:
            self.done = True
        elif self._next >= self._from or not duration:
            self._packets.append(packet)
            self._bytes += packet.size
            if self._bytes > MOST_BYTES:
                raise MediaError(self.opened.name, "audio", f"has more than {MOST_BYTES:,} bytes of sound in a window")
            self._promised = min(self._next * self.base - self.opened.origin, self.end)

    def is_complete(self, ended: bool) -> bool:
        """Whether all packets of the window have come; ``ended``: there are no more."""
        if self.from_start:
            return self.done or ended
        if self._first is None or not (self.done or ended):
            return False
        begins = self.stream.start_time
        return self._first <= self.opened.at or (
            begins is not None and self._first <= begins * self.base - self.opened.origin + 1e-3
        )

    def read(self) -> None:
        """Reads the packets from the file itself, without any others."""
        for back in BACK:
            from_start = self.opened.seek(None if back is None else self.opened.at - PREROLL - back, self.stream)
            self.begin(from_start)
            for packet in self.opened.packets(self.stream):
                self.take(packet)
                if self.done:
                    break
            if self.is_complete(ended=True) or (self._first is None and back):
                return

    def fault(self, last: float, duration: float) -> str | None:
        """What is wrong with the sound of a file, after `write`; None if nothing is.

        Args:
            last: what `write` returned.
            duration: of the sound, seconds; 0 if it is not known.
        """
        if last == 0 and (self._packets or self._first is None):
            return "no sound could be decoded" if self._packets or self.opened.at == 0 or duration else None
        needed = min(duration or last, self.opened.at + self.spec.seconds)
        if last + MAY_END_EARLY >= needed:
            return None
        if last + MAY_END_EARLY < self._promised or (not self.done and self.opened.is_cut_off is not False):
            return breaks_off(self.opened, last)
        return None

    def write(self, out_L: np.ndarray) -> float:
        """Decodes the packets into ``out_L``, silence where there is no sound. The time at which the last frame ends,
        seconds; 0 if there was none.

        Each unbroken run of samples is put where its time says.

        Raises:
            MediaError: it holds values that are not numbers; the time limit.
        """
        out_L[:] = 0
        ends = 0.0
        for run in self._runs():
            ends = run.ends
            samples = _resampled(run.mono(), run.rate, self.spec.sample_rate)
            at = round((run.begins - self.opened.at) * self.spec.sample_rate)
            first, last = max(0, at), min(len(out_L), at + len(samples))
            if first < last:
                out_L[first:last] = samples[first - at : last - at]
        if not np.isfinite(out_L).all():
            raise MediaError(self.opened.name, "audio", NO_NUMBERS)
        np.clip(out_L, -1, 1, out=out_L)
        return ends

    def _runs(self) -> list[_Run]:
        """The decoded frames, joined where one follows another.

        A packet that does not decode is skipped: the times of the frames tell what the holes mean.
        """
        runs: list[_Run] = []
        last: _Run | None = None
        base, origin, codec = self.base, self.opened.origin, self.stream.codec_context
        if codec is None:
            raise MediaError(self.opened.name, "audio", "this FFmpeg has no decoder for it")
        failed, why, hole, size = 0, "", False, 0
        for number, packet in enumerate([*self._packets, None]):
            if not number & 7:
                self.opened.limit.check()
            try:
                frames = codec.decode(packet)
            except av.error.FFmpegError as error:  # also one that says "Operation not permitted" of flipped bits
                failed, why, hole = failed + (packet is not None), reason_of(error), True
                continue
            for frame in frames:
                rate, samples, stamp = frame.sample_rate, frame.samples, frame.pts
                if not rate or not samples or (stamp is None and last is None):
                    continue
                kind = frame.format.name, channels_of(frame.layout)
                size += samples * kind[1]
                if not LEAST_RATE <= rate <= MOST_RATE or kind[1] > MOST_CHANNELS or size > MOST_SAMPLES:
                    words = f"{rate:,} samples a second of {kind[1]} channels"
                    self.lost = f"has {words}, {size:,} samples in a window, which are not read"
                    return []
                begins = last.ends if stamp is None and last is not None else stamp * base - origin
                follows = last is not None and -_GAP < begins - last.ends < _GAP and not hole
                if last is None or not follows or rate != last.rate or kind != last.kind:
                    last, hole = _Run(begins, begins, rate, kind), False
                    runs.append(last)
                last.add(frame, samples)
                last.ends = begins + samples / rate
        if 2 * failed > len(self._packets):
            self.lost = f"{failed} of {len(self._packets)} packets of a window do not decode ({why})"
            return []
        return runs


class _Run:
    """Frames that follow each other, of one rate, format and number of channels."""

    def __init__(self, begins: float, ends: float, rate: int, kind: tuple[str, int]) -> None:
        self.begins, self.ends, self.rate, self.kind = begins, ends, rate, kind
        form, self.channels = kind
        self.planar = form.endswith("p")
        self.dtype, self.silence, self.full = _FORMATS[form.removesuffix("p")]
        self.parts: list[list[np.ndarray]] = [[] for _ in range(self.channels if self.planar else 1)]

    def add(self, frame: Any, samples: int) -> None:
        """Copies what it holds, so that the decoder can use its memory again."""
        if not self.planar:
            samples *= self.channels
        for parts, plane in zip(self.parts, frame.planes, strict=True):
            parts.append(np.frombuffer(plane, self.dtype, samples).copy())

    def mono(self) -> np.ndarray:
        """The mean of the channels, float32."""
        planes = [np.concatenate(parts) for parts in self.parts]
        exact = np.float64 if self.dtype in (np.int32, np.int64, np.float64) else np.float32
        first = planes[0] if self.planar else planes[0][:: self.channels]
        total: Any = first.astype(exact, copy=False)
        for number in range(1, self.channels):
            other = planes[number] if self.planar else planes[0][number :: self.channels]
            total = total + other.astype(exact, copy=False)
        if self.silence:
            total = total - self.silence * self.channels
        if self.channels * self.full != 1:
            total = total * exact(1 / (self.channels * self.full))
        with np.errstate(over="ignore"):  # which is looked for afterwards
            return total.astype(np.float32, copy=False)


def _resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """At the rate that is wanted; the first sample stays the first."""
    if rate == wanted:
        return samples
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = AudioResampler(format="fltp", layout="mono", rate=wanted)
    parts: list[Any] = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([np.frombuffer(part.planes[0], np.float32, part.samples) for part in parts])
