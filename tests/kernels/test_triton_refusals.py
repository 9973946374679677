"""What the Triton kernels and those of other packages refuse, each with a reason that helps."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from vatt.kernels import (
    BackendError,
    Call,
    attention,
    backends,
    dense_gelu,
    explain,
    frames_to_patches,
    layer_norm,
    mlp,
    nce,
    operations,
    packed_attention,
    patch_embed,
    rms_norm,
    runtime,
    select,
)
from vatt.kernels.nce import Rows

# All on the CPU, also on a machine with a GPU.
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def heads(dtype=torch.float32, E=16):
    return [torch.randn(2, 5, 3, E).to(dtype) for _ in range(3)]


def calls(dtype=torch.float32, **options):
    """Every public operation on small inputs of a type, as functions without arguments."""
    x, square, row = (torch.randn(shape).to(dtype) for shape in ((5, 4), (4, 4), (4,)))
    rows = Rows(torch.randn(3, 1, 4).to(dtype), torch.randn(6, 1, 4).to(dtype))
    qkv = torch.randn(5, 3, 2, 16).to(dtype)
    planes, sizes = torch.zeros(1, 2, 6, dtype=torch.uint8), torch.tensor([[2, 2]], dtype=torch.int32)
    box, colour = torch.tensor([[0, 0, 2, 2]]).to(dtype), torch.ones(1, 3, 4).to(dtype)
    frames = planes, sizes, box, sizes[:, 0].to(torch.uint8), colour
    return {
        "attention": lambda: attention(*heads(dtype), scale=1.0, **options),
        "packed_attention": lambda: packed_attention(qkv, ((1, 5),), scale=1.0, **options),
        "dense_gelu": lambda: dense_gelu(x, square, row, **options),
        "frames_to_patches": lambda: frames_to_patches(*frames, size=2, patch=(2, 2, 2), **options),
        "layer_norm": lambda: layer_norm(x, row, row, **options),
        "mlp": lambda: mlp(x, square, row, square, row, **options),
        "nce": lambda: nce(rows, rows, temperature=0.1, **options),
        "patch_embed": lambda: patch_embed(x.flatten()[None], square, row, (4,), **options),
        "rms_norm": lambda: rms_norm(x, row, **options),
    }


@pytest.fixture
def interpreted(monkeypatch):
    """As in Triton's interpreter, for refusals that come before any kernel runs."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(runtime, "triton_installed", lambda: True)


def test_every_operation_is_tried_here():
    assert set(calls()) == set(operations())
    assert all("triton" in backends(op) for op in operations())


@pytest.mark.parametrize("op", calls())
def test_a_cpu_without_the_interpreter(op, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    message = rf"{op}: backend 'triton' refuses .*runs on a CUDA device, or with TRITON_INTERPRET=1"
    with pytest.raises(BackendError, match=message):
        calls(backend="triton")[op]()


def test_the_own_product_of_the_mlp_refuses_as_well(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match=r"mlp: backend 'triton_gemm' refuses .*TRITON_INTERPRET=1"):
        calls(backend="triton_gemm")["mlp"]()


@pytest.mark.parametrize("value", ["0", "", "false", "off"])
def test_the_interpreter_may_be_off(value, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", value)
    with pytest.raises(BackendError, match="TRITON_INTERPRET=1"):
        calls(backend="triton")["rms_norm"]()


@pytest.mark.parametrize("op", calls())
@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (torch.bfloat16, "Triton's interpreter computes wrongly in bfloat16"),
        (torch.float64, "has float32, bfloat16 and float16, got torch.float64"),
    ],
)
def test_types(op, dtype, message, interpreted):
    with pytest.raises(BackendError, match=message):
        calls(dtype, backend="triton")[op]()


@pytest.mark.parametrize("op", calls())
def test_a_model_in_a_half_type_may_ask_for_triton(op, interpreted):
    """As a run does with engine.kernels=triton, before it has calls."""
    assert select(op, "triton", Call(torch.device("cpu"), torch.float16)) == "triton"


@pytest.mark.parametrize("op", calls())
@pytest.mark.parametrize("interpreting", [False, True])
def test_auto_never_interprets(op, interpreting, monkeypatch):
    """Neither by the registry nor by a kernel that starts."""
    monkeypatch.setenv("TRITON_INTERPRET", str(int(interpreting)))
    monkeypatch.setattr("vatt.kernels.runtime._recorder", lambda *_: pytest.fail("a kernel was launched"))
    for dtype in DTYPES:
        chosen = [row.backend for row in explain(op, "cpu", dtype) if row.chosen]
        assert chosen
        assert not chosen[0].startswith("triton")
        calls(dtype)[op]()
    reasons = next(row.reasons for row in explain(op, "cpu") if row.backend == "triton")
    assert any(("for tests" if interpreting else "TRITON_INTERPRET=1") in reason for reason in reasons)


@pytest.mark.parametrize("op", calls())
def test_missing_triton_is_named(op, interpreted, monkeypatch):
    monkeypatch.setattr(runtime, "triton_installed", lambda: False)
    with pytest.raises(BackendError, match=r"Triton is not installed \(pip install 'triton>=3.6'\)"):
        calls(backend="triton")[op]()
    calls()[op]()  # "auto" needs none


