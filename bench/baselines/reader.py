"""The reader of commit 2752fc6, of which the targets in `bench.jobs.decoding` are multiples: its path from file to
sample as plain PyAV code, with its defaults and without its messages, so that ratios keep their meaning.

Compared once with that commit, 12 windows of 640x360 in turns of two processes: the same samples bit for bit, and 0.99
of its CPU time (20th to 80th percentile of 11 rounds 0.98 to 1.00; about 99 ms a window; Intel Xeon, PyAV 18.1.0).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.filter import Graph
from torch import Tensor, from_numpy, tensor

from vatt.clip import InputConfig
from vatt.data.captions import Caption, choose_candidates
from vatt.data.tokenizer import Tokenizer


def read(
    path: Path, start: float, captions: tuple[Caption, ...], tokenizer: Tokenizer, spec: InputConfig, seed: int
) -> dict[str, Tensor]:
    """The sample of the window at ``start``, augmented: what that commit's PretrainReader gives where its first draw
    chooses this window."""
    rng = np.random.default_rng(seed)
    rng.random()  # chose the window
    crops, flip = rng.uniform(size=(10, 4)), rng.random() < 0.5
    brightness, saturation, contrast = rng.uniform(-32 / 255, 32 / 255), *rng.uniform(0.6, 1.4, 2)
    colours = (brightness, saturation, contrast, 360 * rng.uniform(-0.2, 0.2))
    with av.open(str(path), metadata_errors="replace") as container:
        frames_TSS3 = _frames(container, start, crops, flip, colours, spec)
        audio_L = _sound(container, start, spec)
    peak = float(np.abs(audio_L).max(initial=0.0))
    noise = rng.standard_normal(len(audio_L), dtype=np.float32) * np.float32(0.01 * peak)
    audio_L = np.clip(audio_L + noise, -1, 1)
    text_CW = np.zeros((spec.candidates, spec.words), np.int64)
    sentences = choose_candidates(captions, start, start + spec.seconds, spec.candidates, rng)
    text_CW[: len(sentences)] = tokenizer.encode(sentences, spec.words)
    arrays = {"video": frames_TSS3, "audio": audio_L, "text": text_CW}
    masks = {"audio_mask": tensor(1.0), "text_mask": tensor(float((text_CW != 0).any()))}
    return {name: from_numpy(array) for name, array in arrays.items()} | masks


def _decoded(container: Any, kind: str, start: float) -> Iterator[Any]:
    stream = container.streams.get({kind: 0})[0]
    stream.thread_count = 1
    if start > 0:
        origin = (container.start_time or 0) / av.time_base
        container.seek(int((start + origin) / stream.time_base), stream=stream, backward=True)
    elif kind == "audio":
        container.seek(container.start_time or 0, backward=True)
    for packet in container.demux(stream):
        yield from packet.decode()


def _frames(container: Any, start: float, crops: Any, flip: bool, colours: Any, spec: InputConfig) -> np.ndarray:
    """uint8 (T, S, S, 3): each frame that is shown at a moment goes through a graph of filters."""
    out_TSS3 = np.empty((spec.frames, spec.size, spec.size, 3), np.uint8)
    times = start + (np.arange(spec.frames) + 0.5) / spec.fps
    graph: Any = None
    shown: Any = None
    filled, origin = 0, (container.start_time or 0) / av.time_base
    for frame in chain(_decoded(container, "video", start), [None]):
        due = spec.frames if frame is None else int(np.searchsorted(times, frame.time - origin))
        if shown is not None and due > filled:
            graph = graph or _graph(shown, crops, flip, colours, spec.size)
            graph.push(shown)
            out_TSS3[filled:due] = graph.pull().to_ndarray()
            filled = due
        shown = frame
        if filled == spec.frames:
            break
    return out_TSS3


def _graph(frame: Any, crops: Any, flip: bool, colours: Any, size: int) -> Graph:
    """Crop, scale, brightness, saturation and hue, flip, contrast around the mean of the first frame."""
    left, top, height, width = 0, 0, frame.height, frame.width
    for share, slant, down, across in crops:
        area = (0.08 + share * 0.92) * frame.height * frame.width
        aspect = math.exp(math.log(0.5) + slant * math.log(4))
        tall, wide = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 2 <= tall <= frame.height and 2 <= wide <= frame.width:
            top, left = int(down * (frame.height - tall + 1)), int(across * (frame.width - wide + 1))
            height, width = tall, wide
            break
    brightness, saturation, contrast, hue = colours
    mean = float(frame.reformat(width=32, height=32, format="gray").to_ndarray().mean()) / 255
    middle = min(max(mean + brightness, 0.0), 1.0)
    levels = {"o": min(contrast, 1.0), "i": min(1 / contrast, 1.0)}
    ends = {f"{kind}min": middle * (1 - share) for kind, share in levels.items()}
    ends |= {f"{kind}max": middle * (1 - share) + share for kind, share in levels.items()}
    spread = ":".join(f"{channel}{name}={value:.4f}" for channel in "rgb" for name, value in ends.items())
    graph = Graph()
    graph.threads = 1
    filters = [("crop", f"{width}:{height}:{left}:{top}"), ("scale", f"{size}:{size}:flags=bilinear")]
    filters += [("format", "yuv420p"), ("hue", f"h={hue:.3f}:s={saturation:.4f}:b={brightness * 219 / 25.5:.4f}")]
    filters += [("hflip", "")] * flip + [("colorlevels", spread), ("format", "rgb24"), ("buffersink", "")]
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)]
    nodes += [graph.add(*words) for words in filters]
    for first, second in pairwise(nodes):
        first.link_to(second)
    graph.configure()
    return graph


def _sound(container: Any, start: float, spec: InputConfig) -> np.ndarray:
    """float32 (L,), mono and resampled."""
    origin, first = (container.start_time or 0) / av.time_base, None
    resampler = AudioResampler(format="fltp", layout="mono", rate=spec.sample_rate)
    found: list[Any] = []
    for frame in _decoded(container, "audio", max(0.0, start - 0.2)):
        begins = frame.time - origin
        if begins >= start + spec.seconds + 0.1:
            break
        first = round((begins - start) * spec.sample_rate) if first is None else first
        frame.pts = None
        found += resampler.resample(frame)
    found += resampler.resample(None)
    sound = np.concatenate([np.frombuffer(x.planes[0], np.float32, x.samples) for x in found])[max(0, -(first or 0)) :]
    out_L = np.zeros(spec.samples, np.float32)
    at = max(0, first or 0)
    sound = sound[: max(0, len(out_L) - at)]
    out_L[at : at + len(sound)] = sound
    return np.clip(out_L, -1, 1)
