"""safetensors files, written and read one tensor at a time, with a checksum inside.

``safetensors.torch.save_file`` needs all tensors at once, and its files let in nobody but their owner. Any reader of
safetensors reads these. Their metadata holds the SHA-256 of the file, taken with zeros in its place: it goes where the
file goes, and finds flipped bits, zeroed blocks and pieces of other files. A file without one is read as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vatt.errors import UserError

CHECKSUM = "sha256"
_BLANK = "0" * 64
_CHUNK = 1 << 20  # bytes that are read at a time
_LARGEST_HEADER = 100_000_000  # as in safetensors
_NAMES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"},
    torch.bool: "BOOL",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}


class TensorFileError(UserError, ValueError):
    """A file of tensors that cannot be used. The message names the file."""


class NotFiniteTensor(UserError, ValueError):
    """A tensor holds NaN or infinity. The message names it."""


class Spec(NamedTuple):
    """What a tensor is like."""

    dtype: torch.dtype
    shape: torch.Size


class Tensors:
    """Tensors by name, of which one at a time is made; each once, in the order of a file.

    Attributes:
        specs: of all of them, known before any is made.
    """

    def __init__(self, specs: Mapping[str, Spec], make: Callable[[str], Tensor]) -> None:
        """``make``: is called once for each name; where several processes take part, in all in the same order."""
        self.specs = dict(sorted(specs.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))  # aligned
        self._stream = ((name, make(name)) for name in self.specs)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Tensors:
        """Those of a dictionary."""
        return cls({name: Spec(x.dtype, x.shape) for name, x in tensors.items()}, tensors.__getitem__)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self._stream

    def skip(self) -> None:
        """Makes those that nobody has asked for: the other processes wait for this one's part in them."""
        for _ in self._stream:
            pass

    @property
    def bytes(self) -> int:
        """Of all together."""
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.specs.values())


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises NotFiniteTensor: it holds NaN or infinity.

    A finite sum says that all are, and is quick. That of large numbers may overflow: they are looked at one by one.
    """
    if not tensor.is_floating_point() or math.isfinite(tensor.detach().sum().item()):
        return
    if bad := tensor.numel() - int(torch.isfinite(tensor).sum()):
        raise NotFiniteTensor(f"{name} holds values that are not finite ({bad:,} of {tensor.numel():,})")


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> str:
    """Writes a file, holding one tensor at a time. Returns its checksum, the SHA-256 that its metadata holds.

    Raises:
        NotFiniteTensor: one of them is not finite; the file is not whole then. OSError.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {}), CHECKSUM: _BLANK}}
    end = 0
    for name, (dtype, shape) in tensors.specs.items():
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:

        def write(content: bytes | memoryview) -> None:
            digest.update(content)
            file.write(content)

        write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors:
            if Spec(tensor.dtype, tensor.shape) != tensors.specs[name]:
                raise ValueError(f"{name}: {tensor.dtype} {tuple(tensor.shape)}, expected {tensors.specs[name]}")
            check_finite(name, tensor)
            write(_bytes(tensor))
        checksum = digest.hexdigest()
        file.seek(8 + text.index(f'"{CHECKSUM}":"{_BLANK}"'.encode()) + len(CHECKSUM) + 4)
        file.write(checksum.encode())
    return checksum


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a file. Each is read when it is asked for, and is then this caller's own.

    Attributes:
        specs: of all of them.
        metadata: as it was written.
        checksum: that the file agrees with; None: it has none.
    """

    def __init__(self, path: Path) -> None:
        """Checks the file as a whole. Raises TensorFileError: it cannot be read, is damaged, or not finite."""
        self.path = path
        self.checksum = _check(path)
        try:
            self._file = safe_open(path, "pt")
            self.metadata: dict[str, str] = self._file.metadata() or {}
            slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118
            self.specs = {name: Spec(_type(x.get_dtype()), torch.Size(x.get_shape())) for name, x in slices.items()}
            for name in self.specs:
                check_finite(name, self[name])
        except (OSError, SafetensorError) as error:
            raise TensorFileError(f"{path}: cannot be read: {_reason(error)}") from error
        except ValueError as error:
            raise TensorFileError(f"{path}: {error}") from error

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.specs:
            raise KeyError(name)
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _type(name: str) -> torch.dtype:
    if name not in _TYPES:
        raise ValueError(f"holds a tensor of type {name}, which is of no model here")
    return _TYPES[name]


def _check(path: Path) -> str | None:
    """The checksum that a file agrees with, or None if it holds none."""
    try:
        with path.open("rb") as file:
            size = file.read(8)
            length = int.from_bytes(size, "little")
            header = file.read(min(length, _LARGEST_HEADER))
            found = re.search(rb'"%s":"([^"]*)"' % CHECKSUM.encode(), header)
            if found is None:
                return None
            digest = hashlib.sha256(size + header[: found.start(1)] + _BLANK.encode() + header[found.end(1) :])
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise TensorFileError(f"{path}: cannot be read: {_reason(error)}") from error
    if digest.hexdigest().encode() != found[1]:
        raise TensorFileError(f"{path}: is damaged: its content differs from its checksum")
    return digest.hexdigest()
