"""Ways around faults of PyAV 17.1 to 18.1, which can go when a later version has mended them. Each says which.

``pyproject.toml`` bounds the version: earlier ones read sound of .mkv late, and damage memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any, cast

from av.audio.codeccontext import AudioCodecContext
from av.audio.layout import AudioLayout
from av.container.input import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type

# They refuse all side data of a frame that has any without a name there, such as the EXIF data that their FFmpeg gives
# with each photograph: what has no name gets one that nothing here asks for.
cast(Any, Type)._missing_ = classmethod(lambda cls, value: cls.SEI_UNREGISTERED)


def settle_layout(codec: AudioCodecContext) -> None:
    """Makes the channels of an unusual layout nameless, of which only the number matters here, also for the frames."""
    layout = codec.layout
    count = channels_of(layout)
    if _is_unusual(layout):
        cast(Any, codec).layout = f"{count}C"


def channels_of(layout: AudioLayout) -> int:
    """Number of channels. To be asked at once of each layout of a stream or a frame, before it is let go.

    A layout of its own order is a table in memory, which PyAV frees twice, and so ends the process: once with
    the object that stands for it, and once with the stream or the frame. Such an object is never freed.
    """
    if _is_unusual(layout):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    return layout.nb_channels


def _is_unusual(layout: AudioLayout) -> bool:
    return layout.name.endswith(")") or layout.name.startswith("ambisonic")  # "3 channels (FR+FL+LFE)"


def packets_of(container: InputContainer, streams: Sequence[Any]) -> Iterator[Packet]:
    """The packets of streams in the order of the file, from where it is to its end."""
    count, before = 0, -1
    while count > before:
        before = count
        try:
            for packet in container.demux(*streams):
                if packet.size:  # an empty one marks the end
                    count += 1
                    yield packet
            return
        except IndexError:  # of a file in which another stream begins meanwhile
            continue
