"""From a model folder to a file that is checked: what ``vatt export`` does."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vatt.data.tokenizer import FILE as TOKENIZER
from vatt.errors import in_short
from vatt.export.about import KEY, about
from vatt.export.parts import ExportedPart, ExportError, example_input, is_pretrained, part_of
from vatt.files import appearing, write_bytes
from vatt.inference import load_pretrained
from vatt.json_files import read_bounded
from vatt.weights.folder import model_folder

OPSET = 18  # of ONNX: what PyTorch's exporter writes without converting
TOLERANCE = 1e-4  # between the file and the model; of outputs beyond 1, relative to the largest
_TRACED_ROWS, _CHECKED_ROWS = 2, (1, 5)  # others than it was traced with: the batch must be free
_MOST_BYTES = 2_000_000_000  # of an ONNX file in one piece
_ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
_INSTALL = "pip install 'vatt-torch[export]'"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """What was written: the file, the tokenizer beside it (of text), its metadata, and by output the largest difference
    from the model on random input."""

    file: Path
    tokenizer: Path | None
    about: dict[str, Any]
    differences: dict[str, float]


def export_part(
    folder: str | Path,
    modality: str,
    out: str | Path | None = None,
    *,
    to: Literal["onnx", "torch"] = "onnx",
    floating: bool = False,
    normalised: bool = True,
    opset: int = OPSET,
) -> Exported:
    """Writes a part of a model, reads the file again and compares it with the model on random input.

    Args:
        folder: of a model or of a run.
        modality: "video", "audio" or "text".
        out: the file; None is ``MODEL-MODALITY`` in the working directory, with the ending of the kind. A text part
            puts the tokenizer beside it, as FILE.tokenizer.json.
        to: "onnx", or "torch" for a program of torch.export.
        floating: takes pixels in [-1, 1] in place of uint8.
        normalised: see `ExportedPart`.
        opset: of ONNX.

    Raises:
        ExportError: the model has no such part, an operation cannot be exported (it is named), a package is missing, or
            the file does not compute what the model does; then no file is left.
        PretrainedError, TextError: see `vatt.inference.load_pretrained`.
    """
    if floating and modality != "video":
        raise ExportError(f"input: only video comes as uint8 or as float32; {modality} has one type")
    if not 1 <= opset <= 100:
        raise ExportError(f"opset: from 1 to 100, got {opset}")
    if to == "onnx":
        _need_packages()
    model = load_pretrained(folder, backend="torch")  # plain operations, which others know
    part = part_of(model, modality, normalised)
    words = model_folder(folder) / TOKENIZER
    content = read_bounded(words, 2**26) if modality == "text" and words.is_file() else None
    found = about(part, floating, None if content is None else hashlib.sha256(content).hexdigest())
    path = Path(f"{found['model']}-{modality}{_ENDINGS[to]}" if out is None else out)
    if path.suffix != _ENDINGS[to]:
        raise ExportError(f"out: {path}: the name of a file for {to} ends in {_ENDINGS[to]}")
    program = trace(part, example_input(part, _TRACED_ROWS, floating))
    with appearing(path) as partly:
        if to == "onnx":
            write_onnx(program, part, found, partly, opset)
            run = onnx_runner(partly, modality)
        else:
            write_torch(program, found, partly)
            run = torch_runner(partly)
        differences = compare(part, run, floating, path)
    beside = None
    if content is not None:
        beside = path.with_suffix(f".{TOKENIZER}")
        write_bytes(beside, content)
    elif modality == "text" and is_pretrained(part):
        _log.warning(
            "%s: has no %s, so the file takes the ids of a vocabulary that is not known here", folder, TOKENIZER
        )
    return Exported(path, beside, found, differences)


def trace(part: ExportedPart, x: Tensor) -> torch.export.ExportedProgram:
    """The part as a program of plain operations for any number of rows.

    Raises:
        ExportError: an operation cannot be traced, or is this project's own, which no other program knows; it is named.
    """
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(part, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # of many kinds, some of them private
        raise _refusal(part, error) from error
    for node in program.graph.nodes:
        if node.op == "call_function" and str(node.target).startswith("vatt_kernels"):
            raise ExportError(f"{part.modality}: {node.target} is an operation of this project; nobody else can run it")
    return program


def write_torch(program: torch.export.ExportedProgram, found: dict[str, Any], path: Path) -> None:
    """A program for ``torch.export.load``, with the metadata as the extra file vatt.json."""
    with path.open("wb") as file:  # of a path, the ending must be .pt2
        torch.export.save(program, file, extra_files={f"{KEY}.json": json.dumps(found)})


def write_onnx(
    program: torch.export.ExportedProgram, part: ExportedPart, found: dict[str, Any], path: Path, opset: int = OPSET
) -> None:
    """An ONNX file of one piece.

    Raises:
        ExportError: an operation has no counterpart in ONNX, or the file would be too large.
    """
    size = sum(x.numel() * x.element_size() for x in program.state_dict.values())
    if size > _MOST_BYTES:
        raise ExportError(f"{part.modality}: {size / 1e9:.1f} GB of weights do not fit into one ONNX file (2 GB)")
    names: dict[str, Any] = {"input_names": [part.modality], "output_names": list(part.outputs)}
    try:
        with torch.no_grad(), _quiet():
            made = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False, **names)
    except Exception as error:
        raise _refusal(part, error) from error
    assert made is not None
    if (written := made.model.opset_imports.get("")) != opset:  # the exporter only logs that it could not convert
        raise ExportError(f"opset: {opset}: PyTorch's exporter cannot write this model for it, only for {written}")
    made.model.metadata_props[KEY] = json.dumps(found)
    made.model.producer_name, made.model.producer_version = "vatt-torch", found["version"]
    made.save(str(path))


def torch_runner(path: Path) -> Any:
    """A program that `write_torch` wrote, as a function: an array -> arrays. Load only what you trust."""
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(x: Tensor) -> list[np.ndarray]:
        with torch.no_grad():
            return [y.numpy() for y in module(x)]

    return run


def onnx_runner(path: Path, name: str) -> Any:
    """As `torch_runner`, by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {name: x.numpy()})


