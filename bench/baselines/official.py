"""The official TensorFlow code as a provider of steps, where a user has a checkout of it and a Python that imports it.

It is not part of the project. Its step is that of its own loop (Adam, no clipping) on random float32 pixels; its
dropout of the positions is 0.1 whatever the configuration says.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from vatt.models.config import VATTConfig
from vatt.process import Process, running

OFFICIAL = "official TensorFlow"
LIMIT = 900.0  # seconds to trace it, and for its first step


@dataclass
class Official:
    """Starts it. ``checkout``: the folder that holds its ``vatt``; ``python``: what runs it, such as a venv's."""

    checkout: str
    python: str
    _open: ExitStack = field(default_factory=ExitStack)

    def start(self, config: VATTConfig, batch: int) -> tuple[Process, str]:
        """The process after its first step, and the version of TensorFlow. Raises ProcessFailed with its last words."""
        spec, text, audio = config.input, asdict(config.text), asdict(config.waveform)
        text["d_pre_proj"], audio["temporal_patch_stride"] = text["d_model"], audio["temporal_patch_size"]
        asked: dict[str, Any] = dict(video=asdict(config.video), audio=audio, text=text, head=asdict(config.head))
        asked["shapes"] = dict(
            video=(batch, spec.frames, spec.size, spec.size, 3),
            audio=(batch, spec.samples, 1),
            text=(batch * spec.candidates, spec.words),
        )
        asked["threads"] = torch.get_num_threads()
        script = Path(__file__).with_name("official_step.py")
        command = [self.python, str(script), str(Path(self.checkout).resolve()), json.dumps(asked)]
        process = self._open.enter_context(running(command, environment={"PYTHONPATH": ""}, name=OFFICIAL))
        return process, process.ask({}, LIMIT)["tensorflow"]

    def close(self) -> None:
        """Ends its processes."""
        self._open.close()
