"""The frames of a window, from packets in the order of the file.

Which frames are shown is known from the times of the packets, before they are decoded. So a decoder may drop others,
and stops after the last one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

import av.error
from av.packet import Packet
from av.video.frame import VideoFrame

from vatt.data.decode.opening import reason_of
from vatt.data.decode.skipping import may_skip, needs_all, tells_order
from vatt.data.decode.streams import frame_seconds
from vatt.data.decode.view import FrameWriter

_NEVER = -math.inf
_HELD = 64 << 20  # bytes of packets that may wait for the first moment of the window
_REORDERED = 16  # frames that a decoder holds at most, to put them in order
_AFTER = 64  # packets after the window that are read where the stream does not tell the time of decoding


class Behind(Exception):
    """Reading began after the first moment of the window, though the file has earlier frames."""


class Pictures:
    """Takes packets of a video stream and gives the frames that are shown at ``moments`` to ``writers``.

    A frame is shown from its time on, until the next one. The first frame of a file is shown before its time, too, and
    the last one for ever. Frames of streams that tell no times (raw H.264, H.264 in MPEG-PS) follow each other at the
    frame rate; where packets tell only times of decoding (.avi), these are those of the frames, in rising order.

    Args:
        moments: seconds from time 0, rising.
        origin: the time stamp of time 0, seconds.
        from_start: the packets begin with the first one of the file.
        cut: nothing is decoded before the last keyframe that lies before the first moment.

    Attributes:
        done: no more packets are needed.
        first: the time at which the stream begins, seconds.
        front: the time of decoding that reading has reached, seconds.
        reached: the end of the latest packet, seconds.
        last: the time of the last frame that was decoded, seconds; -inf before.
        failure: of the last packet that did not decode, for messages.
        step: how long a frame is shown, by the header, seconds.
    """

    def __init__(
        self,
        container: Any,
        stream: Any,
        origin: float,
        moments: Sequence[float],
        writers: Sequence[FrameWriter],
        *,
        from_start: bool,
        cut: bool,
    ) -> None:
        self.codec, self.base = stream.codec_context, float(stream.time_base or 0)
        self.origin, self.moments, self.writers = origin, list(moments), writers
        all_of_it = needs_all(stream)
        self.from_start, self.cut = from_start, cut and not all_of_it
        self.first = (stream.start_time or 0) * self.base - origin
        self._ordered = tells_order(container)
        self.skips = self._ordered and not all_of_it and may_skip(stream)
        self.done, self.failure = False, ""
        self.front = self.reached = self.last = _NEVER
        self._waiting: deque[tuple[Packet, float]] = deque()
        self._latest = [_NEVER] * len(self.moments)  # of each moment: the last packet since the moment before
        self._key: float | None = None  # the time of the keyframe at which decoding begins
        self._decodes = False
        self._held = self._after = 0
        self._filled = 0
        self._shown: VideoFrame | None = None
        self._mode = "DEFAULT"
        self._untimed = False  # a packet came that tells no time
        self._stamps: list[int] = []  # a heap: of packets whose frames have not come
        self.step = frame_seconds(stream)

    def take(self, packet: Packet) -> None:
        """The next packet of the stream. Raises Behind."""
        stamp = packet.dts if packet.pts is None else packet.pts
        time = _NEVER if stamp is None else stamp * self.base - self.origin
        if packet.pts is None:  # which frame it holds is not known before it has been decoded
            self.skips = self._ordered = False
            self._untimed |= packet.dts is None
        if packet.dts is not None:
            self.front = max(self.front, packet.dts * self.base - self.origin)
        self.reached = max(self.reached, time + (packet.duration or 0) * self.base)
        if self.done:
            return
        self._note(packet, time)
        enough = self._held > _HELD or self._after > _AFTER
        enough |= self._untimed and (self.from_start or self._key is not None)
        if not self._decodes and (enough or self.front > self.moments[0]):
            self._begin()
        if self._decodes:
            self._decode_decided()
            if self.front > self.moments[-1] or self._after > _AFTER:
                self._finish()

    def _note(self, packet: Packet, time: float) -> None:
        """Puts a packet behind those that wait, and remembers which moments it is a candidate for."""
        cut = self._key is None or (self.cut and time > _NEVER)
        if not self._decodes and packet.is_keyframe and time <= self.moments[0] and cut:
            self._waiting.clear()
            self._held, self._key = 0, time
        elif self._key is not None and time < self._key and packet.pts is not None:
            return  # leads the keyframe, and is predicted from frames before it
        self._waiting.append((packet, time))
        self._held += packet.size
        self._after += time > self.moments[-1]
        moment = bisect_left(self.moments, time)
        if moment < len(self.moments):
            self._latest[moment] = max(self._latest[moment], time)

    def _begin(self) -> None:
        if self._key is None and not self.from_start:
            raise Behind
        self._decodes = True

    def end(self) -> None:
        """There are no more packets. Raises Behind."""
        if not self.done:
            if not self._decodes:
                self._begin()
            self.front = math.inf
            self._decode_decided()
            self._finish()

    @property
    def missing(self) -> bool:
        """Whether no frame has been decoded."""
        return self._shown is None

    @property
    def promised(self) -> float:
        """The time of the last frame that is shown in the window by the packets, seconds; -inf if there is none."""
        return max(self._latest, default=_NEVER)

    def _decode_decided(self) -> None:
        """Decodes the packets of which it is known whether they are shown, as far as one that is shown needs them."""
        while self._waiting and not self.done:
            packet, time = self._waiting[0]
            shown = not self.skips or self._may_be_shown(time)
            if self.skips and shown and self.front <= self.moments[bisect_left(self.moments, time)]:
                return  # a later packet may hold a frame between it and the moment
            if not shown and not any(self._may_be_shown(later) for _, later in self._waiting):
                return
            self._waiting.popleft()
            self._decode(packet, shown)

    def _may_be_shown(self, time: float) -> bool:
        """Whether no packet so far comes between this time and the next moment."""
        moment = bisect_left(self.moments, time)
        return moment < len(self.moments) and self._latest[moment] <= time

    def _finish(self) -> None:
        """Takes the frames that the decoder still holds, and shows the last one in all moments that remain. What waits
        still is of no use, except for the first frame of all, if that comes after the window."""
        if self.promised == _NEVER and self._waiting:
            self._decode(self._waiting[0][0], True)
        self._waiting.clear()
        if not self.done:
            self._decode(None, True)
        if self._shown is not None and self._filled < len(self.moments):
            self._write(self._shown, len(self.moments))
        self.done = True

    def _decode(self, packet: Packet | None, shown: bool) -> None:
        mode = "DEFAULT" if shown else "NONREF"
        if mode != self._mode:
            self.codec.skip_frame = self._mode = mode
        if packet is not None and not self._ordered:
            stamp = packet.pts if packet.dts is None else packet.dts
            if stamp is not None:
                heappush(self._stamps, stamp)
            if len(self._stamps) > _REORDERED:  # that of a frame which did not come
                heappop(self._stamps)
        try:
            frames = self.codec.decode(packet)
        except av.error.FFmpegError as error:
            self.failure = f" ({reason_of(error)})"
            return  # the times of the other frames tell what the hole means
        for frame in frames:
            time = self._time_of(frame)
            if time is not None and not self.done:
                self._show(frame, time)

    def _time_of(self, frame: VideoFrame) -> float | None:
        """When a frame is shown, seconds; None if that is not known (yet)."""
        if self._untimed and frame.pts is None:
            if self.last > _NEVER:
                return self.last + self.step
            return max(0.0, self.first) if self.from_start else None
        stamp = heappop(self._stamps) if self._stamps and not self._untimed else frame.pts
        return None if stamp is None else stamp * self.base - self.origin

    def _show(self, frame: VideoFrame, time: float) -> None:
        """Writes the frame before this one, which was shown until now."""
        late = time > self.moments[0] and time > self.first + 1e-3
        if self._shown is None and late and not self.from_start:
            raise Behind
        if time < self.last:  # labelled wrongly: it comes in the order of showing
            return
        self.last = time
        if self._untimed:
            self.reached = max(self.reached, time + self.step)
        due = bisect_left(self.moments, time)
        if self._shown is not None and due > self._filled:
            self._write(self._shown, due)
        self._shown = frame
        if self._filled == len(self.moments):
            self.done = True

    def _write(self, frame: VideoFrame, last: int) -> None:
        for writer in self.writers:
            writer.write(frame, self._filled, last)
            if last == len(self.moments):
                writer.finish()
        self._filled = last
