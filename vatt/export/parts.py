"""The module of one modality that is exported: input as a user has it, named outputs.

Shapes: B windows, T frames, S side, L samples, W words, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from vatt.clip import SILENCE, InputConfig
from vatt.errors import UserError
from vatt.inference.spaces import FEATURES, MODALITIES, output_name, spaces_of
from vatt.models import VATT, Classifier
from vatt.models.config import VATTConfig
from vatt.models.positions import Positions
from vatt.models.text import WordEmbedding
from vatt.models.transformer import RelativeBias


class ExportError(UserError, ValueError):
    """A model, or a part of it, that cannot be exported. The message names the part, the file or the operation."""


class ExportedPart(nn.Module):
    """One modality of a model, in evaluation mode.

    Attributes:
        modality: also the name of the input.
        outputs: their names, in order: "to_text", "to_audio" and "to_video" are the embeddings to compare with that
            modality, "features" is the pooled output of the backbone; of a classifier "logits" and "probabilities".
    """

    def __init__(self, model: VATT | Classifier, modality: str, normalised: bool = True) -> None:
        """``normalised``: embeddings have length 1; else they are as the head gives them, for whoever takes their mean
        over the windows of a file first."""
        super().__init__()
        self.model, self.modality, self.normalised = model.eval(), modality, normalised
        self.outputs: tuple[str, ...] = ("logits", "probabilities")
        if isinstance(model, VATT):
            spaces = [space for space in spaces_of(model.config)[modality] if space != FEATURES]
            self.keys = [output_name(model.config, modality, space) for space in (*spaces, FEATURES)]
            self.outputs = (*(f"to_{space}" for space in spaces), FEATURES)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Video (B, T, S, S, 3) uint8, or floating point in [-1, 1]; waveforms (B, L) in [-1, 1]; word ids (B, W), 0 is
        padding -> the outputs, (B, D) each, float32."""
        if isinstance(self.model, Classifier):
            logits = self.model(x)
            return logits, self.model.probabilities(logits)
        found = self.model(**{self.modality: x})
        *spaces, features = (found[key].float() for key in self.keys)
        if self.normalised:
            spaces = [F.normalize(x_BD, dim=-1) for x_BD in spaces]
        return *spaces, features


def part_of(model: VATT | Classifier, modality: str, normalised: bool = True) -> ExportedPart:
    """The part of a model, ready to be traced. The model is changed: what does not depend on the input is computed once
    and stored, so that no other program resamples positions or takes logarithms of distances, with its own roundings;
    and parameters of other parts are emptied.

    Raises:
        ExportError: the model has no such part.
    """
    if isinstance(model, Classifier):
        has: tuple[str, ...] = () if model.config is None else (model.config.modality,)
        if modality not in has:
            raise ExportError(f"part: the classifier reads {' '.join(has) or 'nothing that is known'}, not {modality}")
    elif modality not in MODALITIES:
        raise ExportError(f"part: {modality!r} is not one of {', '.join(MODALITIES)}")
    part = ExportedPart(model, modality, normalised)
    x = example_input(part, 1)
    _store_constants(part, x)
    _empty_unused(part, x)
    return part.requires_grad_(False)


def example_input(part: ExportedPart, rows: int, floating: bool = False, seed: int = 0) -> Tensor:
    """A random input of ``rows`` windows, with what is rare among them: a quiet sound, a silent one, sentences with
    padding, and one without a word. ``floating``: pixels in [-1, 1] in place of uint8."""
    spec = input_of(part.model)
    draw = torch.Generator().manual_seed(seed)
    if part.modality == "video":
        shape = rows, spec.frames, spec.size, spec.size, 3
        x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
        return x.float() / 127.5 - 1 if floating else x
    if part.modality == "audio":
        x = torch.rand(rows, spec.samples, generator=draw) * 2 - 1
        x[1:2] *= 1e-3
        x[2:3] *= SILENCE
        return x
    words = next(module.weight.shape[0] for module in part.model.modules() if isinstance(module, WordEmbedding))
    ids = torch.randint(1, words, (rows, spec.words), generator=draw)
    ids[1:2, spec.words // 2 :] = 0
    ids[2:3] = 0
    return ids


@torch.no_grad()
def not_finite(part: ExportedPart, x: Tensor) -> str | None:
    """Why the outputs of an input are no numbers: the name of the first of them, and of the layer that made it so.
    None if all are finite."""
    found = [name for name, y in zip(part.outputs, part(x), strict=True) if not torch.isfinite(y).all()]
    if not found:
        return None
    first: list[str] = []

    def look(name: str, output: object) -> None:
        if not first and isinstance(output, Tensor) and output.is_floating_point() and not output.isfinite().all():
            first.append(name)

    hooks = [
        module.register_forward_hook(lambda module, args, output, name=name: look(name, output))
        for name, module in part.model.named_modules()
        if name
    ]
    try:
        part(x)
    finally:
        for hook in hooks:
            hook.remove()
    where = f", from {first[0]} on" if first else ""
    return f"the model gives values in {found[0]} that are not finite{where}"


def input_of(model: VATT | Classifier) -> InputConfig:
    """What the model reads. A part has a configuration, or `part_of` would not have made it."""
    assert model.config is not None
    return model.config.input


class _Constant(nn.Module):
    """Stands for a module whose output is the same for every input of one size."""

    rows: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)

    def forward(self, *sizes: object) -> Tensor:
        return self.rows


@torch.no_grad()
def _store_constants(part: ExportedPart, x: Tensor) -> None:
    """Puts position rows and relative biases in place of the modules that make them."""
    made: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda module, args, rows, name=name: made.__setitem__(name, rows.clone()))
        for name, module in part.named_modules()
        if isinstance(module, Positions | RelativeBias)
    ]
    try:
        part(x)
    finally:
        for hook in hooks:
            hook.remove()
    for name, rows in made.items():
        parent, _, leaf = name.rpartition(".")
        setattr(part.get_submodule(parent), leaf, _Constant(rows))


def _empty_unused(part: ExportedPart, x: Tensor) -> None:
    """Leaves nothing of the parameters that the outputs do not depend on, such as those of other modalities.

    Which these are is told by gradients of tensors without memory: those of a large model have gigabytes.
    """
    named = {name: parameter.detach().to("meta").requires_grad_() for name, parameter in part.named_parameters()}
    buffers = {name: buffer.to("meta") for name, buffer in part.named_buffers()}
    total = torch.stack([y.sum() for y in functional_call(part, {**named, **buffers}, (x.to("meta"),))]).sum()
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    for name, gradient in zip(named, gradients, strict=True):
        if gradient is None:
            parent, _, leaf = name.rpartition(".")
            setattr(part.get_submodule(parent), leaf, nn.Parameter(torch.empty(0)))


def is_pretrained(part: ExportedPart) -> bool:
    """Whether it is of a pretraining model, not of a classifier."""
    return isinstance(part.model.config, VATTConfig)
