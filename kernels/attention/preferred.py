"""Which attention "auto" takes first, by family of device. The others follow in the order of registration.

The rows for GPUs are not measured yet: they are the project's own kernels. `bench` measures them against the others.
"""

from __future__ import annotations

from ..backends import Call
from ..devices import family

_ORDER: dict[str, tuple[str, ...]] = {
    "sm80": ("triton", "sdpa", "torch"),
    "sm90": ("triton", "sdpa", "torch"),
    "sm100": ("triton", "sdpa", "torch"),
    "interpreter": ("sdpa", "torch"),  # the CPU
}


def order(call: Call) -> tuple[str, ...]:
    return _ORDER[family(call.device)]
