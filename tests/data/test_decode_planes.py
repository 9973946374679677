"""The two ways of a frame to its picture: FFmpeg's filters on the CPU, and planes with what is left to do for a GPU."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from tests.data.media import flash_at, write
from tests.limits import HANG
from vatt.clip import InputConfig
from vatt.data.augment import CentreView, RandomView
from vatt.data.clips import Clip
from vatt.data.config import AugmentConfig, DataConfig
from vatt.data.decode import Encoding, PlaneFrames, RgbFrames, planes_capacity
from vatt.data.decode.view import mean_luma
from vatt.data.labels import Classes
from vatt.data.samples import LabelledReader, PretrainReader
from vatt.data.tokenizer import Tokenizer
from vatt.kernels.frames_to_patches import clips_from_planes

NAMES = ("planes", "sizes", "crop", "flip", "colour")
BT709, BT601, BT2020, UNKNOWN = 1, 5, 9, 2
LIMITED, FULL = 1, 2


def scene(height, width, grain=0.0, seed=0):
    """Strong, slowly changing colours, and some noise."""
    y, x = np.mgrid[0:height, 0:width] * (120 / max(height, 120))
    waves = [70 * np.sin(x / 31 + 1) * np.cos(y / 23), 60 * np.sin((x + y) / 41), 60 * np.cos((x - 2 * y) / 57)]
    noise = np.random.default_rng(seed).normal(0, grain, (height, width, 3)) if grain else 0
    return np.clip(128 + np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def frame_of(picture, form="yuv420p", space=BT601, reach=LIMITED):
    """A frame whose tags say ``space`` and ``reach``; whether the conversion here followed them does not matter."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    if form != "rgb24":
        frame = frame.reformat(format=form, dst_color_range=reach)
    frame.time_base, frame.colorspace, frame.color_range = Fraction(1, 10), space, reach
    return frame


def on_cpu(view, *frames, size=64):
    out_TSS3 = np.zeros((len(frames), size, size, 3), np.uint8)
    writer = RgbFrames(view, out_TSS3)
    for number, frame in enumerate(frames):
        writer.write(frame, number, number + 1)
    writer.finish()
    return out_TSS3.astype(int)


def planes_of(view, *frames, size=64):
    shapes = ((len(frames), planes_capacity(size)), (2,), (4,), (), (3, 4))
    types = (np.uint8, np.int32, np.float32, np.uint8, np.float32)
    out = {name: np.zeros(shape, dtype) for name, shape, dtype in zip(NAMES, shapes, types, strict=True)}
    writer = PlaneFrames(view, size, out)
    for number, frame in enumerate(frames):
        writer.write(frame, number, number + 1)
    writer.finish()
    return out


def finished(sample, size=64):
    """The pictures (T, S, S, 3) that a GPU makes of the planes, by the operation's reference."""
    tensors = [torch.from_numpy(sample[name])[None] for name in NAMES]
    return clips_from_planes(*tensors, size=size, backend="torch")[0].numpy().astype(int)


@pytest.mark.parametrize("grain", [0, 10])
@pytest.mark.parametrize(
    ("form", "space", "reach"),
    [
        *[("yuv420p", space, LIMITED) for space in (BT709, BT601, BT2020, UNKNOWN)],
        *[("yuv420p", space, FULL) for space in (BT709, BT601)],
        ("yuvj420p", BT601, FULL),
        ("yuv420p10le", BT709, LIMITED),
        ("yuv422p", BT601, LIMITED),
        ("yuv444p", BT709, FULL),
        ("nv12", BT709, LIMITED),
        ("rgb24", UNKNOWN, FULL),
        ("gray", UNKNOWN, FULL),
    ],
)
def test_both_ways_give_the_same_picture(form, space, reach, grain):
    """Exactly without a change of colours. With one, to the steps of 8 bits that FFmpeg makes between: on average 2 of
    255 (it rounds down, 1 to 1.5); more at edges of colour, whose chroma has half the resolution there."""
    frame = frame_of(scene(120, 160, grain), form, space, reach)
    if form.startswith("yuv"):
        view = CentreView()
        away = np.abs(on_cpu(view, frame, size=96) - finished(planes_of(view, frame, size=96), 96))
        exact = form in ("yuv420p", "yuvj420p")  # others are first made 4:2:0 for the GPU
        assert away.max() <= (1 if exact else 24)
        assert away.mean() < (0.1 if exact else 3.5)
    for seed in range(6):
        frame = frame_of(scene(120, 160, grain, seed), form, space, reach)
        view = RandomView(AugmentConfig(), np.random.default_rng(seed))
        cpu, gpu = on_cpu(view, frame), finished(planes_of(view, frame))
        away = np.abs(cpu - gpu)
        assert away.mean() < (3.5 if grain else 2.3)
        assert away.max() <= (36 if grain else 16)
        assert -1.9 < (cpu - gpu).mean() < 0.5


