"""Frames of a scene: an anti-aliased shape over a textured background, in numpy.

Shapes: T frames, S frame side. Coordinates run from -1 (left, top) to 1.
"""

from __future__ import annotations

import numpy as np

from vatt.sample.motion import motion_of
from vatt.sample.scene import Scene

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
PI = np.float32(np.pi)
RADIUS = {"small": 0.30, "large": 0.46}


def frames_TSS3(scene: Scene, frames: int, fps: int, side: int) -> np.ndarray:
    """The video, uint8 (T, S, S, 3)."""
    rng = np.random.default_rng([scene.seed, 2])
    time = np.arange(frames) / fps
    axis = ((np.arange(side) + 0.5) * (2 / side) - 1).astype(np.float32)
    picture = _background(scene.background, time, axis, rng)
    path = motion_of(scene).path(time)
    radius = RADIUS[scene.size] * rng.uniform(0.92, 1.08)
    cos, sin = np.cos(path.angle).astype(np.float32), np.sin(path.angle).astype(np.float32)
    size = (radius * path.scale).astype(np.float32)
    x_T1S = (axis[None, None] - path.x[:, None, None].astype(np.float32)) / size[:, None, None]
    y_TS1 = (axis[None, :, None] - path.y[:, None, None].astype(np.float32)) / size[:, None, None]
    u_TSS = x_T1S * cos[:, None, None] + y_TS1 * sin[:, None, None]
    v_TSS = y_TS1 * cos[:, None, None] - x_T1S * sin[:, None, None]
    pixel = (2 / side / size)[:, None, None]
    colour = np.array(RGB[scene.colour], np.float32) * rng.uniform(0.88, 1.0)
    _blend(picture, _distance(scene.shape, u_TSS, v_TSS), pixel, colour)
    # a dark mark off the centre, so that a circle can be seen to turn
    mark = np.hypot(u_TSS - 0.72, v_TSS) - 0.17
    _blend(picture, mark, pixel, np.array([25, 25, 30], np.float32))
    return (np.clip(picture, 0, 255) + 0.5).astype(np.uint8)


def _blend(picture: np.ndarray, distance: np.ndarray, pixel: np.ndarray, colour: np.ndarray) -> None:
    """Paints ``colour`` where the distance is negative, with an edge one pixel wide."""
    cover = np.clip(0.5 - distance / pixel, 0, 1)[..., None]
    picture += cover * (colour - picture)


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


def _background(kind: str, time: np.ndarray, axis: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A texture between two muted colours, still or scrolling: float32 (T, S, S, 3)."""
    middle = rng.uniform(60, 130) + rng.uniform(-14, 14, 3)
    contrast = rng.uniform(12, 26) + rng.uniform(-5, 5, 3)
    speed = rng.choice([0.0, 0.15, 0.3]) * rng.choice([-1, 1])
    turn, scale = rng.uniform(0, np.pi), np.float32(rng.uniform(3, 6))
    moments = time if speed else time[:1]  # a still background is drawn once
    x = axis[None, None, :] + (speed * moments)[:, None, None].astype(np.float32)
    y = axis[None, :, None]
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along, across = (cos * x + sin * y) * scale, (cos * y - sin * x) * scale
    if kind == "stripes":
        value = np.sin(PI * along)
    elif kind == "checks":
        value = np.sign(np.sin(PI * along) * np.sin(PI * across))
    elif kind == "dots":
        value = np.where(np.hypot(along % 2 - 1, across % 2 - 1) < 0.55, 1.0, -0.6)
    elif kind == "gradient":
        value = np.sin(0.5 * PI / scale * along)
    elif kind == "noise":
        value = _noise(rng, len(axis), len(time), speed)
    else:
        raise ValueError(f"background: {kind!r} is unknown")
    value = np.broadcast_to(value, (len(time), len(axis), len(axis))).astype(np.float32)
    return middle.astype(np.float32) + value[..., None] * contrast.astype(np.float32)


def _noise(rng: np.random.Generator, side: int, frames: int, speed: float) -> np.ndarray:
    """Smooth noise, shifted sideways from frame to frame when ``speed`` is not 0."""
    coarse = rng.uniform(-1, 1, (side // 4, side // 4)).repeat(4, 0).repeat(4, 1)
    coarse = np.pad(coarse, ((0, side - len(coarse)), (0, side - len(coarse))), mode="edge")
    smooth = sum(np.roll(coarse, (i, j), (0, 1)) for i in range(4) for j in range(4)) / 8
    shifts = np.rint(np.arange(frames) * speed * 2).astype(int)
    return np.stack([np.roll(smooth, shift, 1) for shift in shifts]) if speed else smooth[None]
