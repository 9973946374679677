"""From a model folder to a file that is checked: what ``vatt export`` does."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
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
from vatt.export.parts import ExportedPart, ExportError, example_input, is_pretrained, not_finite, part_of
from vatt.extras import install
from vatt.files import appearing
from vatt.inference import load_pretrained
from vatt.json_files import read_bounded
from vatt.weights.folder import model_folder

OPSET = 18  # of ONNX: what PyTorch's exporter writes without converting
TOLERANCE = 1e-4  # between the file and the model; of outputs beyond 1, relative to the largest
_TRACED_ROWS, _CHECKED_ROWS = 2, (1, 5)  # others than it was traced with: the batch must be free
_MOST_BYTES = 2_000_000_000  # of an ONNX file in one piece
_ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
_SECONDS_A_LAYER = {"torch": 0.025, "onnx": 0.06}  # a module, traced and written: vatt-base on a core of a Xeon
_TIMES = [(10, "10 seconds"), (30, "half a minute"), (90, "a minute"), (200, "3 minutes"), (450, "7 minutes")]
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
    force: bool = False,
    tell: Callable[[str], None] = lambda line: None,
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
        force: whether a file that is there is replaced, once the new one is whole and was compared. Of text both files
            are whole before the first is renamed, the tokenizer, and the second, the model's, comes at once after it:
            a kill between the two leaves an old file beside new words. Its ``tokenizer_sha256`` is not theirs then;
            another run mends it.
        tell: is called with a line before each thing that takes its time.

    Raises:
        ExportError: the model has no such part, an operation cannot be exported (it is named), a package is missing,
            the file is there, cannot be written or would be too large, the model gives what is no number, or the file
            does not compute what the model does; then no file is left, and one that was there stays.
        PretrainedError, TextError: see `vatt.inference.load_pretrained`.
    """
    if floating and modality != "video":
        raise ExportError(f"input: only video comes as uint8 or as float32; {modality} has one type")
    if not 1 <= opset <= 100:
        raise ExportError(f"opset: from 1 to 100, got {opset}")
    if to == "onnx":
        _need_packages()
    tell(f"loading {folder}")
    model = load_pretrained(folder, backend="torch")  # plain operations, which others know
    assert model.config is not None
    path = Path(f"{model.config.name}-{modality}{_ENDINGS[to]}" if out is None else out)
    words = model_folder(folder) / TOKENIZER
    content = read_bounded(words, 2**26) if modality == "text" and words.is_file() else None
    beside = None if content is None else path.with_suffix(f".{TOKENIZER}")
    _check_out(path, to, force)
    if beside is not None and beside.exists() and not force and read_bounded(beside, 2**26) != content:
        raise ExportError(f"out: {beside}: is there already, with other words; --force writes it anew")
    part = part_of(model, modality, normalised)
    found = about(part, floating, None if content is None else hashlib.sha256(content).hexdigest())
    if to == "onnx":
        check_size(part)
    x, start = example_input(part, _TRACED_ROWS, floating), time.monotonic()
    if why := not_finite(part, x):
        raise ExportError(f"{folder}: {modality}: {why}")
    row = (time.monotonic() - start) / _TRACED_ROWS
    layers = sum(1 for _ in part.modules())
    tell(f"tracing {modality}, {layers} layers: {_about(layers * _SECONDS_A_LAYER['torch'])}")
    program = trace(part, x)
    try:  # the words are renamed first: they alone, where there was no file, are in nobody's way
        with appearing(path) as partly, nullcontext() if beside is None else appearing(beside) as partly_words:
            tell(f"writing {path}: {_about(layers * _SECONDS_A_LAYER[to])}")
            if to == "onnx":
                write_onnx(program, part, found, partly, opset)
                run = onnx_runner(partly, modality)
            else:
                write_torch(program, found, partly)
                run = torch_runner(partly)
            tell(f"comparing it with the model on random input: {_about(2 * sum(_CHECKED_ROWS) * row)}")
            differences = compare(part, run, floating, path)
            if partly_words is not None and content is not None:
                partly_words.write_bytes(content)
    except OSError as error:
        raise ExportError(f"{error.filename or path}: cannot be written: {error.strerror or error}") from error
    if content is None and modality == "text" and is_pretrained(part):
        _log.warning(
            "%s: has no %s, so the file takes the ids of a vocabulary that is not known here", folder, TOKENIZER
        )
    return Exported(path, beside, found, differences)


def _check_out(path: Path, to: str, force: bool) -> None:
    """Before minutes of work. Raises ExportError: the file cannot be written there, or is there already."""
    if path.suffix != _ENDINGS[to]:
        raise ExportError(f"out: {path}: the name of a file for {to} ends in {_ENDINGS[to]}")
    if not path.parent.is_dir():
        raise ExportError(f"out: {path}: no such folder: {path.parent}")
    if path.is_dir():
        raise ExportError(f"out: {path}: is a folder")
    if path.exists() and not force:
        raise ExportError(f"out: {path}: is there already; --force writes it anew")


