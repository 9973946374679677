"""Files of tensors: read by safetensors, made one tensor at a time, of finite numbers; and nothing else writes them."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from vatt.files import TREE
from vatt.weights.tensors import (
    NotFiniteTensor,
    Spec,
    TensorFile,
    TensorFileError,
    Tensors,
    check_finite,
    write_tensors,
)

MIXED = {
    "b": torch.tensor([True, False, True]),
    "a": torch.arange(3, dtype=torch.float32),
    "n": torch.tensor(7),
    "h": torch.tensor([[1.5], [-2.0]], dtype=torch.bfloat16),
    "empty": torch.empty(0, 4),
    "turned": torch.arange(6.0).reshape(2, 3).T,
}


def test_safetensors_reads_what_was_written(tmp_path):
    """Wider types come first, so that each tensor is aligned in the file."""
    checksum = write_tensors(tmp_path / "x", Tensors.of(MIXED), {"step": "3"})
    found = load_file(tmp_path / "x")
    stored = TensorFile(tmp_path / "x")
    assert (stored.checksum, stored.metadata["step"]) == (checksum, "3")
    assert list(Tensors.of(MIXED).specs) == ["n", "a", "empty", "turned", "h", "b"]
    for name, value in MIXED.items():
        assert torch.equal(found[name], value)
        assert torch.equal(stored[name], value)
        assert stored.specs[name] == Spec(value.dtype, value.shape)
    with pytest.raises(KeyError):
        stored["z"]


def test_a_tensor_is_made_when_it_is_asked_for_and_once():
    made = []
    specs = {name: Spec(torch.float32, torch.Size([2])) for name in "cab"}
    tensors = Tensors(specs, lambda name: made.append(name) or torch.zeros(2))
    assert tensors.bytes == 24
    assert next(iter(tensors))[0] == "a"
    assert made == ["a"]
    tensors.skip()
    tensors.skip()
    assert made == ["a", "b", "c"]


def test_the_largest_numbers_are_finite_though_their_sum_is_not():
    check_finite("w", torch.full((4,), 3e38))
    check_finite("w", torch.full((4,), 6e4).half())
    check_finite("w", torch.empty(0))
    check_finite("w", torch.tensor(5))
    for bad in ([1.0, math.nan], [math.inf, -math.inf], [3e38, 3e38, math.inf]):
        with pytest.raises(NotFiniteTensor, match="w holds values that are not finite"):
            check_finite("w", torch.tensor(bad))


def test_what_is_no_file_of_tensors_is_named(tmp_path):
    file = tmp_path / "x"
    for content in (b"", b"\0" * 8, b"\xff" * 8, b'"sha256":"0"' * 9, bytes(1000)):
        file.write_bytes(content)
        with pytest.raises(TensorFileError, match=rf"^{file}: "):
            TensorFile(file)


def test_nothing_else_writes_tensors():
    """`save_file` of safetensors gathers all of them, lets in nobody but the owner of the file, and has no checksum."""
    for part in ("vatt", "train"):
        for path in (TREE / part).rglob("*.py"):
            assert "save_file(" not in path.read_text(encoding="utf-8"), path
