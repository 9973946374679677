"""The patches of planar video, in plain PyTorch: against FFmpeg's own scaler, by arithmetic, and what is refused."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch
from av.filter import Graph

from vatt.kernels import clips_from_planes, frames_to_patches
from vatt.kernels.frames_to_patches.reference import frame_bytes, resampling
from vatt.kernels.patch_embed.reference import gather_patches

BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)
CODES = {BT601: 5, BT709: 1}  # of FFmpeg's colour spaces


def matrix(red, blue, full):
    """RGB from (Y, U, V, 1), (3, 4), for the shares of red and blue in luma and the range of the bytes."""
    luma, chroma, black = (1.0, 1.0, 0.0) if full else (255 / 219, 255 / 224, 16.0)
    green = 1 - red - blue
    of_u = [0, -2 * blue * (1 - blue) / green, 2 * (1 - blue)]
    of_v = [2 * (1 - red), -2 * red * (1 - red) / green, 0]
    linear = torch.tensor([[luma, chroma * u, chroma * v] for u, v in zip(of_u, of_v, strict=True)]).double()
    return torch.cat([linear, -linear @ torch.tensor([[black], [128.0], [128.0]]).double()], dim=1)


def planes(h, w, rng, noise=False):
    """Y, U and V: noise, or what a camera sees, without sharp edges."""
    half = -(-h // 2), -(-w // 2)
    if noise:
        return [rng.integers(0, 256, shape).astype(np.uint8) for shape in ((h, w), half, half)]

    def smooth(shape, low, high):
        rough = torch.from_numpy(rng.uniform(low, high, (1, 1, shape[0] // 8 + 2, shape[1] // 8 + 2)))
        fine = torch.nn.functional.interpolate(rough, size=shape, mode="bilinear", align_corners=True)
        return fine[0, 0].round().numpy().astype(np.uint8)

    return [smooth((h, w), 30, 220), smooth(half, 95, 161), smooth(half, 95, 161)]


def packed(frames, capacity):
    """(T, C): frames of three planes one behind the other; what is left is NaN of bytes."""
    rows = [np.concatenate([plane.ravel() for plane in frame]) for frame in frames]
    return torch.stack([torch.from_numpy(np.pad(row, (0, capacity - len(row)), constant_values=77)) for row in rows])


def by_ffmpeg(frame, box, size, flip, kind, full, tail):
    """A crop (top, left, height, width), scaled, through FFmpeg's filters, (S, S, 3)."""
    h, w = frame[0].shape
    picture = av.VideoFrame(w, h, "yuv420p")
    picture.pts, picture.colorspace, picture.color_range = 0, CODES[kind], 2 if full else 1
    for plane, values in zip(picture.planes, frame, strict=True):
        lines = np.zeros((plane.height, plane.line_size), np.uint8)
        lines[:, : plane.width] = values
        plane.update(lines)
    top, left, height, width = box
    filters = [("crop", f"{width}:{height}:{left}:{top}"), ("scale", f"{size}:{size}:flags=bilinear")]
    filters += [("hflip", "")] * flip + [("format", name) for name in (*tail, "rgb24")]
    graph = Graph()
    chain = [graph.add_buffer(width=w, height=h, format=picture.format, time_base=Fraction(1, 25))]
    chain += [graph.add(*each) for each in filters] + [graph.add("buffersink")]
    for first, second in pairwise(chain):
        first.link_to(second)
    graph.configure()
    graph.push(picture)
    return torch.from_numpy(graph.pull().to_ndarray().astype(np.int16))


def ours(frame, box, size, flip, kind, full):
    """The same by the operation."""
    h, w = frame[0].shape
    colour = matrix(*kind, full)[None].float()
    boxes, flips = torch.tensor([box]).float(), torch.tensor([flip], dtype=torch.uint8)
    whole = packed([frame], frame_bytes(h, w) + 3)[None]
    return clips_from_planes(whole, torch.tensor([[h, w]]), boxes, flips, colour, size=size)[0, 0].short()


