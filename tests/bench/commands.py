"""The benchmark's commands in this process: each start of Python with PyTorch takes seconds."""

from __future__ import annotations

import gc
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import NamedTuple

import pytest
import torch
import torch._dynamo  # before memory is frozen: it is large

from bench.__main__ import main


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def bench(*words: str, interpret: bool = False) -> Done:
    """``python -m bench WORDS``. ``interpret``: with Triton's interpreter, as far as it is chosen when kernels run."""
    out, err, threads = StringIO(), StringIO(), torch.get_num_threads()
    gc.collect()
    gc.freeze()  # for after each provider all is looked through that is not
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        if not interpret:
            patch.delenv("TRITON_INTERPRET", raising=False)
        code = main(words)
    torch.set_num_threads(threads)
    return Done(code, out.getvalue(), err.getvalue())
