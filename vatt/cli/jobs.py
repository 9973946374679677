"""``vatt pretrain``, ``finetune``, ``evaluate``, ``report``: the programs of ``train/``, started from any folder.

The library does not know what is in ``train/``. It starts these programs as a shell would, in the place of its own
process: signals, exit status and launchers are theirs. In a checkout they lie beside the package; a wheel brings them
as ``vatt/jobs/train/`` (setup.py), which nobody imports.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from vatt.errors import UserError

# sub-command -> its program, and whether it shares its work among the GPUs of this machine
PROGRAMS = {
    "pretrain": ("pretrain.py", True),
    "finetune": ("finetune.py", True),
    "evaluate": ("evaluate.py", True),
    "report": ("report/__main__.py", False),
}
COMMAND = "VATT_COMMAND"  # tells a job how it was started, for its help
_PACKAGE = Path(__file__).resolve().parents[1]
_RANKS = ("RANK", "SLURM_PROCID")  # set by launchers, see train/core/launch.py


class NotInstalled(UserError):
    """The programs of ``train/`` are not there."""


def program(name: str, package: Path = _PACKAGE) -> Path:
    """The file of a job. Raises NotInstalled: it is neither beside the package nor in it."""
    file = PROGRAMS[name][0]
    for folder in (package / "jobs" / "train", package.parent / "train"):
        if (folder / file).is_file():
            return folder / file
    raise NotInstalled(f"vatt {name}: {package} came without the programs of train/; install the whole of vatt-torch")


def command(name: str, arguments: list[str], variables: Mapping[str, str] = os.environ) -> list[str]:
    """The words that start a job: DeepSpeed's launcher where this machine has several GPUs, so that the job takes them
    all; plain Python for one or none, below a launcher, and for help. CUDA_VISIBLE_DEVICES names fewer GPUs."""
    words = [str(program(name)), *arguments]
    told = {"-h", "--help"} & set(arguments) or any(variable in variables for variable in _RANKS)
    if PROGRAMS[name][1] and not told and _gpus() > 1:
        return [sys.executable, "-m", "deepspeed.launcher.runner", *words]
    return [sys.executable, *words]


def _gpus() -> int:
    from torch.cuda import device_count  # waits for PyTorch

    return device_count()


def start(name: str, arguments: list[str]) -> NoReturn:
    """Becomes the job. Raises NotInstalled: see `program`."""
    words = command(name, arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(words[0], words, {**os.environ, COMMAND: f"vatt {name}"})
