"""One kernel: decoded planes to patches of RGB.

A clip lies as (T, C) bytes; a frame is its planes Y (h x w), U and V (each ceil(h / 2) x ceil(w / 2)), h and w of each
clip being in a table. Shapes: B clips, T frames, S side of the picture, K kept patches, P numbers in a patch.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def frames_to_patches_forward(
    planes_ptr,  # (B, T, C) uint8
    sizes_ptr,  # (B, 2) integers: h, w
    crop_ptr,  # (B, 4) float32: top, left, height, width
    flip_ptr,  # (B,) uint8
    colour_ptr,  # (B, 3, 4) float32
    kept_ptr,  # (K,) int64, (B, K) if PER_ITEM, or None without KEPT
    out_ptr,  # (B, K, P) uint8, written
    T,
    C,
    K,
    S,
    N,  # patches of a clip
    GH,  # patches along H
    GW,  # patches along W
    KEPT: tl.constexpr,
    PER_ITEM: tl.constexpr,
    PT: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """A program: one patch, whose places and weights all its frames share."""
    b, k = (tl.program_id(0) // K).to(tl.int64), tl.program_id(0) % K
    index = k
    if KEPT:
        index = tl.load(kept_ptr + (b * K + k if PER_ITEM else k)).to(tl.int32)
        index = tl.minimum(tl.maximum(index, 0), N - 1)
    h, w = tl.load(sizes_ptr + 2 * b).to(tl.int32), tl.load(sizes_ptr + 2 * b + 1).to(tl.int32)
    # Sizes that do not fit into a frame would be read outside of it.
    fits = (h > 0) & (w > 0) & (h <= C) & (w <= C)
    fits = fits & (h.to(tl.int64) * w + 2 * ((h.to(tl.int64) + 1) // 2 * ((w + 1) // 2)) <= C)
    h, w = tl.where(fits, h, 1), tl.where(fits, w, 1)
    half_h, half_w = (h + 1) // 2, (w + 1) // 2
    # Padding of a block repeats the last pixel, so that it needs no mask.
    t, y = tl.minimum(tl.arange(0, BLOCK_T), PT - 1), tl.minimum(tl.arange(0, BLOCK_H), PH - 1)
    x = tl.minimum(tl.arange(0, BLOCK_W), PW - 1)
    y += index // GW % GH * PH
    x += index % GW * PW
    x = tl.where(tl.load(flip_ptr + b) != 0, S - 1 - x, x)
    first = planes_ptr + (b * T + index // GW // GH * PT) * C
    frames = first + t * C
    box = crop_ptr + 4 * b
    top, left, height, width = tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3)

    rows, from_row, reach_y, taps_y, scale_y, low_y, high_y = places(y, top, height, S, h)
    columns, from_column, reach_x, taps_x, scale_x, low_x, high_x = places(x, left, width, S, w)
    luma = tl.zeros([BLOCK_T, BLOCK_H, BLOCK_W], tl.float32)
    for j in range(taps_y):
        line = tl.zeros([BLOCK_T, BLOCK_H, BLOCK_W], tl.float32)
        row = tl.minimum(tl.maximum(rows + j, low_y), high_y) * w
        for i in range(taps_x):
            column = tl.minimum(tl.maximum(columns + i, low_x), high_x)
            pixels = frames[:, None, None] + (row[:, None] + column[None, :])[None, :, :]
            line += weight(from_column + i, reach_x, scale_x)[None, None, :] * number(tl.load(pixels))
        luma += weight(from_row + j, reach_y, scale_y)[None, :, None] * line

    rows, from_row, reach_y, taps_y, scale_y, low_y, high_y = places(y, top * 0.5, height * 0.5, S, half_h)
    columns, from_column, reach_x, taps_x, scale_x, low_x, high_x = places(x, left * 0.5, width * 0.5, S, half_w)
    frames += h * w
    u, v = tl.zeros_like(luma), tl.zeros_like(luma)
    for j in range(taps_y):
        line_u, line_v = tl.zeros_like(luma), tl.zeros_like(luma)
        row = tl.minimum(tl.maximum(rows + j, low_y), high_y) * half_w
        for i in range(taps_x):
            column = tl.minimum(tl.maximum(columns + i, low_x), high_x)
            pixels = frames[:, None, None] + (row[:, None] + column[None, :])[None, :, :]
            share = weight(from_column + i, reach_x, scale_x)[None, None, :]
            line_u += share * number(tl.load(pixels))
            line_v += share * number(tl.load(pixels + half_h * half_w))
        share = weight(from_row + j, reach_y, scale_y)[None, :, None]
        u += share * line_u
        v += share * line_v

    t, y, x = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_W)
    inside = (t < PT)[:, None, None] & (y < PH)[None, :, None] & (x < PW)[None, None, :]
    pixel = (t[:, None, None] * PH + y[None, :, None]) * PW + x[None, None, :]
    out = out_ptr + tl.program_id(0).to(tl.int64) * (PT * PH * PW * 3) + 3 * pixel
    for c in tl.static_range(3):
        mix = colour_ptr + 12 * b + 4 * c
        level = tl.load(mix) * luma + tl.load(mix + 1) * u + tl.load(mix + 2) * v + tl.load(mix + 3)
        # Rounded to even by adding 2^23, whose last bit is worth 1. A conversion has a quarter of the rate.
        level = tl.minimum(tl.maximum(level, 0.0), 255.0) + 8388608.0
        tl.store(out + c, level.to(tl.int32, bitcast=True).to(tl.uint8), mask=inside)


@triton.jit
def places(i, begin, length, S, samples):
    """Where the outputs ``i`` of an axis lie in a plane: the first sample that counts for each, how far it is from the
    output's place, half of the triangle's width, how many samples count at most, the factor that makes their weights
    1 in sum, and the first and last sample of the crop.

    A place is begin + (i + 0.5) * length / S - 0.5. Its whole part is taken out before the division, which leaves the
    fraction all digits of float32."""
    length = tl.minimum(length, samples)
    reach = tl.maximum(length / S, 1.0)
    above = (2 * i + 1).to(tl.float32) * length - S
    whole = tl.floor(above / (2 * S))
    start = tl.floor(begin)
    fraction = (above - whole * (2 * S)) / (2 * S) + (begin - start)
    first = tl.floor(fraction - reach) + 1
    taps = tl.ceil(2 * reach).to(tl.int32)
    total = tl.zeros_like(first)
    for j in range(taps):
        total += weight(first - fraction + j, reach, 1.0)
    low = tl.minimum(tl.maximum(start.to(tl.int32), 0), samples - 1)
    high = tl.minimum(tl.maximum(tl.ceil(begin + length).to(tl.int32) - 1, low), samples - 1)
    return (whole + start + first).to(tl.int32), first - fraction, reach, taps, 1 / total, low, high


@triton.jit
def weight(distance, reach, scale):
    """The triangle."""
    return tl.maximum(1 - tl.abs(distance) / reach, 0.0) * scale


@triton.jit
def number(x):
    """Bytes as float32: in the mantissa of 2^23, where a unit is 1. A conversion has a quarter of the rate."""
    return (x.to(tl.uint32) | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0