def test_matrix_and_range_are_those_of_the_source():
    """The same bytes under different tags are different pictures: those that FFmpeg's own conversion gives."""
    seen, frame = [], frame_of(scene(120, 160))
    for space, name, reach in ((BT601, "itu601", LIMITED), (BT709, "itu709", LIMITED), (BT601, "itu601", FULL)):
        frame.colorspace, frame.color_range = space, reach
        seen.append(on_cpu(CentreView(), frame)[0])
        whole = frame.reformat(format="rgb24", src_colorspace=name, src_color_range=reach).to_ndarray()
        square = av.VideoFrame.from_ndarray(np.ascontiguousarray(whole[:, 20:140]), format="rgb24")
        wanted = square.reformat(64, 64, interpolation="BILINEAR").to_ndarray()
        assert np.abs(seen[-1] - wanted).mean() < 2
    assert min(np.abs(seen[0] - other).mean() for other in seen[1:]) > 4


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", ["bt601", "bt709", "fcc", "smpte240m", "bt2020"])
def test_the_matrix_knows_black_white_and_grey(matrix, full):
    rgb = Encoding(matrix, full).to_rgb(None)
    black, white = (0, 255) if full else (16, 235)
    np.testing.assert_allclose(rgb @ [black, 128, 128, 1], 0, atol=1e-3)
    np.testing.assert_allclose(rgb @ [white, 128, 128, 1], 255, atol=1e-3)
    weights = np.linalg.inv(rgb[:, :3])[0] / np.linalg.inv(rgb[:, :3])[0].sum()  # of R, G and B in luma
    known = {"bt601": 0.299, "bt709": 0.2126, "fcc": 0.30, "smpte240m": 0.212, "bt2020": 0.2627}
    assert weights[0] == pytest.approx(known[matrix], abs=2e-3)


def test_the_mean_luma_is_the_same_in_all_formats():
    grey = np.full((40, 60, 3), 90, np.uint8)
    for form, reach in (("yuv420p", LIMITED), ("yuvj420p", FULL), ("yuv420p10le", LIMITED), ("rgb24", FULL)):
        assert mean_luma(frame_of(grey, form, BT601, reach)) == pytest.approx(90 / 255, abs=0.01)


def test_clips_do_not_share_their_colours():
    """Also where their frames are written in turns."""
    frame = frame_of(scene(64, 64))
    views = [RandomView(AugmentConfig(flip=False), np.random.default_rng(seed)) for seed in range(3)]
    alone = [on_cpu(view, frame)[0] for view in views]
    out = np.zeros((3, 64, 64, 3), np.uint8)
    writers = [RgbFrames(view, out) for view in views]
    for _ in range(2):
        for number, writer in enumerate(writers):
            writer.write(frame, number, number + 1)
            writer.finish()
    np.testing.assert_array_equal(out, alone)
    assert len({picture.tobytes() for picture in alone}) == 3


def test_the_frame_of_the_decoder_stays_as_it_is():
    """Where nothing is scaled, a filter may hand on the memory of the decoder, which predicts other frames from it."""
    frame = frame_of(scene(64, 64))
    before = frame.to_ndarray()
    view = RandomView(AugmentConfig(area_min=1, aspect_min=1, aspect_max=1), np.random.default_rng(0))
    assert view.box(64, 64).height == 64
    on_cpu(view, frame)
    np.testing.assert_array_equal(frame.to_ndarray(), before)


