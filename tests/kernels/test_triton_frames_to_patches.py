"""Patches of planar video in Triton against plain PyTorch: every ratio, odd shapes, kept patches, whole clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.conftest import BORDER, DEVICE, bordered, few, needs_triton
from tests.kernels.test_frames_to_patches import BT601, BT709, matrix, packed, planes
from vatt.kernels import clips_from_planes, frames_to_patches
from vatt.kernels.frames_to_patches.reference import frame_bytes

pytestmark = needs_triton

# name: (h, w) and crop of each clip, T, S, patch
CASES = {
    "enlarged and shrunk": ([(30, 41), (24, 24)], [(2, 4, 20, 37), (6, 8, 11, 9)], 4, 32, (2, 16, 16)),
    "shrunk by five": ([(90, 31), (17, 83)], [(0, 1, 90, 30), (1, 0, 16, 83)], 2, 16, (2, 16, 16)),
    "odd patches": ([(23, 19), (15, 40)], [(3, 0, 20, 19), (0, 7, 15, 31)], 5, 17, (4, 8, 5)),
    "parts of pixels": ([(30, 30), (21, 35)], [(0.25, 1.5, 28.5, 20.75), (3.1, 0.7, 9.3, 33.3)], 3, 20, (3, 10, 20)),
    "a line of one": ([(1, 9), (9, 1)], [(0, 2, 1, 7), (0, 0, 9, 1)], 1, 16, (1, 8, 16)),
    "every pixel": ([(16, 16), (16, 20)], [(0, 0, 16, 16), (0, 2, 16, 16)], 1, 16, (1, 16, 16)),
    "a patch of one": ([(8, 9), (8, 8)], [(0, 0, 8, 9), (1, 1, 3, 3)], 2, 2, (1, 1, 1)),
}
KEPT = {
    "all": None,
    "some": lambda N: torch.tensor([N - 1, 0, N // 2]),
    "each its own": lambda N: torch.tensor([[0, N - 1], [N // 2, 0]]),
    "none": lambda N: torch.zeros(0, dtype=torch.int64),
}


def arguments(sides, boxes, T, seed=0):
    rng = np.random.default_rng(seed)
    capacity = 3 + max(frame_bytes(*side) for side in sides)
    found = [
        torch.stack([packed([planes(*side, rng, noise=True) for _ in range(T)], capacity) for side in sides]),
        torch.tensor(sides, dtype=torch.int32),
        torch.tensor(boxes).float(),
        torch.tensor([1, 0, 1][: len(sides)], dtype=torch.uint8),
        torch.stack([matrix(*kind, full) for kind, full in ((BT601, False), (BT709, True), (BT709, False))])[
            : len(sides)
        ].float(),
    ]
    return [x.to(DEVICE) for x in found]


def check(ours, plain):
    """The same but for a level where the exact number lies between two."""
    assert (ours.dtype, ours.shape) == (torch.uint8, plain.shape)
    off = (ours.short() - plain.short()).abs()
    assert not off.numel() or off.max() <= 1
    assert (off > 0).sum() <= 1 + 1e-3 * off.numel()


def patches(call, kept, size, patch, backend):
    return frames_to_patches(*call, size=size, patch=patch, kept=kept, backend=backend)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kept", KEPT)
def test_equals_the_reference(name, kept):
    sides, boxes, T, size, patch = CASES[name]
    N = (T // patch[0]) * (size // patch[1]) * (size // patch[2])
    index = None if KEPT[kept] is None else KEPT[kept](N).to(DEVICE)
    call = arguments(sides, boxes, T)
    check(*(patches(call, index, size, patch, backend) for backend in ("triton", "torch")))


@pytest.mark.parametrize("name", CASES)
def test_whole_clips(name):
    sides, boxes, T, size, _ = CASES[name]
    call = arguments(sides, boxes, T)
    check(*(clips_from_planes(*call, size=size, backend=backend) for backend in ("triton", "torch")))


def test_flags_and_sizes_of_other_types():
    sides, boxes, T, size, patch = CASES["odd patches"]
    call = arguments(sides, boxes, T)
    other = [call[0], call[1].long(), call[2], call[3].bool(), call[4]]
    ours = (patches(x, None, size, patch, "triton") for x in (call, other))
    assert torch.equal(*ours)


def test_an_empty_batch():
    call = [x[:0] for x in arguments([(8, 8)], [(0, 0, 8, 8)], 2)]
    assert patches(call, None, 16, (2, 8, 8), "triton").shape == (0, 4, 384)
    assert clips_from_planes(*call, size=7, backend="triton").shape == (0, 2, 7, 7, 3)


@pytest.mark.parametrize("name", ["enlarged and shrunk", "odd patches", "a line of one"])
@pytest.mark.parametrize("whole", [False, True])
def test_memory(name, whole, monkeypatch):
    """All of the output is written and nothing around it; what lies around the inputs changes nothing."""
    sides, boxes, T, size, patch = CASES[name]
    call, found, original = arguments(sides, boxes, T), [], torch.Tensor.new_empty
    for border, content in ((0, 255), (255, 0)):
        handed = []

        def hand_out(x, *shape, border=border, content=content, handed=handed, **options):
            if options or x.dtype != torch.uint8:
                return original(x, *shape, **options)
            handed.append(bordered(torch.full(shape, content, dtype=torch.uint8, device=x.device), border))
            return handed[-1][1]

        inputs = [bordered(x, border)[1] for x in call]
        with monkeypatch.context() as patching:
            patching.setattr(torch.Tensor, "new_empty", hand_out)
            if whole:
                found.append(clips_from_planes(*inputs, size=size, backend="triton"))
            else:
                found.append(patches(inputs, None, size, patch, "triton"))
        ((buffer, _),) = handed
        assert (torch.cat([buffer[:BORDER], buffer[-BORDER:]]) == border).all()
    assert torch.equal(*found)


@pytest.mark.parametrize("sides", [(100, 100), (-4, 8), (0, 5), (1 << 30, 1 << 30), (2, 10**9)])
def test_sizes_that_do_not_fit_read_nothing_outside(sides):
    """A GPU is not asked, which would take time, but memory of others must stay unread."""
    call = arguments([(8, 8)], [(0, 0, 8, 8)], 2)
    call[1][:] = torch.tensor(sides)
    found = []
    for border in (0, 255):
        call[0] = bordered(call[0], border)[1]
        found.append(patches(call, None, 16, (2, 8, 8), "triton"))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "box", [(-5, -9, 40, 40), (7, 7, 1, 1e6), (float("nan"), 0, 8, 8), (0, 0, 0, 0), (3, 3, -2, 4)]
)
def test_crops_that_do_not_fit_read_nothing_outside(box):
    call, found = arguments([(8, 8)], [box], 2), []
    for border in (0, 255):
        call[0] = bordered(call[0], border)[1]
        found.append(patches(call, torch.tensor([0, 99, -3], device=DEVICE), 16, (2, 8, 8), "triton"))
    assert torch.equal(*found)


def test_frames_past_two_to_the_31():
    """Of memory that is asked for, and hardly touched."""
    T, C, h, w = 2100, 1 << 20, 8, 10
    whole = torch.zeros(1, T, C, dtype=torch.uint8, device=DEVICE)
    frames = packed([planes(h, w, np.random.default_rng(0), noise=True)], frame_bytes(h, w))
    whole[0, -2:, : frame_bytes(h, w)] = frames.to(DEVICE)
    box, colour = torch.tensor([[0.0, 0, h, w]]), matrix(*BT601, False)[None].float()
    rest = (torch.tensor([[h, w]]), box, torch.zeros(1, dtype=torch.uint8), colour)
    call = [whole, *(x.to(DEVICE) for x in rest)]
    ours = patches(call, torch.tensor([T // 2 - 1], device=DEVICE), 8, (2, 8, 8), "triton")
    check(ours, patches([whole[:, -2:], *call[1:]], None, 8, (2, 8, 8), "torch"))


@pytest.mark.slow
def test_compiles_without_a_break():
    sides, boxes, T, size, patch = CASES["odd patches"]
    call = arguments(sides, boxes, T)
    torch.compiler.reset()
    compiled = torch.compile(lambda *x: patches(x, None, size, patch, "triton"), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*call), patches(call, None, size, patch, "triton"))


@few
@given(
    h=st.integers(1, 60),
    w=st.integers(1, 60),
    corner=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    share=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
    size=st.integers(1, 33),
    even=st.booleans(),
)
def test_any_crop(h, w, corner, share, size, even):
    """In whole pixels, or not."""
    top, left = corner[0] * h, corner[1] * w
    height, width = share[0] * (h - top), share[1] * (w - left)
    box = [top, left, height, width]
    if even:
        box = [int(top), int(left), max(1, int(height)), max(1, int(width))]
    call = arguments([(h, w)], [tuple(box)], 1)
    # In float32 a corner may come to lie a little outside.
    call[2][:, 2:] = torch.minimum(call[2][:, 2:], torch.tensor([[h, w]], device=DEVICE) - call[2][:, :2])
    check(*(clips_from_planes(*call, size=size, backend=backend) for backend in ("triton", "torch")))
