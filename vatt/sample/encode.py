"""Writes frames and sound as .mp4: H.264 and AAC, through PyAV. The same input gives the same bytes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.codec.codec
import numpy as np

from vatt.errors import UserError

ENCODERS = ("libx264", "libopenh264")
X264 = "mbtree=0"  # the macroblock tree's assembly gives other bytes from run to run for the same frames


class EncoderError(UserError, RuntimeError):
    """This FFmpeg build cannot write H.264."""


def h264_encoder() -> str:
    """The first software H.264 encoder that the installed FFmpeg has.

    Raises:
        EncoderError: there is none.
    """
    for name in ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except av.codec.codec.UnknownCodecError:
            continue
        return name
    raise EncoderError(f"the FFmpeg of PyAV {av.__version__} has no H.264 encoder; tried {', '.join(ENCODERS)}")


def write_mp4(
    path: Path,
    frames_THW3: np.ndarray,
    fps: int,
    sound_L: np.ndarray | None,
    rate: int,
    gop: int,
    x264: str = X264,
    crf: int = 22,
    bit_rate: int = 96_000,
) -> None:
    """Writes one file: uint8 frames, mono float sound in [-1, 1] (or none), a keyframe every ``gop`` frames.

    Args:
        x264, crf: parameters and quality of that encoder; a higher ``crf`` makes smaller files.
        bit_rate: of the sound, bits a second.

    Raises:
        OSError: the file cannot be written. EncoderError: no H.264 encoder.
    """
    with av.open(str(path), "w", format="mp4") as container:
        video = cast(av.VideoStream, container.add_stream(h264_encoder(), rate=fps))
        video.height, video.width = frames_THW3.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.gop_size = gop
        video.thread_count = 1  # more threads would make the bytes depend on the machine
        if video.codec.name == "libx264":
            video.options = {"preset": "veryfast", "crf": str(crf), "x264-params": x264}
        audio = None
        if sound_L is not None:
            audio = cast(av.AudioStream, container.add_stream("aac", rate=rate, layout="mono"))
            audio.bit_rate = bit_rate
            audio.options = {"aac_coder": "fast"}  # the default coder takes three quarters of the build
        for number, picture in enumerate(frames_THW3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and sound_L is not None:
            block = np.ascontiguousarray(sound_L[None], dtype=np.float32)
            sound = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = rate, 0, Fraction(1, rate)
            container.mux(audio.encode(sound))  # PyAV cuts it into frames of the encoder's size
            container.mux(audio.encode(None))
