"""Frames of a scene: an anti-aliased shape over a textured background, in numpy.

Frame by frame, and the thing only inside its bounding box: arrays that stay in the cache are several times faster.

Shapes: T frames, S frame side, 3 colour planes (first while drawing: long inner loops). Coordinates run from -1 (left,
top) to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vatt.sample.scene import Scene, motion_of

RGB = {
    "red": (225, 30, 35),
    "orange": (250, 130, 10),
    "yellow": (245, 230, 30),
    "green": (30, 180, 45),
    "cyan": (30, 215, 220),
    "blue": (40, 65, 235),
    "pink": (240, 80, 200),
    "white": (250, 250, 250),
}
_REACH = 1.25  # in radii; the farthest corner of a shape, the square's, lies at 1.19
_MARK = np.array([25, 25, 30], np.float32)[:, None, None]


def frames_TSS3(scene: Scene, frames: int, fps: int, side: int) -> np.ndarray:
    """The video, uint8 (T, S, S, 3)."""
    rng, look = np.random.default_rng([scene.seed, 2]), scene.look
    time = np.arange(frames) / fps
    axis = ((np.arange(side) + 0.5) * (2 / side) - 1).astype(np.float32)
    background = _background(scene.background, axis, rng)
    path = motion_of(scene).path(time)
    radius = look.radius[scene.size] * rng.uniform(*look.spread) * path.scale
    colour_311 = np.array(RGB[scene.colour], np.float32)[:, None, None] * np.float32(rng.uniform(*look.light))
    if look.tint:
        colour_311 = np.clip(colour_311 + rng.uniform(-look.tint, look.tint, (3, 1, 1)).astype(np.float32), 0, 255)
    video = np.empty((frames, side, side, 3), np.uint8)
    for t in range(frames):
        picture = background(float(time[t]))
        centre = float(path.x[t]), float(path.y[t])  # plain floats, which leave float32 arrays float32
        _thing(picture, axis, scene.shape, colour_311, centre, float(radius[t]), float(path.angle[t]))
        video[t] = np.clip(picture + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return video


def _thing(
    picture_3SS: np.ndarray,
    axis: np.ndarray,
    shape: str,
    colour_311: np.ndarray,
    centre: tuple[float, float],
    radius: float,
    angle: float,
) -> None:
    """Paints the thing and its mark into the picture, in place."""
    x, y = centre
    columns, rows = (slice(*np.searchsorted(axis, (at - _REACH * radius, at + _REACH * radius))) for at in (x, y))
    dx, dy = (axis[None, columns] - x) / radius, (axis[rows, None] - y) / radius
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    pixel = 2 / len(axis) / radius
    patch = picture_3SS[:, rows, columns]
    _blend(patch, _distance(shape, u, v), pixel, colour_311)
    # a dark mark off the centre, so that a circle can be seen to turn
    _blend(patch, np.hypot(u - 0.72, v) - 0.17, pixel, _MARK)


def _blend(patch: np.ndarray, distance: np.ndarray, pixel: float, colour: np.ndarray) -> None:
    """Paints ``colour`` where the distance is negative, with an edge one pixel wide; in place."""
    cover = np.clip(0.5 - distance * np.float32(1 / pixel), 0, 1)
    patch += cover * (colour - patch)


def _distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance (near the edge) to the outline of a shape of radius 1; negative inside."""
    if shape == "circle":
        return np.hypot(u, v) - 0.95
    if shape == "ring":
        return np.abs(np.hypot(u, v) - 0.72) - 0.26
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.84
    if shape == "cross":
        narrow, wide = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
        return np.maximum(narrow - 0.3, wide - 0.98)
    if shape == "triangle":
        return np.maximum(np.abs(u) * 0.866 + v * -0.5, v) - 0.52
    if shape == "star":
        angle = np.arctan2(u, -v)
        folded = np.abs((angle / (np.pi / 5) + 1) % 2 - 1)  # 0 in a notch, 1 at a tip
        return np.hypot(u, v) - (0.42 + 0.66 * (1 - folded) ** 1.4)
    raise ValueError(f"shape: {shape!r} is unknown")


def _background(kind: str, axis: np.ndarray, rng: np.random.Generator) -> Callable[[float], np.ndarray]:
    """A texture between two muted colours, still or scrolling: a function from the time to float32 (3, S, S)."""
    middle = (rng.uniform(60, 130) + rng.uniform(-14, 14, (3, 1, 1))).astype(np.float32)
    contrast = (rng.uniform(12, 26) + rng.uniform(-5, 5, (3, 1, 1))).astype(np.float32)
    speed = rng.choice([0.0, 0.15, 0.3]) * rng.choice([-1, 1])
    texture = _noise(axis, rng) if kind == "noise" else _pattern(kind, axis, rng)

    def coloured(time: float) -> np.ndarray:
        return middle + texture(speed * time) * contrast

    still = coloured(0.0)
    return coloured if speed else lambda time: still.copy()


def _pattern(kind: str, axis: np.ndarray, rng: np.random.Generator) -> Callable[[float], np.ndarray]:
    """A periodic texture at any angle: a function from the way that it has scrolled to values in -1 to 1, (S, S)."""
    turn, scale = rng.uniform(0, np.pi), np.float32(rng.uniform(3, 6))
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))

    def texture(scrolled: float) -> np.ndarray:
        x, y = axis[None, :] + np.float32(scrolled), axis[:, None]
        along, across = (cos * x + sin * y) * scale, (cos * y - sin * x) * scale
        if kind == "stripes":
            return np.sin(np.float32(np.pi) * along)
        if kind == "checks":
            return np.where((along % 2 < 1) == (across % 2 < 1), np.float32(1), np.float32(-1))
        if kind == "dots":
            return np.where(np.hypot(along % 2 - 1, across % 2 - 1) < 0.55, np.float32(1), np.float32(-0.6))
        if kind == "gradient":
            return np.sin(np.float32(np.pi / 2) / scale * along)
        raise ValueError(f"background: {kind!r} is unknown")

    return texture


def _noise(axis: np.ndarray, rng: np.random.Generator) -> Callable[[float], np.ndarray]:
    """Smooth noise, as ``_pattern``; it scrolls by whole pixels and comes in again at the other side."""
    side = len(axis)
    cells = -(-side // 4)
    coarse = rng.uniform(-1, 1, (cells, cells)).repeat(4, 0).repeat(4, 1)[:side, :side]
    smooth = sum(np.roll(coarse, (i, j), (0, 1)) for i in range(4) for j in range(4)) / np.float32(8)
    smooth = np.clip(smooth, -1, 1).astype(np.float32)
    return lambda scrolled: np.roll(smooth, round(scrolled * side / 2), 1)
