"""What an exported file says of itself: names and sizes of its input and outputs, and what they mean."""

from __future__ import annotations

from typing import Any

from vatt import __version__
from vatt.clip import SILENCE
from vatt.export.parts import ExportedPart, input_of
from vatt.models import Classifier

KEY = "vatt"  # of the JSON text in the metadata of an ONNX file; a torch program has it in the extra file vatt.json


def about(part: ExportedPart, floating: bool = False, tokenizer_sha256: str | None = None) -> dict[str, Any]:
    """The metadata of an exported part.

    Args:
        floating: whether it takes pixels as numbers in [-1, 1] in place of uint8.
        tokenizer_sha256: of the bytes of the tokenizer.json that makes its word ids, in hexadecimal digits.
    """
    spec, config = input_of(part.model), part.model.config
    assert config is not None
    about_input: dict[str, Any] = {"name": part.modality}
    if part.modality == "video":
        about_input |= {"shape": ["batch", spec.frames, spec.size, spec.size, 3], "channels": "RGB", "fps": spec.fps}
        about_input |= {"type": "float32", "range": [-1.0, 1.0]} if floating else {"type": "uint8", "range": [0, 255]}
    elif part.modality == "audio":
        about_input |= {"shape": ["batch", spec.samples], "type": "float32", "range": [-1.0, 1.0]}
        about_input |= {"sample_rate": spec.sample_rate, "channels": "mono", "level": spec.audio_level}
        about_input |= {"silence": SILENCE}
    else:
        about_input |= {"shape": ["batch", spec.words], "type": "int64", "words": spec.words, "padding_id": 0}
        about_input |= {"tokenizer_sha256": tokenizer_sha256}
    found = {"version": __version__, "model": config.name, "part": part.modality, "input": about_input}
    if isinstance(part.model, Classifier):
        assert part.model.config is not None
        outputs = {"labels": part.model.labels, "classes": part.model.config.classes}
        return {**found, "kind": "classifier", "outputs": list(part.outputs), **outputs}
    return {**found, "kind": "embeddings", "outputs": list(part.outputs), "normalised": part.normalised}