def _about(seconds: float) -> str:
    """A time that was estimated, of which only the order is known."""
    return next((f"about {words}" for most, words in _TIMES if seconds <= most), "many minutes")


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
    """A program for ``torch.export.load``, with the metadata as the extra file vatt.json. Raises OSError."""
    with path.open("wb") as file:  # of a path, the ending must be .pt2
        try:
            torch.export.save(program, file, extra_files={f"{KEY}.json": json.dumps(found)})
        except RuntimeError as error:  # of PyTorch's writer of archives, whose own writes have failed
            if isinstance(cause := error.__cause__ or error.__context__, OSError):
                raise cause from error
            raise OSError(None, str(error).splitlines()[0]) from error


def check_size(part: ExportedPart) -> None:
    """Raises ExportError: its weights do not fit into an ONNX file of one piece, a message of at most 2 GiB."""
    size = sum(x.numel() * x.element_size() for x in part.state_dict().values())
    if size > _MOST_BYTES:
        raise ExportError(
            f"{part.modality}: {size / 1e9:.1f} GB of weights do not fit into one ONNX file (2 GB); a program of "
            "torch.export has no such limit: --to torch"
        )


def write_onnx(
    program: torch.export.ExportedProgram, part: ExportedPart, found: dict[str, Any], path: Path, opset: int = OPSET
) -> None:
    """An ONNX file of one piece.

    Raises:
        ExportError: an operation has no counterpart in ONNX. OSError.
    """
    names: dict[str, Any] = {"input_names": [part.modality], "output_names": list(part.outputs)}
    try:
        with torch.no_grad(), _quiet():
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                verbose=False,
                custom_translation_table=translations(program),
                **names,
            )
    except Exception as error:
        raise _refusal(part, error) from error
    assert made is not None
    if (written := made.model.opset_imports.get("")) != opset:  # the exporter only logs that it could not convert
        raise ExportError(f"opset: {opset}: PyTorch's exporter cannot write this model for it, only for {written}")
    made.model.metadata_props[KEY] = json.dumps(found)
    made.model.producer_name, made.model.producer_version = "vatt-torch", found["version"]
    made.save(str(path))


def translations(program: torch.export.ExportedProgram) -> dict[Any, Callable[..., Any]] | None:
    """For ``custom_translation_table`` of PyTorch's exporter; None where its own translation is as good.

    onnxruntime computes the operator DFT of a length that is no power of two by Bluestein's algorithm in float32: its
    error is a hundred times that of PyTorch's (1.6e-5 of the largest value at 341 samples, 2.7e-7 at 2048), and a
    log-mel spectrogram carries it to the outputs. Such a transform is written as the product with its matrix.
    """
    inner = {torch.ops.aten.fft_rfft.default, torch.ops.aten._fft_r2c.default}
    graphs = [each.graph for each in program.graph_module.modules() if isinstance(each, torch.fx.GraphModule)]
    lengths = {
        int(node.args[0].meta["val"].shape[-1])
        for node in (node for graph in graphs for node in graph.nodes)  # blocks without autocast have their own
        if node.op == "call_function" and node.target in inner
    }
    if all(length & (length - 1) == 0 for length in lengths):
        return None
    return {torch.ops.aten._fft_r2c.default: _by_matrix}


def fourier_matrix(length: int) -> np.ndarray:
    """float32 (length, 2 F) for F = length // 2 + 1 frequencies: real and imaginary parts in turns."""
    angle_LF = -2 * np.pi * np.outer(np.arange(length), np.arange(length // 2 + 1)) / length
    return np.stack([np.cos(angle_LF), np.sin(angle_LF)], axis=-1).reshape(length, -1).astype(np.float32)


def _by_matrix(x: Any, dim: Sequence[int], normalization: int, onesided: bool) -> Any:
    """(..., L) -> (..., F, 2), as the exporter keeps complex numbers."""
    import onnxscript

    op: Any = onnxscript.opset18
    axes, rank = [int(axis) for axis in dim], len(x.shape)
    if axes not in ([-1], [rank - 1]) or normalization != 0 or not onesided:
        raise ValueError("aten._fft_r2c of another axis than the last, normalised, or of both sides")
    length = int(x.shape[-1])
    matrix = op.Constant(value=onnxscript.ir.tensor(fourier_matrix(length), name=f"fourier_{length}"))
    sizes = op.Constant(value_ints=[0] * (rank - 1) + [length // 2 + 1, 2])  # 0 keeps a size: the batch stays free
    return op.Reshape(op.MatMul(x, matrix), sizes)


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
            raise ExportError(f"--to onnx: needs the package {package}: {install('export')}")


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