@pytest.mark.parametrize(("height", "width"), [(67, 101), (2, 2), (480, 16), (33, 640)])
def test_odd_and_extreme_sizes(height, width):
    for seed in range(5):
        frame = frame_of(scene(height, width) // 4 + 90, "yuv420p" if height > 2 else "yuv444p")
        view = RandomView(AugmentConfig(), np.random.default_rng(seed))
        assert np.abs(on_cpu(view, frame) - finished(planes_of(view, frame))).mean() < 4


def test_planes_are_the_bytes_of_the_crop():
    frame = frame_of(scene(120, 160))
    view = RandomView(AugmentConfig(flip=False, area_max=0.4), np.random.default_rng(1))
    sample, box = planes_of(view, frame, frame), view.box(120, 160).even()
    assert (box.top % 2, box.left % 2, box.height % 2, box.width % 2) == (0, 0, 0, 0)
    assert sample["sizes"].tolist() == [box.height, box.width]
    assert sample["crop"].tolist() == [0, 0, box.height, box.width]
    whole, count = frame.to_ndarray(), box.height * box.width
    luma = whole[box.top : box.top + box.height, box.left : box.left + box.width]
    np.testing.assert_array_equal(sample["planes"][:, :count], [luma.ravel()] * 2)
    assert not sample["planes"][:, count * 3 // 2 :].any()


def test_a_large_crop_is_shrunk_until_it_fits():
    frame = frame_of(scene(540, 960))
    for view in (CentreView(), RandomView(AugmentConfig(area_min=0.9), np.random.default_rng(2))):
        sample = planes_of(view, frame)
        height, width = sample["sizes"].tolist()
        box = view.box(540, 960)
        assert 0.95 < 1.5 * height * width / planes_capacity(64) <= 1
        assert height / width == pytest.approx(box.height / box.width, rel=0.03)
        assert np.abs(on_cpu(view, frame) - finished(sample)).mean() < 2.5


def test_capacity():
    assert planes_capacity(224) == 180736
    for size in (16, 64, 112, 224, 320):
        capacity = planes_capacity(size)
        assert capacity % 128 == 0
        assert 0 <= capacity - 1.5 * 2.4 * size**2 < 128


def test_a_film_whose_size_changes_keeps_the_shape_of_its_first_frame():
    first, second = frame_of(scene(60, 80)), frame_of(scene(120, 160))
    for view in (CentreView(), RandomView(AugmentConfig(flip=False), np.random.default_rng(3))):
        sample = planes_of(view, first, second, first)
        np.testing.assert_array_equal(sample["planes"][0], sample["planes"][2])
        pictures = finished(sample), on_cpu(view, first, second, first)
        assert np.abs(pictures[0] - pictures[1]).mean() < 2.5


def test_readers_leave_frames_to_the_gpu_if_asked(tmp_path):
    """The same window, crop and colours in both ways; what is around the frames is the same."""
    spec = InputConfig(frames=4, fps=4, size=32, sample_rate=8000, words=4)
    clip = Clip(write(tmp_path / "a.mp4", flash_at(1, 3, 10), sound=np.full(3 * 48000, 0.1, np.float32)), label="a")
    still = Clip(tmp_path / "a.png", kind="image", label="a")
    av.VideoFrame.from_ndarray(scene(40, 60), format="rgb24").to_image().save(still.video)
    config, words, classes = DataConfig(decode_timeout=HANG), Tokenizer.train(["a"]), Classes(("a",))
    for make, name, item in (
        (lambda on: PretrainReader(words, spec, config, on), "video", clip),
        (lambda on: LabelledReader(classes, "video", spec, config, on), "x", clip),
        (lambda on: LabelledReader(classes, "video", spec, config, on), "x", still),
    ):
        cpu, gpu = (make(on)(item, np.random.default_rng(5)) for on in ("cpu", "gpu"))
        layout = make("gpu").layout()
        assert {key: (tuple(x.shape), x.dtype) for key, x in gpu.items()} == layout
        assert set(gpu) == set(cpu) - {name} | set(NAMES)
        for key in set(cpu) - {name}:
            assert torch.equal(cpu[key], gpu[key])
        found = finished({key: gpu[key].numpy() for key in NAMES}, 32)
        assert np.abs(found - cpu[name].numpy()).mean() < 3