def test_all_reasons_are_given_at_once(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(runtime, "triton_installed", lambda: False)
    with pytest.raises(BackendError) as caught:
        attention(*heads(torch.float64, 256), scale=1.0, return_weights=True, backend="triton")
    for part in ("float64", "not installed", "TRITON_INTERPRET", "attention weights", "head dims up to 128, got 256"):
        assert part in str(caught.value)


@pytest.mark.parametrize("E", [129, 256])
def test_wide_heads(E, interpreted):
    with pytest.raises(BackendError, match=f"has head dims up to 128, got {E}"):
        attention(*heads(E=E), scale=1.0, backend="triton")
    with pytest.raises(BackendError, match=f"has head dims up to 128, got {E}"):
        packed_attention(torch.randn(5, 3, 1, E), ((1, 5),), scale=1.0, backend="triton")


def test_attention_weights(interpreted):
    with pytest.raises(BackendError, match="never has the attention weights in memory, so it cannot return them"):
        attention(*heads(), scale=1.0, return_weights=True, backend="triton")


def test_wide_norms(interpreted):
    x, row = torch.randn(2, 8193), torch.randn(8193)
    with pytest.raises(BackendError, match=r"layer_norm: .*holds rows of up to 8192 numbers, got 8193"):
        layer_norm(x, row, row, backend="triton")
    with pytest.raises(BackendError, match=r"rms_norm: .*holds rows of up to 8192 numbers, got 8193"):
        rms_norm(x, row, backend="triton")


class TestPatchEmbed:
    def test_gradient_of_the_input(self, interpreted):
        x = torch.randn(2, 8, requires_grad=True)
        with pytest.raises(BackendError, match="gives no gradient of the input"):
            patch_embed(x, torch.randn(3, 4), None, (4,), backend="triton")
        row = next(r for r in explain("patch_embed", "cpu", input_gradient=True) if r.backend == "triton")
        assert "gives no gradient of the input" in row.reasons

    def test_float64_input(self, interpreted):
        with pytest.raises(BackendError, match="reads no float64 input"):
            patch_embed(torch.randn(2, 8).double(), torch.randn(3, 4), None, (4,), backend="triton")

    def test_four_axes(self, interpreted):
        with pytest.raises(BackendError, match="has patches of up to three axes"):
            patch_embed(torch.randn(1, 2, 2, 2, 2), torch.randn(3, 16), None, (2, 2, 2, 2), backend="triton")


class TestFramesToPatches:
    def call(self, patch, dtype=torch.float32, frames=(8, 6)):
        planes, sizes = torch.zeros(1, *frames, dtype=torch.uint8), torch.tensor([[2, 2]])
        rest = torch.zeros(1, 4, dtype=dtype), torch.zeros(1, dtype=torch.uint8), torch.zeros(1, 3, 4, dtype=dtype)
        return frames_to_patches(planes, sizes, *rest, size=64, patch=patch, backend="triton")

    def test_half_types_of_places(self, interpreted):
        with pytest.raises(BackendError, match=r"takes places and colours in float32, got torch.float16"):
            self.call((4, 16, 16), torch.float16)

    def test_large_patches(self, interpreted):
        with pytest.raises(BackendError, match=r"has patches of up to 4096 pixels, .*, got 8192"):
            self.call((5, 20, 17))


# name: (package to import, how it is called), or None for PyTorch's own
EXTERNAL = {
    "flash_attn": ("flash_attn", "flash-attn 2"),
    "flash_attn_4": ("flash_attn.cute", "flash-attn 4"),
    "xformers": ("xformers", "xformers"),
    "sdpa_flash": None,
    "sdpa_cudnn": None,
}


def installed(package):
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("name", EXTERNAL)
@pytest.mark.parametrize("op", ["attention", "packed_attention"])
def test_external_kernels_refuse_a_cpu_with_all_reasons(op, name):
    facts = dict(mask=True, bias=True, return_weights=True, dropout=True)
    reasons = {row.backend: row.reasons for row in explain(op, "cpu", **facts)}[name]
    expected = {
        "runs on a CUDA device",
        "has float16 and bfloat16, got torch.float32",
        "takes no mask",
        "takes no bias",
        "cannot return the attention weights",
    }
    if EXTERNAL[name] is not None and not installed(EXTERNAL[name][0]):
        expected.add(f"{EXTERNAL[name][1]} is not installed")
    if name == "flash_attn_4":
        expected.add("has no dropout")
    assert set(reasons) == expected
    plain = {row.backend: row.reasons for row in explain(op, "cpu", torch.float16)}[name]
    assert {reason for reason in plain if "installed" not in reason} == {"runs on a CUDA device"}


@pytest.mark.parametrize("name", EXTERNAL)
def test_external_kernels_refuse_calls_by_name(name):
    with pytest.raises(BackendError, match=f"attention: backend '{name}' refuses .*runs on a CUDA device"):
        attention(*heads(torch.float16), scale=1.0, backend=name)
    qkv = torch.randn(5, 3, 1, 16, dtype=torch.float16)
    with pytest.raises(BackendError, match=f"packed_attention: backend '{name}' refuses .*takes no mask"):
        packed_attention(qkv, ((1, 5),), mask=torch.ones(5), scale=1.0, backend=name)
