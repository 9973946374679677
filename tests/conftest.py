"""Without a GPU, Triton's kernels run in its interpreter. Triton reads this variable when it is imported.

Under ``pytest -n`` the processes share the cores: each computes on one.
"""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
