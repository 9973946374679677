"""Which attention "auto" takes first, by family of device. The others follow in the order of registration.

The rows for GPUs are not measured yet: they are the project's own kernels. `bench` measures them against the others.
"""

from __future__ import annotations

from ..registry import Call
from ..runtime import family

_ORDER: dict[str, tuple[str, ...]] = {
    "sm80": ("triton", "sdpa", "torch"),
    "sm90": ("triton", "sdpa", "torch"),
    "sm100": ("triton", "sdpa", "torch"),
    "interpreter": ("sdpa", "torch"),  # the CPU
}


# With dropout PyTorch's SDPA has no fused way on a CPU, and is slower there than the plain operations (measured: the
# rows "attention video_785_h12" of bench/results/results.csv).
_CPU_DROPOUT = ("torch", "sdpa")


def order(call: Call) -> tuple[str, ...]:
    of = family(call.device)
    return _CPU_DROPOUT if of == "interpreter" and call.facts.get("dropout") else _ORDER[of]
