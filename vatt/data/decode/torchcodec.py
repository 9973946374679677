"""Frames through torchcodec, where it is installed: by FFmpeg's libraries of the system, or on a GPU (NVDEC).

It finds the same frames as PyAV and hands them over as RGB, which then go through the same crop, scale and colours;
in 4:2:0 they are converted once more. Sound and lengths are still read by PyAV, and so is a film that torchcodec
cannot read, or of which it gives frames of other times than were asked for, as of MPEG-TS.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from av.video.frame import VideoFrame

from vatt.clip import InputConfig
from vatt.data.decode.container import MAY_END_EARLY, ROUNDING, Opened
from vatt.data.decode.skipping import needs_all
from vatt.data.decode.view import FrameWriter, is_mirrored
from vatt.errors import UserError

DECODERS = ("pyav", "torchcodec", "torchcodec-cuda")
_LOG = logging.getLogger(__name__)
_AT_ONCE = 8  # frames between two looks at the time limit


class DecoderError(UserError):
    """A decoder that cannot run here. The message says why."""


@cache
def check_decoder(name: str, workers: int = 0) -> None:
    """Raises DecoderError: ``name`` is none of `DECODERS`, or cannot run on this machine, or not in ``workers`` reading
    processes."""
    if name not in DECODERS:
        raise DecoderError(f"data.decoder: {name!r} is none of {', '.join(DECODERS)}")
    if name == "pyav":
        return
    try:
        import torchcodec.decoders  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "torchcodec":
            raise DecoderError(f"data.decoder={name}: torchcodec cannot be imported: {error}") from error
        raise DecoderError(f"data.decoder={name}: torchcodec is not installed (pip install torchcodec)") from error
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DecoderError(f"data.decoder={name}: the FFmpeg libraries of torchcodec do not load: {reason}") from error
    import torch  # here, as this file is read by commands that do without

    if name == "torchcodec-cuda" and not torch.cuda.is_available():
        raise DecoderError(f"data.decoder={name}: there is no CUDA device")
    if name == "torchcodec-cuda" and workers:
        raise DecoderError(f"data.decoder={name}: needs data.workers=0, as forked reading processes cannot use CUDA")


def read_frames(name: str, opened: Opened, writers: Sequence[FrameWriter], spec: InputConfig) -> bool:
    """Gives the frames of the window to the writers. False: PyAV must read them; nothing has been written.

    Raises:
        MediaError: the time limit.
        DecoderError: see `check_decoder`.
    """
    check_decoder(name)
    from torchcodec.decoders import VideoDecoder

    if (
        opened.video is None
        or opened.container.format.name == "mpeg"
        or needs_all(opened.video)
        or _is_mirrored(opened)
    ):
        return False  # it turns what is mirrored, loses palettes, and in MPEG-PS leaves out frames without times
    video: Any = opened.video
    if "%" in str(opened.name):  # which its FFmpeg may take for a pattern of names
        return False
    if isinstance(opened.media, Path):
        source: Any = str(opened.media.absolute())
    else:
        with opened.media.open() as file:
            source = file.read()
    device = "cuda" if name == "torchcodec-cuda" else "cpu"
    moments_T = opened.at + opened.origin + (np.arange(spec.frames) + 0.5) / spec.fps + ROUNDING
    try:
        decoder = VideoDecoder(source, stream_index=video.index, device=device, num_ffmpeg_threads=1)
        pictures = list(_pictures(decoder, moments_T, opened))
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        pictures = []
    if len(pictures) < spec.frames:
        _LOG.info("%s: is read by PyAV, as %s does not give its frames", opened.name, name)
        return False
    for number, picture_HW3 in enumerate(pictures):
        frame = VideoFrame.from_ndarray(picture_HW3, format="rgb24")
        for writer in writers:
            writer.write(frame, number, number + 1)
    for writer in writers:
        writer.finish()
    return True


def _is_mirrored(opened: Opened) -> bool:
    """Whether the film of an .mp4 or .mov is shown mirrored."""
    if "mov" not in opened.container.format.name.split(","):
        return False
    frame: Any = next((f for packet in opened.packets(opened.video) for f in packet.decode()), None)
    opened.seek(None, opened.video)
    return frame is not None and is_mirrored(frame)


def _pictures(decoder: Any, moments_T: np.ndarray, opened: Opened) -> Iterator[np.ndarray]:
    """The frames shown at the moments, uint8 (H, W, 3); fewer if the film ends long before the window does, or where a
    frame is later than its moment."""
    begins, ends = decoder.metadata.begin_stream_seconds, decoder.metadata.end_stream_seconds
    if ends + MAY_END_EARLY < moments_T[-1] and ends - opened.origin + MAY_END_EARLY < opened.duration:
        return  # PyAV finds out whether the file is damaged
    inside = moments_T[moments_T < ends]
    for first in range(0, len(inside), _AT_ONCE):
        opened.limit.check()
        asked = np.maximum(inside[first : first + _AT_ONCE], begins)
        batch = decoder.get_frames_played_at(asked.tolist())
        if (batch.pts_seconds.numpy() > asked + 1e-6).any():
            return
        yield from batch.data.permute(0, 2, 3, 1).cpu().contiguous().numpy()
    if len(inside) < len(moments_T):
        last = decoder[-1].permute(1, 2, 0).cpu().contiguous().numpy()
        yield from [last] * (len(moments_T) - len(inside))