# name: ((h, w), crop, side): enlarged, shrunk by up to 5 on an axis, odd sizes, as long as wide and not, the whole
VIEWS = {
    "shrunk a little": ((256, 456), (10, 20, 200, 260), 224),
    "enlarged": ((256, 456), (100, 202, 70, 96), 224),
    "the whole, shrunk twice": ((256, 456), (0, 0, 256, 456), 112),
    "one axis enlarged, one shrunk": ((120, 300), (8, 4, 30, 288), 97),
    "odd sizes": ((135, 241), (2, 0, 132, 240), 111),
    "shrunk five times": ((240, 320), (0, 6, 240, 314), 48),
    "as it is": ((96, 160), (0, 32, 96, 96), 96),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("flip", [0, 1])
def test_it_is_the_picture_of_ffmpeg(name, full, kind, flip):
    """Of one conversion to RGB in planes. FFmpeg rounds its weights to 14 bits, and Y, U and V in between."""
    (h, w), box, size = VIEWS[name]
    frame = planes(h, w, np.random.default_rng(1))
    # Where nothing is scaled FFmpeg converts by tables, which take each sample of chroma for 2 x 2 pixels.
    mean, most = (2.5, 16) if name == "as it is" else (0.02, 1)
    off = (ours(frame, box, size, flip, kind, full) - by_ffmpeg(frame, box, size, flip, kind, full, ["gbrp"])).abs()
    assert off.max() <= most
    assert off.float().mean() <= mean


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_picture_of_ffmpeg_in_noise(seed):
    """Any crop and size. FFmpeg leaves out weights below a thousandth, which shows where each pixel is another."""
    rng = np.random.default_rng(seed)
    h, w = (int(rng.integers(60, 260)) for _ in range(2))
    height, width = (2 * int(rng.integers(20, side // 2 + 1)) for side in (h, w))
    top, left = (2 * int(rng.integers(0, (side - part) // 2 + 1)) for side, part in ((h, height), (w, width)))
    kind, full, size = list(CODES)[seed % 2], bool(seed // 2 % 2), int(rng.integers(40, 230))
    frame, view = planes(h, w, rng, noise=True), ((top, left, height, width), size, seed % 2)
    off = (ours(frame, *view, kind, full) - by_ffmpeg(frame, *view, kind, full, ["gbrp"])).abs().float()
    assert off.mean() <= 0.15
    assert (off <= 4).float().mean() >= 0.99


def test_how_far_it_is_from_the_tables_of_ffmpeg():
    """What `format=rgb24` alone makes is darker by some levels, and has chroma in pairs of pixels."""
    (h, w), box, size = VIEWS["shrunk a little"]
    frame = planes(h, w, np.random.default_rng(1))
    off = by_ffmpeg(frame, box, size, 0, BT601, False, []) - ours(frame, box, size, 0, BT601, False)
    assert -4 < off.float().mean() < -1
    assert off.abs().max() <= 12


def test_nothing_is_done_where_nothing_is_asked_for():
    """The size of the picture, and colours as they are: luma is copied, chroma interpolated."""
    h = w = 16
    frame = planes(h, w, np.random.default_rng(0), noise=True)
    call = packed([frame], 512)[None], torch.tensor([[h, w]]), torch.tensor([[0.0, 0, h, w]]), torch.zeros(1).bool()
    out = clips_from_planes(*call, torch.eye(4)[None, :3], size=h)[0, 0]
    assert np.array_equal(out[..., 0], frame[0])
    u = torch.from_numpy(frame[1]).double()
    # Rows 2 and 3 lie a quarter above and below row 1 of chroma.
    lines = u[1] * 0.75 + u[0] * 0.25
    assert torch.equal(out[2, 2:4, 1], torch.stack([lines[1] * 0.75 + lines[k] * 0.25 for k in (0, 2)]).round().byte())


def test_colours_are_clipped_and_rounded_once():
    call = torch.full((1, 1, 6), 100, dtype=torch.uint8), torch.tensor([[2, 2]]), torch.tensor([[0.0, 0, 2, 2]])
    mix = torch.tensor([[0.5, 0, 0, -60], [0.01, 0, 0, 0.49], [1, 1, 1, 0]])[None]
    out = clips_from_planes(*call, torch.zeros(1).bool(), mix, size=2)
    assert out.flatten(0, 3).unique(dim=0).tolist() == [[0, 1, 255]]


def test_autocast_changes_nothing():
    frame = planes(40, 50, np.random.default_rng(0), noise=True)
    expected = ours(frame, (0, 0, 40, 50), 24, 0, BT601, False)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(frame, (0, 0, 40, 50), 24, 0, BT601, False), expected)


@pytest.mark.parametrize("kept", [None, [3, 0, 3], [[1, 2], [0, 3]]])
def test_patches_are_those_of_the_clips(kept):
    rng = np.random.default_rng(0)
    sizes = [(20, 31), (33, 18)]
    whole = torch.stack([packed([planes(*side, rng) for _ in range(5)], 1024) for side in sizes])
    boxes, colour = torch.tensor([[2.0, 4, 16, 20], [0, 0, 33, 18]]), matrix(*BT601, False).float().expand(2, 3, 4)
    call = whole, torch.tensor(sizes), boxes, torch.tensor([True, False]), colour
    index = None if kept is None else torch.tensor(kept)
    clips = clips_from_planes(*call, size=19)
    assert clips.shape == (2, 5, 19, 19, 3)
    found = frames_to_patches(*call, size=19, patch=(4, 8, 8), kept=index)
    assert torch.equal(found, gather_patches(clips, (4, 8, 8), index))
    assert found.dtype == torch.uint8


@pytest.mark.parametrize(("begin", "length", "size"), [(0, 10, 10), (3, 7, 20), (2.5, 20, 6), (0, 1, 5), (1, 9.5, 9)])
def test_weights(begin, length, size):
    """They add up to 1, are none outside of the crop, and keep a ramp a ramp where no border is near."""
    first, weights = resampling(begin, length, size)
    torch.testing.assert_close(weights.sum(1), torch.ones(size).double())
    assert first == int(begin)
    assert first + weights.shape[1] >= begin + length
    samples = first + torch.arange(weights.shape[1]).double()
    expected = begin + (torch.arange(size) + 0.5).double() * length / size - 0.5
    reach = max(1, length / size)
    inner = (expected >= samples[0] + reach) & (expected <= samples[-1] - reach)
    off = ((weights @ samples) - expected).abs()[inner]
    assert (off <= (1e-9 if length <= size or length % size == 0 else 0.1)).all()


GOOD = dict(
    planes=torch.zeros(2, 4, 600, dtype=torch.uint8),
    sizes=torch.tensor([[20, 20]] * 2),
    crop=torch.tensor([[0.0, 0, 20, 20]] * 2),
    flip=torch.zeros(2, dtype=torch.uint8),
    colour=torch.zeros(2, 3, 4),
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(planes=torch.zeros(2, 4, 600)), "planes: expected uint8"),
        (dict(planes=torch.zeros(4, 600, dtype=torch.uint8)), r"planes: expected uint8 \(B, T, C\)"),
        (dict(sizes=torch.zeros(2, 3)), r"sizes: expected \(2, 2\)"),
        (dict(sizes=torch.zeros(2, 2)), "sizes: expected int32 or int64"),
        (dict(crop=torch.zeros(2, 3)), r"crop: expected \(2, 4\)"),
        (dict(crop=torch.zeros(2, 4).double()), "crop: expected floating point as colour, got torch.float64 and"),
        (dict(flip=torch.zeros(2)), "flip: expected uint8 or bool"),
        (dict(flip=torch.zeros(3).bool()), r"flip: expected \(2,\)"),
        (dict(colour=torch.zeros(3, 4)), r"colour: expected \(2, 3, 4\)"),
        (dict(patch=(4, 16)), "patch: expected three sizes"),
        (dict(patch=(5, 4, 4)), "size: 4 frames of 16 x 16 are smaller than one patch"),
        (dict(patch=(4, 4, 17)), "size: 4 frames of 16 x 16 are smaller than one patch"),
        (dict(kept=torch.zeros(3, 1, dtype=torch.int64)), "kept: expected"),
        (dict(kept=torch.zeros(3)), "kept: expected int64"),
        (dict(sizes=torch.tensor([[20, 20], [20, 21]])), "sizes: clip 1 has frames of 20 x 21"),
        (dict(sizes=torch.tensor([[0, 20], [20, 20]])), "sizes: clip 0 has frames of 0 x 20"),
        (
            dict(crop=torch.tensor([[0.0, 0, 20, 20], [0, 1, 20, 20]])),
            r"crop: .* of clip 1 does not lie within 20 x 20",
        ),
        (dict(crop=torch.tensor([[float("nan"), 0, 20, 20]] * 2)), "crop: .* of clip 0 does not lie within"),
        (dict(crop=torch.tensor([[0.0, 0, 0, 20]] * 2)), "crop: .* of clip 0 does not lie within"),
    ],
)
def test_errors_name_the_argument(change, message):
    with pytest.raises(ValueError, match=message):
        frames_to_patches(**{"size": 16, "patch": (4, 16, 16), **GOOD, **change})


def test_shapes_are_known_without_memory():
    """Of tensors on meta, and inside of one graph."""
    kept = torch.tensor([0])
    call = {name: x.to("meta") for name, x in GOOD.items()}
    assert frames_to_patches(**call, size=16, kept=kept.to("meta")).shape == (2, 1, 3072)
    assert clips_from_planes(**call, size=18).shape == (2, 4, 18, 18, 3)
    torch.compiler.reset()
    compiled = torch.compile(lambda **x: frames_to_patches(**x, size=16, kept=kept), fullgraph=True, backend="eager")
    assert torch.equal(compiled(**GOOD), frames_to_patches(**GOOD, size=16, kept=kept))
