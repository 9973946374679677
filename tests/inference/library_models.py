"""A tiny model of random weights in a folder, as a run leaves it, and small real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.data.media import write
from vatt.data import Tokenizer
from vatt.models import VATT, Classifier, ClassifierConfig
from vatt.models.config import VATTConfig
from vatt.presets import preset
from vatt.weights.folder import save_pretrained
from vatt.weights.restore import backbone_config

WORDS = "a red blue circle square star moves left right up spins the here in of"


def small_config(name: str = "vatt-tiny", head: str = "fac") -> VATTConfig:
    config = preset(name)
    config.head.kind = head  # type: ignore[assignment]
    config.head.d_va, config.head.d_vat = 12, 8
    spec = config.input
    spec.frames, spec.fps, spec.size, spec.words, spec.sample_rate = 4, 2.0, 32, 6, 8000
    config.text.vocab_size = config.unified.txt_vocab_size = 40
    for section in (config.video, config.waveform, config.spectrogram, config.text, config.unified):
        section.num_layers, section.d_model, section.d_kv, section.d_ff, section.num_heads = 1, 16, 8, 32, 2
    return config


def lively(model: nn.Module) -> nn.Module:
    """Weights so large that the output depends on the input; as they begin, all inputs give almost the same."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 3.0 if "tokens" in name or "embedding" in name else 0.5)
    return model


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal but for the last rounding: of models in float64 (``model.double()``), so that no CPU adds up otherwise."""
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-5, rtol=0)


def save_model(folder: Path, config: VATTConfig | None = None, tokenizer: bool = True) -> Path:
    """A model whose batch norms have statistics, so that evaluation differs from training."""
    torch.manual_seed(0)
    model = lively(VATT(config or small_config()))
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    save_pretrained(model, folder)
    if tokenizer:
        Tokenizer.train([WORDS]).save(folder)
    return folder


def save_classifier(folder: Path, modality: str = "video", labels: str = "single") -> Path:
    source = small_config()
    config = ClassifierConfig(
        name="c",
        modality=modality,  # type: ignore[arg-type]
        input=source.input,
        num_classes=3,
        classes=["left", "right", "up"],
        labels=labels,  # type: ignore[arg-type]
    )
    setattr(config, "video" if modality == "video" else "waveform", backbone_config(source, modality))
    torch.manual_seed(0)
    save_pretrained(lively(Classifier.from_config(config)), folder)
    return folder


def media(folder: Path, count: int = 4, seconds: float = 3.0) -> list[Path]:
    """Videos with sound, each of noise of its own, in ``folder``."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        frames = rng.integers(0, 255, (round(seconds * 4), 1, 1, 3), np.uint8).repeat(32, 1).repeat(48, 2)
        sound = rng.uniform(-0.5, 0.5, round(seconds * 8000)).astype(np.float32)
        paths.append(write(folder / f"{number}.mp4", frames, fps=4, sound=sound, rate=8000))
    return paths
