"""The shapes at which the operations are measured: those of the models in training, and tiny ones for a CPU.

Tokens, widths and heads are those of the presets (`vatt.presets`); a test compares them with
`vatt.analysis.flops.tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch

HEAD_DIM = 64


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One call of one operation. ``priority`` 1 for shapes that have a target in bench/LOG.md, 2 for others."""

    op: ClassVar[str] = ""
    has_dropout: ClassVar[bool] = True
    backends: ClassVar[tuple[str, ...]] = ("triton",)  # those with kernels of this project
    name: str
    priority: int = 2
    dtype: torch.dtype = torch.bfloat16


@dataclass(frozen=True, kw_only=True)
class PatchShape(Shape):
    """``signal`` is (B, T, H, W, 3) in uint8 or (B, L) in floating point; ``kept`` of its patches become tokens."""

    op: ClassVar[str] = "patch_embed"
    signal: tuple[int, ...]
    patch: tuple[int, ...]
    kept: int
    width: int

    @property
    def pixels(self) -> bool:
        return len(self.signal) == 5


@dataclass(frozen=True, kw_only=True)
class AttentionShape(Shape):
    """``text``: with a key mask and T5's bias, and scores that are not scaled."""

    op: ClassVar[str] = "attention"
    batch: int
    length: int
    heads: int
    head_dim: int = HEAD_DIM
    text: bool = False

    @property
    def scale(self) -> float:
        return 1.0 if self.text else self.head_dim**-0.5


@dataclass(frozen=True, kw_only=True)
class NormShape(Shape):
    """Residual sum and layer norm, or RMS norm if not ``centred``."""

    op: ClassVar[str] = "norm"
    rows: int
    width: int
    centred: bool = True


@dataclass(frozen=True, kw_only=True)
class MlpShape(Shape):
    op: ClassVar[str] = "mlp"
    backends: ClassVar[tuple[str, ...]] = ("triton", "triton_gemm")
    rows: int
    width: int

    @property
    def inner(self) -> int:
        return 4 * self.width


@dataclass(frozen=True, kw_only=True)
class BlockShape(Shape):
    """One pre-norm layer of the encoder (`vatt.models.transformer.EncoderLayer`)."""

    op: ClassVar[str] = "block"
    batch: int
    length: int
    width: int
    heads: int


@dataclass(frozen=True, kw_only=True)
class NceShape(Shape):
    """``videos`` against ``candidates`` texts (or one sound) each, on one rank: local rows are all rows."""

    op: ClassVar[str] = "nce"
    has_dropout: ClassVar[bool] = False
    videos: int
    candidates: int
    width: int
    temperature: float = 0.07


_VIDEO = dict(signal=(64, 32, 224, 224, 3), patch=(4, 16, 16), kept=784)
_AUDIO = dict(signal=(64, 153600), patch=(128,), kept=600)
_F32 = torch.float32

# The loss casts its rows to float32 (vatt/objectives/contrastive.py), so float32 is what training runs;
# bfloat16 is what it could run.
REAL: tuple[Shape, ...] = (
    PatchShape(name="video_768", priority=1, width=768, **_VIDEO),  # type: ignore[arg-type]
    AttentionShape(name="video_785_h12", priority=1, batch=64, length=785, heads=12),
    AttentionShape(name="audio_601_h12", priority=1, batch=64, length=601, heads=12),
    AttentionShape(name="finetune_3201_h12", priority=1, batch=8, length=3201, heads=12),
    BlockShape(name="video_785_768", priority=1, batch=64, length=785, width=768, heads=12),
    NceShape(name="mil_32768x5_f32", priority=1, videos=32768, candidates=5, width=256, dtype=_F32),
    NceShape(name="mil_32768x5_bf16", priority=1, videos=32768, candidates=5, width=256),
    NormShape(name="layer_768", priority=1, rows=64 * 785, width=768),
    MlpShape(name="video_768", priority=1, rows=64 * 785, width=768),
    AttentionShape(name="text_17_h8", priority=1, batch=320, length=17, heads=8, text=True),
    PatchShape(name="audio_768", width=768, **_AUDIO),  # type: ignore[arg-type]
    PatchShape(name="video_1024", width=1024, **_VIDEO),  # type: ignore[arg-type]
    BlockShape(name="video_785_1024", batch=64, length=785, width=1024, heads=16),
    BlockShape(name="audio_601_768", batch=64, length=601, width=768, heads=12),
    AttentionShape(name="video_785_h16", batch=64, length=785, heads=16),
    AttentionShape(name="audio_601_h16", batch=64, length=601, heads=16),
    AttentionShape(name="finetune_3201_h16", batch=8, length=3201, heads=16),
    NceShape(name="mil_4096x5_f32", videos=4096, candidates=5, width=256, dtype=_F32),
    NceShape(name="mil_4096x5_bf16", videos=4096, candidates=5, width=256),
    NceShape(name="va_4096_f32", videos=4096, candidates=1, width=512, dtype=_F32),
    NceShape(name="va_32768_f32", videos=32768, candidates=1, width=512, dtype=_F32),
    NormShape(name="layer_1024", rows=64 * 785, width=1024),
    NormShape(name="layer_512", rows=64 * 785, width=512),
    NormShape(name="rms_512", rows=320 * 17, width=512, centred=False),
    MlpShape(name="video_1024", rows=64 * 785, width=1024),
    MlpShape(name="text_512", rows=320 * 17, width=512),
    AttentionShape(name="video_785_h8", batch=64, length=785, heads=8),
)