def compare(part: ExportedPart, run: Any, floating: bool, path: Path) -> dict[str, float]:
    """By output the largest difference between the file and the model, on random input of several batch sizes.

    Raises:
        ExportError: it is above `TOLERANCE`, or a value is not finite.
    """
    worst = dict.fromkeys(part.outputs, 0.0)
    for rows in _CHECKED_ROWS:
        x = example_input(part, rows, floating, seed=rows)
        with torch.no_grad():
            expected = [y.numpy() for y in part(x)]
        for name, wanted, got in zip(part.outputs, expected, run(x), strict=True):
            if wanted.shape != got.shape:
                raise ExportError(f"{path}: {name} has the shape {got.shape}, the model's is {wanted.shape}")
            scale = max(1.0, float(np.abs(wanted).max()))
            difference = float(np.abs(wanted - got).max()) / scale
            if not difference <= TOLERANCE:  # also if it is not a number
                raise ExportError(
                    f"{path}: {name} differs from the model's by {difference:.2g} on random input, more than "
                    f"{TOLERANCE:g}; no file is left"
                )
            worst[name] = max(worst[name], difference)
    return worst


def _need_packages() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise ExportError(f"--to onnx: needs the package {package}: {_INSTALL}")


_OPERATION = re.compile(
    r"OpOverload\(op='([\w.]+)'|\b(?:torch\.ops\.)?((?:aten|vatt_kernels|torchvision)[.:]+\w+(?:\.\w+)?)"
)


def _refusal(part: ExportedPart, error: BaseException) -> ExportError:
    """Names the operation, which stands in the message of the first error of the chain that has one."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    for cause in reversed(causes):
        if found := _OPERATION.search(str(cause)):
            what = next(filter(None, found.groups()))
            return ExportError(f"{part.modality}: the operation {what} cannot be exported")
    first = str(error).strip().splitlines()[:1]
    return ExportError(
        f"{part.modality}: cannot be exported: {in_short(first[0] if first else type(error).__name__, 300)}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch's exporters tell of themselves: deprecations inside, packages that are not there."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
