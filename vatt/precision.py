"""The type of weights and activations by name, alike for training, evaluation and embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "bf16")


def type_of(precision: str, device: torch.device | str) -> torch.dtype:
    """bfloat16 for "bf16", and for "auto" on a GPU; else float32.

    Raises:
        ValueError: no such name.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    import torch  # here, so that commands name the precisions without waiting for it

    bf16 = precision == "bf16" or (precision == "auto" and torch.device(device).type == "cuda")
    return torch.bfloat16 if bf16 else torch.float32