TINY: tuple[Shape, ...] = (
    PatchShape(name="video", priority=1, signal=(2, 4, 8, 8, 3), patch=(2, 4, 4), kept=5, width=16, dtype=_F32),
    AttentionShape(name="video", priority=1, batch=1, length=18, heads=1, head_dim=16, dtype=_F32),
    BlockShape(name="video", priority=1, batch=1, length=5, width=16, heads=1, dtype=_F32),
    NceShape(name="mil", priority=1, videos=6, candidates=3, width=16, dtype=_F32),
    NormShape(name="layer", priority=1, rows=7, width=24, dtype=_F32),
    MlpShape(name="video", priority=1, rows=7, width=16, dtype=_F32),
    AttentionShape(name="text", batch=2, length=7, heads=1, head_dim=16, text=True, dtype=_F32),
    PatchShape(name="audio", signal=(2, 70), patch=(8,), kept=4, width=32, dtype=_F32),
    NormShape(name="rms", rows=5, width=16, centred=False, dtype=_F32),
)

# For a processor of a few cores: the sizes of vatt-base with few clips, so that a call takes from 1 ms to 1 s.
CPU: tuple[Shape, ...] = (
    PatchShape(
        name="video_768", priority=1, signal=(2, 32, 224, 224, 3), patch=(4, 16, 16), kept=784, width=768, dtype=_F32
    ),
    AttentionShape(name="video_785_h12", priority=1, batch=1, length=785, heads=12, dtype=_F32),
    BlockShape(name="video_785_768", priority=1, batch=1, length=785, width=768, heads=12, dtype=_F32),
    NceShape(name="mil_512x5", priority=1, videos=512, candidates=5, width=256, dtype=_F32),
    NormShape(name="layer_768", priority=1, rows=4 * 785, width=768, dtype=_F32),
    MlpShape(name="video_768", priority=1, rows=785, width=768, dtype=_F32),
    AttentionShape(name="text_17_h8", batch=40, length=17, heads=8, text=True, dtype=_F32),
    PatchShape(name="audio_768", signal=(4, 153600), patch=(128,), kept=600, width=768, dtype=_F32),
)

SIZES = {"tiny": TINY, "cpu": CPU, "gpu": REAL}
OPS = tuple(dict.fromkeys(shape.op for shape in REAL))


def shapes(size: str, ops: tuple[str, ...] = OPS) -> list[Shape]:
    """The shapes of the named operations at a size of `SIZES`, the most important first."""
    return sorted((shape for shape in SIZES[size] if shape.op in ops), key=lambda shape: shape.priority)


def words(shape: Shape) -> str:
    """A shape in words: its fields but the name, the priority and the type."""
    rest = {f.name: getattr(shape, f.name) for f in fields(shape) if f.name not in ("name", "priority", "dtype")}
    return ", ".join(f"{name} {value}" for name, value in rest.items() if value is not False)
