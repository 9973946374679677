"""One kernel: decoded planes to patches of RGB, or to whole clips.

A clip lies as (T, C) bytes; a frame is its planes Y (h x w), U and V (each ceil(h / 2) x ceil(w / 2)), h and w of each
clip being in a table. Shapes: B clips, T frames, S side of the picture, K kept patches, P numbers in a patch.

A plane X of a patch is scaled as W_y X W_x^T, as in the reference: of 16 rows and 16 columns of X at a time, where only
those are read that some pixel of the patch takes. The weights of both matrices are computed where they are needed. The
frames of a patch lie side by side, so that each product is one of two matrices.
"""

from __future__ import annotations

import triton
import triton.language as tl

STEP: tl.constexpr = tl.constexpr(16)  # rows and columns of a plane that are read at a time


@triton.jit
def frames_to_patches_forward(
    planes_ptr,  # (B, T, C) uint8
    sizes_ptr,  # (B, 2) integers: h, w
    crop_ptr,  # (B, 4) float32: top, left, height, width
    flip_ptr,  # (B,) uint8
    colour_ptr,  # (B, 3, 4) float32
    kept_ptr,  # (K,) int64, (B, K) if PER_ITEM, or None without KEPT
    out_ptr,  # (B, K, P) uint8, or (B, T, S, S, 3) if WHOLE; written
    T,
    C,
    K,
    S: tl.constexpr,
    GT: tl.constexpr,  # patches along T
    GH: tl.constexpr,  # patches along H
    GW: tl.constexpr,  # patches along W
    KEPT: tl.constexpr,
    PER_ITEM: tl.constexpr,
    WHOLE: tl.constexpr,
    PT: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """A program: one patch."""
    b, k = (tl.program_id(0) // K).to(tl.int64), tl.program_id(0) % K
    index = k
    if KEPT:
        index = tl.load(kept_ptr + (b * K + k if PER_ITEM else k)).to(tl.int32)
        index = tl.minimum(tl.maximum(index, 0), GT * GH * GW - 1)
    t0, y0, x0 = index // GW // GH * PT, index // GW % GH * PH, index % GW * PW
    h, w = tl.load(sizes_ptr + 2 * b).to(tl.int32), tl.load(sizes_ptr + 2 * b + 1).to(tl.int32)
    # Sizes that do not fit into a frame would be read outside of it.
    fits = (h > 0) & (w > 0) & (h <= C) & (w <= C)
    fits = fits & (h.to(tl.int64) * w + 2 * ((h.to(tl.int64) + 1) // 2 * ((w + 1) // 2)) <= C)
    h, w = tl.where(fits, h, 1), tl.where(fits, w, 1)
    half_h, half_w = (h + 1) // 2, (w + 1) // 2
    box = crop_ptr + 4 * b
    top, left, height, width = tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3)
    # What pads a block repeats its last pixel, so that it needs no mask before it is stored.
    y_end, x_end = tl.minimum(y0 + PH, S) - 1, tl.minimum(x0 + PW, S) - 1
    y = tl.minimum(y0 + tl.arange(0, BLOCK_H), y_end)
    x = tl.minimum(x0 + tl.arange(0, BLOCK_W), x_end)
    mirrored = tl.load(flip_ptr + b) != 0
    x = tl.where(mirrored, S - 1 - x, x)
    x_first, x_last = tl.where(mirrored, S - 1 - x_end, x0), tl.where(mirrored, S - 1 - x0, x_end)
    t = tl.minimum(t0 + tl.minimum(tl.arange(0, STEP * BLOCK_T) % BLOCK_T, PT - 1), T - 1)
    frames = planes_ptr + (b * T + t) * C

    down = places(y, y0, y_end, top, height, h, S)
    across = places(x, x_first, x_last, left, width, w, S)
    luma, _ = scaled(frames, w, 0, down, across, False, BLOCK_T, BLOCK_H, BLOCK_W)
    down = places(y, y0, y_end, top * 0.5, height * 0.5, half_h, S)
    across = places(x, x_first, x_last, left * 0.5, width * 0.5, half_w, S)
    u, v = scaled(frames + h * w, half_w, half_h * half_w, down, across, True, BLOCK_T, BLOCK_H, BLOCK_W)

    y, place = tl.arange(0, BLOCK_H)[:, None], tl.arange(0, BLOCK_T * BLOCK_W)[None, :]
    t, x = place // BLOCK_W, place % BLOCK_W
    inside = (t < PT) & (y < PH) & (x < PW)
    if WHOLE:
        inside = inside & (t0 + t < T) & (y0 + y < S) & (x0 + x < S)
        out = out_ptr + ((b * T + t0) * S + y0) * S * 3 + (((t * S + y) * S) + x0 + x) * 3
    else:
        out = out_ptr + tl.program_id(0).to(tl.int64) * (PT * PH * PW * 3) + ((t * PH + y) * PW + x) * 3
    for c in tl.static_range(3):
        mix = colour_ptr + 12 * b + 4 * c
        level = tl.load(mix) * luma + tl.load(mix + 1) * u + tl.load(mix + 2) * v + tl.load(mix + 3)
        # Rounded to even by adding 2^23, whose last bit is worth 1. A conversion has a quarter of the rate.
        level = tl.minimum(tl.maximum(level, 0.0), 255.0) + 8388608.0
        tl.store(out + c, level.to(tl.int32, bitcast=True).to(tl.uint8), mask=inside)


@triton.jit
def scaled(frames, width, apart, down, across, PAIR: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr,
           BLOCK_W: tl.constexpr):  # fmt: skip
    """A plane with lines of ``width`` at the `places` ``down`` and ``across``, (BLOCK_H, BLOCK_T * BLOCK_W) float32; of
    a PAIR another one, too, ``apart`` bytes behind it. ``frames``: where the plane of each frame begins, STEP times one
    after the other."""
    place_y, narrow_y, scale_y, from_y, to_y, low_y, high_y = down
    place_x, narrow_x, scale_x, from_x, to_x, low_x, high_x = across
    step = tl.arange(0, STEP)
    of_line = tl.arange(0, STEP * BLOCK_T) // BLOCK_T
    one = tl.zeros([BLOCK_H, BLOCK_T * BLOCK_W], tl.float32)
    other = tl.zeros([BLOCK_H, BLOCK_T * BLOCK_W], tl.float32)
    for row in range(0, to_y - from_y, STEP):
        lines = frames + tl.minimum(tl.maximum(from_y + row + of_line, low_y), high_y) * width
        of_one = tl.zeros([STEP * BLOCK_T, BLOCK_W], tl.float32)
        of_other = tl.zeros([STEP * BLOCK_T, BLOCK_W], tl.float32)
        for column in range(0, to_x - from_x, STEP):
            pixels = lines[:, None] + tl.minimum(tl.maximum(from_x + column + step, low_x), high_x)[None, :]
            more, less = two(weight((column + step)[:, None], place_x[None, :], narrow_x, scale_x[None, :]))
            x = number(tl.load(pixels))
            of_one = tl.dot(x, more, tl.dot(x, less, of_one))
            if PAIR:
                x = number(tl.load(pixels + apart))
                of_other = tl.dot(x, more, tl.dot(x, less, of_other))
        more, less = two(weight((row + step)[None, :], place_y[:, None], narrow_y, scale_y[:, None]))
        high, low = two(tl.reshape(of_one, [STEP, BLOCK_T * BLOCK_W]))
        one = tl.dot(more, high, tl.dot(more, low, tl.dot(less, high, one)))
        if PAIR:
            high, low = two(tl.reshape(of_other, [STEP, BLOCK_T * BLOCK_W]))
            other = tl.dot(more, high, tl.dot(more, low, tl.dot(less, high, other)))
    return one, other


@triton.jit
def places(i, first, last, begin, length, samples, S: tl.constexpr):
    """Where the outputs ``i`` of an axis, ``first`` to ``last`` of which are real, lie in a plane: their places behind
    the first sample that counts for any of them, one over half of the triangle's width, the factor that makes their
    weights 1 in sum, that sample and the one behind the last that counts, the first and the last one of the crop.

    In the plane a place is begin + (i + 0.5) * length / S - 0.5. Its whole part is taken out of the quotient, which
    leaves more digits of float32 to the rest."""
    length = tl.minimum(length, samples)
    each: tl.constexpr = 1.0 / S
    ratio = length * each
    reach = tl.maximum(ratio, 1.0)
    narrow = 1.0 / reach
    above = (2 * i + 1).to(tl.float32) * length - S
    whole = tl.floor(above * (0.5 * each))
    start = tl.floor(begin)
    part = (above - whole * (2 * S)) * (0.5 * each) + (begin - start)
    # The sum of the weights: two arithmetic series, of samples up to the place and behind it.
    distance = tl.floor(part - reach) + 1 - part
    before = tl.floor(-distance) + 1
    behind = tl.ceil(reach - (distance + before))
    total = before + behind
    total += before * (distance + (before - 1) * 0.5) * narrow
    total -= behind * (distance + before + (behind - 1) * 0.5) * narrow
    low = tl.minimum(tl.maximum(start.to(tl.int32), 0), samples - 1)
    high = tl.minimum(tl.maximum(tl.ceil(begin + length).to(tl.int32) - 1, low), samples - 1)
    from_ = tl.floor(begin + (first + 0.5) * ratio - 0.5 - reach).to(tl.int32) + 1
    to = tl.ceil(begin + (last + 0.5) * ratio - 0.5 + reach).to(tl.int32)
    return whole + (start - from_) + part, narrow, 1.0 / total, from_, to, low, high


@triton.jit
def weight(sample, place, narrow, scale):
    """Of a sample for a place: a triangle."""
    return tl.maximum(1 - tl.abs(sample - place) * narrow, 0.0) * scale


@triton.jit
def two(x):
    """Numbers as the sum of two in float16, which together have as many digits as float32 (nearly)."""
    more = x.to(tl.float16)
    return more, (x - more.to(tl.float32)).to(tl.float16)


@triton.jit
def number(x):
    """Bytes in float16: in the mantissa of 2^10, where a unit is 1. A conversion has a quarter of the rate."""
    return (x.to(tl.uint16) | 0x6400).to(tl.float16, bitcast=True) - 1024.0
