"""From a clip of a data set to the tensors of one sample: its window, its views, its sound and its sentences.

A reader is called with (clip, rng) and returns a sample, a dict of tensors; `layout` says their shapes and types. With
``out``, a dict of tensors of that layout, it writes them there (what is large is decoded straight into it) and returns
``out``; after an error, its content is undefined.

Shapes: T frames, S side, L samples, C candidate sentences, W words, V views, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vatt.clip import InputConfig
from vatt.data.augment import CentreView, RandomView, SquareView, augment_audio
from vatt.data.captions import choose_candidates
from vatt.data.clips import Clip
from vatt.data.config import DataConfig
from vatt.data.decode import (
    FrameWriter,
    MediaError,
    PlaneFrames,
    RgbFrames,
    View,
    Wanted,
    check_decoder,
    decode_sounds,
    decode_windows,
    is_silent,
    planes_capacity,
    write_picture,
)
from vatt.data.labels import Classes
from vatt.data.tokenizer import Tokenizer
from vatt.data.windows import expect_window, spread, starts_at

Sample = dict[str, Tensor]
Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]  # shape and type of each tensor of a sample
Modality = Literal["video", "audio"]
AugmentOn = Literal["cpu", "gpu"]  # where crop, scale, flip and colours are made of the frames


@dataclass(frozen=True)
class PretrainReader:
    """Reads a window of a clip for pretraining: called with (clip, rng), returns a sample, augmented.

    ``augment_on`` says where crop, scale, flip and colours are made of the frames: "cpu", here, or "gpu", later, by
    `vatt.kernels.frames_to_patches`.
    """

    tokenizer: Tokenizer
    spec: InputConfig
    config: DataConfig
    augment_on: AugmentOn = "cpu"

    def __post_init__(self) -> None:
        """Raises DecoderError: ``config.decoder`` cannot run here."""
        check_decoder(self.config.decoder, self.config.workers)

    def layout(self) -> Layout:
        """Of the tensors of a sample."""
        spec = self.spec
        return frames_layout(spec, self.augment_on, "video") | {
            "audio": ((spec.samples,), torch.float32),
            "text": ((spec.candidates, spec.words), torch.int64),
            "audio_mask": ((), torch.float32),
            "text_mask": ((), torch.float32),
        }

    def __call__(self, clip: Clip, rng: np.random.Generator, out: Sample | None = None) -> Sample:
        """video (T, S, S, 3) uint8, audio (L,), text (C, W), and the masks audio_mask and text_mask (), 1 or 0.

        The audio_mask is 0 without sound, or in silence (`is_silent`, before noise is added): silent clips would be
        false negatives of each other.

        On the path of the GPU, in place of video: planes, sizes, crop, flip and colour, see `PlaneFrames`.

        Raises:
            MediaError: the clip cannot be decoded.
        """
        return self.windows(clip, [rng], [out])[0]

    def expect(self, clip: Clip, rng: np.random.Generator) -> None:
        """A call with these arguments is to come: begins to fetch what it will open, and returns at once."""
        expect_window(clip, self.spec, rng.random())

    def windows(
        self, clip: Clip, rngs: Sequence[np.random.Generator], outs: Sequence[Sample | None] | None = None
    ) -> list[Sample]:
        """Several windows of one clip, opened once, each as its ``rng`` draws it: the samples that one call each gives.

        Raises:
            MediaError: the clip cannot be decoded.
        """
        augment, spec = self.config.augment, self.spec
        samples = _samples(self.layout(), len(rngs), outs)
        wanted = []
        for rng, sample in zip(rngs, samples, strict=True):
            start = starts_at(clip, spec, rng.random())
            view = RandomView(augment, rng) if augment.enabled else CentreView()
            wanted.append(Wanted(start, [_writer(view, spec, sample, self.augment_on)], sample["audio"].numpy()))
        written = decode_windows(clip.media, wanted, spec, self.config.decode_timeout, self.config.decoder)
        for rng, sample, window in zip(rngs, samples, written, strict=True):
            audio_L, end = sample["audio"].numpy(), window.start + spec.seconds
            heard = window.has_sound and not is_silent(audio_L)
            if augment.enabled and heard:
                augment_audio(audio_L, augment, rng, audio_L)
            sentences = choose_candidates(clip.captions, window.start, end, spec.candidates, rng)
            _complete(sample, heard, sentences, self.tokenizer)
        return samples


def evaluation_windows(
    clip: Clip,
    tokenizer: Tokenizer,
    spec: InputConfig,
    config: DataConfig,
    windows: int,
    outs: Sequence[Sample] | None = None,
) -> tuple[list[Sample], str]:
    """``windows`` windows spread evenly over the clip, centre crop; and the query: the caption that overlaps the range
    of the clip most, or the first one of the video where there is no range or no time.

    Windows that begin at the same time, as those of a clip no longer than one do, are one sample, read once: the same
    object. It is the first of theirs in ``outs``, if those are given; the others are left as they are.

    Raises:
        MediaError: the clip cannot be decoded.
    """
    query = clip.captions[0].text if clip.captions else ""
    if query and clip.start is not None and clip.end is not None:
        query = choose_candidates(clip.captions, clip.start, clip.end, 1, None)[0]
    layout = PretrainReader(tokenizer, replace(spec, candidates=1), config).layout()
    samples = _samples(layout, windows, outs)
    wanted = [
        Wanted(starts_at(clip, spec, position), [_writer(CentreView(), spec, sample)], sample["audio"].numpy())
        for position, sample in zip(spread(windows), samples, strict=True)
    ]
    written = decode_windows(clip.media, wanted, spec, config.decode_timeout, config.decoder, once=True)
    firsts = _firsts([window.start for window in written])
    for number in dict.fromkeys(firsts):
        heard = written[number].has_sound and not is_silent(samples[number]["audio"].numpy())
        _complete(samples[number], heard, [query], tokenizer)
    return [samples[number] for number in firsts], query


@dataclass(frozen=True)
class LabelledReader:
    """Reads a window of a clip with a label for training: called with (clip, rng), returns "x" and "target".

    "x" is uint8 (T, S, S, 3), of a video or a picture, or float32 (L,) of its sound; "target" float32 (K,). With
    ``augment_on`` "gpu", a video or picture has planes, sizes, crop, flip and colour in place of "x", see
    `PretrainReader`.
    """

    classes: Classes
    modality: Modality
    spec: InputConfig
    config: DataConfig
    augment_on: AugmentOn = "cpu"

    def __post_init__(self) -> None:
        """Raises DecoderError: ``config.decoder`` cannot run here."""
        check_decoder(self.config.decoder, self.config.workers)

    def layout(self) -> Layout:
        """Of the tensors of a sample."""
        sound: Layout = {"x": ((self.spec.samples,), torch.float32)}
        x = frames_layout(self.spec, self.augment_on, "x") if self.modality == "video" else sound
        return x | {"target": ((len(self.classes.names),), torch.float32)}

    def __call__(self, clip: Clip, rng: np.random.Generator, out: Sample | None = None) -> Sample:
        """Raises MediaError: the clip cannot be decoded. LabelError: its label cannot be used."""
        return self.windows(clip, [rng], [out])[0]

    def expect(self, clip: Clip, rng: np.random.Generator) -> None:
        """A call with these arguments is to come: begins to fetch what it will open, and returns at once."""
        expect_window(clip, self.spec, rng.random(), sound=self.modality == "audio")

    def windows(
        self, clip: Clip, rngs: Sequence[np.random.Generator], outs: Sequence[Sample | None] | None = None
    ) -> list[Sample]:
        """Several windows of one clip, opened once, each as its ``rng`` draws it: the samples that one call each gives.

        Raises:
            MediaError: the clip cannot be decoded. LabelError: its label cannot be used.
        """
        augment, spec, timeout = self.config.augment, self.spec, self.config.decode_timeout
        samples = _samples(self.layout(), len(rngs), outs)
        positions = [rng.random() for rng in rngs]
        views = [RandomView(augment, rng) if augment.enabled else CentreView() for rng in rngs]
        if self.modality == "audio":
            _read_sounds(clip, positions, [sample["x"].numpy() for sample in samples], spec, timeout)
        else:
            drawn = zip(views, samples, strict=True)
            writers = [[_writer(view, spec, sample, self.augment_on)] for view, sample in drawn]
            _read_pictures(clip, positions, writers, spec, timeout, self.config.decoder)
        for rng, sample in zip(rngs, samples, strict=True):
            if self.modality == "audio" and augment.enabled:
                x_L = sample["x"].numpy()
                augment_audio(x_L, augment, rng, x_L)
            sample["target"].copy_(self.classes.target(clip))
        return samples


@dataclass(frozen=True)
class Views:
    """What evaluation reads of a clip: ``clips`` windows, spread evenly over it, and ``crops`` squares of each.

    The paper has 4 clips x 3 crops for video. Three crops lie at the start, in the middle and at the end of the longer
    side; sound has no crops, and a picture one window.
    """

    clips: int = 4
    crops: int = 3

    def __post_init__(self) -> None:
        if self.clips < 1 or self.crops < 1:
            raise ValueError(f"clips and crops must be 1 or more, got {self.clips} and {self.crops}")

    def count(self, modality: Modality) -> int:
        """Views of a clip; sound has no crops."""
        return self.clips * (self.crops if modality == "video" else 1)

    def read(self, clip: Clip, modality: Modality, spec: InputConfig, timeout: float) -> Tensor:
        """(V, T, S, S, 3) uint8 or (V, L) float32, the crops of a window next to each other.

        Raises:
            MediaError: the clip cannot be decoded.
        """
        x_V = view_rows(self, modality, spec)
        return x_V[torch.tensor(self.read_into(clip, modality, spec, timeout, x_V))]

    def read_into(self, clip: Clip, modality: Modality, spec: InputConfig, timeout: float, x_V: Tensor) -> list[int]:
        """As `read`, into the rows of ``x_V``. Returns for each view the row that holds it: views of windows that begin
        at the same time are read once, and the rows of the others are left as they are.

        Raises:
            MediaError: the clip cannot be decoded.
        """
        positions = spread(self.clips)
        if modality == "audio":
            return _read_sounds(clip, positions, list(x_V.numpy()), spec, timeout, once=True)
        windows = x_V.numpy().reshape(self.clips, self.crops, *x_V.shape[1:])
        squares = [SquareView(position) for position in spread(self.crops)]
        writers: list[list[FrameWriter]] = [list(map(RgbFrames, squares, window)) for window in windows]
        firsts = _read_pictures(clip, positions, writers, spec, timeout, once=True)
        return [window * self.crops + crop for window in firsts for crop in range(self.crops)]


def view_rows(views: Views, modality: Modality, spec: InputConfig) -> Tensor:
    """Memory for the views of a clip, see `Views.read`."""
    if modality == "audio":
        return torch.empty((views.count(modality), spec.samples), dtype=torch.float32)
    return torch.empty((views.count(modality), spec.frames, spec.size, spec.size, 3), dtype=torch.uint8)


def _firsts(starts: Sequence[float]) -> list[int]:
    """For each window the number of the first that begins at the same time."""
    return [starts.index(start) for start in starts]


def _read_sounds(
    clip: Clip,
    positions: Sequence[float],
    outs: Sequence[np.ndarray],
    spec: InputConfig,
    timeout: float,
    once: bool = False,
) -> list[int]:
    """The sound of the windows at these positions, 0 to 1. Returns for each the number of the first that begins at the
    same time, which with ``once`` is alone written."""
    if clip.kind == "image":
        raise MediaError(clip.video, "audio", "is a picture, which has no sound")
    chosen = [starts_at(clip, spec, position) for position in positions]
    return _firsts(decode_sounds(clip.media, chosen, outs, spec, timeout, once=once))


def _read_pictures(
    clip: Clip,
    positions: Sequence[float],
    writers: list[list[FrameWriter]],
    spec: InputConfig,
    timeout: float,
    decoder: str = "pyav",
    once: bool = False,
) -> list[int]:
    """Gives the frames of the windows at these positions, 0 to 1, to the writers of each; all windows of a picture are
    alike. Returns and takes ``once`` as `_read_sounds` does."""
    if clip.kind == "audio":
        raise MediaError(clip.video, "video", "is a sound file, which has no picture")
    if clip.kind == "image":
        pictures = [writer for window in writers[: 1 if once else None] for writer in window]
        write_picture(clip.media, pictures, spec, timeout)
        return [0] * len(writers)
    pairs = zip(positions, writers, strict=True)
    wanted = [Wanted(starts_at(clip, spec, position), window) for position, window in pairs]
    return _firsts([window.start for window in decode_windows(clip.media, wanted, spec, timeout, decoder, once=once)])


def frames_layout(spec: InputConfig, augment_on: AugmentOn, name: str) -> Layout:
    """Of the tensors that hold the frames of a clip: RGB under ``name``, or what `frames_to_patches` takes."""
    if augment_on == "cpu":
        return {name: ((spec.frames, spec.size, spec.size, 3), torch.uint8)}
    return {
        "planes": ((spec.frames, planes_capacity(spec.size)), torch.uint8),
        "sizes": ((2,), torch.int32),
        "crop": ((4,), torch.float32),
        "flip": ((), torch.uint8),
        "colour": ((3, 4), torch.float32),
    }


def _writer(view: View, spec: InputConfig, sample: Sample, augment_on: AugmentOn = "cpu") -> FrameWriter:
    if augment_on == "cpu":
        return RgbFrames(view, sample["video" if "video" in sample else "x"].numpy())
    names = frames_layout(spec, augment_on, "")
    return PlaneFrames(view, spec.size, {name: sample[name].numpy() for name in names})


def _samples(layout: Layout, count: int, given: Sequence[Sample | None] | None = None) -> list[Sample]:
    """The samples that are given, and new ones for None."""

    def empty() -> Sample:
        return {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}

    samples = [empty() if sample is None else sample for sample in given or [None] * count]
    if len(samples) != count:
        raise ValueError(f"outs: {len(samples)} samples for {count} windows")
    return samples


def _complete(sample: Sample, heard: bool, sentences: list[str], tokenizer: Tokenizer) -> Sample:
    """The sample, with its sentences and masks, and zeros where there is no sound to hear."""
    text_CW = sample["text"].numpy()
    text_CW[:] = 0
    if sentences:
        text_CW[: len(sentences)] = tokenizer.encode(sentences, text_CW.shape[1])
    if not heard:
        sample["audio"].zero_()
    sample["audio_mask"].fill_(heard)
    sample["text_mask"].fill_(bool((text_CW != 0).any()))
    return sample
