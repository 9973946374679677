"""The frames of a window, from packets in the order of the file.

Which frames are shown is known from the times of the packets, before they are decoded. So a decoder may drop others,
and stops after the last one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import Any

import av.error
from av.packet import Packet
from av.video.frame import VideoFrame

from vatt.data.decode.opening import reason_of
from vatt.data.decode.skipping import may_skip
from vatt.data.decode.view import FrameWriter

_NEVER = -math.inf
_HELD = 64 << 20  # bytes of packets that may wait for the first moment of the window
_AFTER = 64  # packets after the window that are read where the stream does not tell the time of decoding


class Behind(Exception):
    """Reading began after the first moment of the window, though the file has earlier frames."""


class Pictures:
    """Takes packets of a video stream and gives the frames that are shown at ``moments`` to ``writers``.

    A frame is shown from its time on, until the next one. The first frame of a file is shown before its time, too, and
    the last one for ever.

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
        self.from_start, self.cut = from_start, cut
        self.first = (stream.start_time or 0) * self.base - origin
        self.skips = may_skip(container, stream)
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

    def take(self, packet: Packet) -> None:
        """The next packet of the stream. Raises Behind."""
        stamp = packet.dts if packet.pts is None else packet.pts
        time = _NEVER if stamp is None else stamp * self.base - self.origin
        if packet.pts is None:  # which frame it holds is not known before it has been decoded
            self.skips = False
        if packet.dts is not None:
            self.front = max(self.front, packet.dts * self.base - self.origin)
        self.reached = max(self.reached, time + (packet.duration or 0) * self.base)
        if self.done:
            return
        self._note(packet, time)
        if not self._decodes and (self.front > self.moments[0] or self._held > _HELD or self._after > _AFTER):
            self._begin()
        if self._decodes:
            self._decode_decided()
            if self.front > self.moments[-1] or self._after > _AFTER:
                self._finish()

    def _note(self, packet: Packet, time: float) -> None:
        """Puts a packet behind those that wait, and remembers which moments it is a candidate for."""
        if not self._decodes and packet.is_keyframe and time <= self.moments[0] and (self.cut or self._key is None):
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
        try:
            frames = self.codec.decode(packet)
        except av.error.FFmpegError as error:
            self.failure = f" ({reason_of(error)})"
            return  # the times of the other frames tell what the hole means
        for frame in frames:
            if frame.pts is not None and not self.done:
                self._show(frame, frame.pts * self.base - self.origin)

    def _show(self, frame: VideoFrame, time: float) -> None:
        """Writes the frame before this one, which was shown until now."""
        late = time > self.moments[0] and time > self.first + 1e-3
        if self._shown is None and late and not self.from_start:
            raise Behind
        if time < self.last:  # labelled wrongly: it comes in the order of showing
            return
        self.last = time
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
