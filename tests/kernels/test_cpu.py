"""The backend "cpu" against plain PyTorch with the same dropout mask: results, gradients, their gradients, memory."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch.autograd import forward_ad

from tests.kernels.conftest import DEVICE, Case, check_layout, check_reference, check_repeats, check_seeds, randn
from vatt.kernels import Call, attention, cpu, layer_norm, mlp, packed_attention, rms_norm, select
from vatt.kernels.dropout import keep_mask

pytestmark = pytest.mark.skipif(DEVICE.type != "cpu", reason="about the CPU")

SEED = torch.tensor([0x2545F4914F6CDD1D])
SEVERAL = ((2, 3), (1, 40), (1, 1), (1, 21))
RATES = (0.0, 0.1, 0.5, 1.0)


def dense(B=2, N=17, H=2, E=8, p=0.1, mask=False, bias=False):
    leaves = {f"{name}_BNHE": randn(B, N, H, E, seed=seed) for seed, name in enumerate("qkv")}
    if bias:
        leaves["bias"] = randn(H, N, N, seed=3)
    seen = (randn(B, N, seed=4) > 0).long()
    seen[:1] = 0  # no key to see
    options = dict(mask=seen if mask else None, scale=0.3, dropout_p=p, seed=SEED)
    return Case(lambda backend, **leaves: attention(**leaves, **options, backend=backend), leaves)


def packed(segments=SEVERAL, H=2, p=0.1, masked=None, seed=SEED):
    T = sum(count * length for count, length in segments)
    leaves = {"qkv_T3HE": randn(T, 3, H, 8)}
    options = dict(mask=(randn(T, seed=4) > -1).long() if masked else None, masked=masked, scale=0.3, dropout_p=p)
    return Case(
        lambda backend, qkv_T3HE: packed_attention(qkv_T3HE, segments, **options, seed=seed, backend=backend), leaves
    )


def perceptron(p=0.1, bias=True, D=6, M=10, seed=SEED):
    leaves = {"x": randn(2, 5, D), "weight_in": randn(M, D, seed=1), "weight_out": randn(D, M, seed=2)}
    if bias:
        leaves |= {"bias_in": randn(M, seed=3), "bias_out": randn(D, seed=4)}

    def run(backend, x, weight_in, weight_out, bias_in=None, bias_out=None):
        return mlp(x, weight_in, bias_in, weight_out, bias_out, dropout_p=p, seed=seed, backend=backend)

    return Case(run, leaves)


def norm(p=0.1, rms=False, seed=SEED):
    leaves = {"x": randn(2, 5, 9), "residual": randn(2, 5, 9, seed=1), "weight": randn(9, seed=2)}
    leaves |= {} if rms else {"bias": randn(9, seed=3)}

    def run(backend, **leaves):
        return (rms_norm if rms else layer_norm)(**leaves, dropout_p=p, seed=seed, backend=backend)

    return Case(run, leaves)


EVERY = {"attention": dense, "packed": packed, "mlp": perceptron, "norm": norm}


@pytest.fixture(params=["as it is", "small blocks"], autouse=True)
def block_sizes(request, monkeypatch):
    """Small arrays would be one block each."""
    if request.param == "small blocks":
        monkeypatch.setattr(cpu, "BLOCK", 16)
        monkeypatch.setattr(import_module("vatt.kernels.attention.cpu"), "GROUP", 1)


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 10), (33, 4), (5, 31)])
def test_the_mask_of_rows_is_that_of_dropout(rows, columns, p):
    scores = cpu.row_scores(SEED, rows, columns)
    blocks = cpu.score_blocks(scores, torch.empty(rows, columns))
    kept = torch.cat([numbers > cpu.least_kept(p) for numbers, _ in blocks])
    assert torch.equal(kept, keep_mask(SEED, torch.arange(rows)[:, None], torch.arange(columns), p))


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize(("mask", "bias"), [(False, False), (True, False), (False, True), (True, True)])
def test_attention(p, mask, bias):
    check_reference(dense(p=p, mask=mask, bias=bias), "cpu")


@pytest.mark.parametrize("N", [1, 8, 9, 15, 16, 24, 32, 61])
def test_attention_of_each_length(N):
    check_reference(dense(B=1, N=N), "cpu")


@pytest.mark.parametrize("B", [0, 3])
def test_attention_of_no_or_several_items(B):
    check_reference(dense(B=B, bias=True), "cpu")


@pytest.mark.parametrize("masked", [None, (True, False, True, True)])
def test_packed_attention(masked):
    check_reference(packed(masked=masked), "cpu")


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("bias", [True, False])
def test_mlp(p, bias):
    check_reference(perceptron(p, bias), "cpu")


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("rms", [False, True])
def test_norm(p, rms):
    check_reference(norm(p, rms), "cpu")


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_layout_and_repetition(make):
    check_layout(make(), "cpu")
    check_repeats(make(), "cpu")


@pytest.mark.parametrize("make", [packed, perceptron, norm])
def test_without_a_seed_the_mask_follows_the_generator(make):
    check_seeds(make(seed=None), "cpu")


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_second_derivatives(make):
    def penalty(backend):
        case = make()
        leaves = {name: x.double().requires_grad_() for name, x in case.leaves.items()}
        outputs = case.run(backend, **leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        first = torch.autograd.grad(sum(out.pow(3).sum() for out in outputs), list(leaves.values()), create_graph=True)
        return torch.autograd.grad(sum(grad.pow(2).sum() for grad in first), list(leaves.values()))

    for ours, plain in zip(penalty("cpu"), penalty("torch"), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


def test_only_the_gradients_asked_for():
    """Frozen parameters have none, and change nothing in the others."""
    case = perceptron()
    whole = case.known("cpu")
    for trained in case.leaves:
        leaves = {name: x.clone().requires_grad_(name == trained) for name, x in case.leaves.items()}
        case.run("cpu", **leaves).backward(randn(2, 5, 6, seed=90))
        for name, x in leaves.items():
            assert x.grad is None if name != trained else torch.equal(x.grad, whole[f"gradient of {name}"])


def test_the_output_of_the_mlp_may_be_changed_in_place():
    x = randn(2, 3, 8).requires_grad_()
    weights = randn(16, 8, seed=1), None, randn(8, 16, seed=2), None
    grads = []
    for change in (lambda y: y.mul_(2), lambda y: y * 2):
        out = change(mlp(x, *weights, dropout_p=0.1, seed=SEED, backend="cpu"))
        grads.append(torch.autograd.grad(out.square().sum(), x)[0])
    assert torch.equal(*grads)


def test_attention_keeps_one_array_of_weights():
    """Plain PyTorch keeps three: the weights, the mask, and their product."""
    B, N, H, E = 2, 64, 3, 4
    qkv = [randn(B, N, H, E, seed=seed).requires_grad_() for seed in range(3)]

    def large(backend):
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.setdefault(x.data_ptr(), x), lambda x: x):
            out = attention(*qkv, scale=0.5, dropout_p=0.1, backend=backend)
        assert out.requires_grad
        return sum(x.numel() >= B * H * N * N for x in kept.values())

    assert (large("cpu"), large("torch")) == (1, 3)


def test_what_it_cannot_do_goes_to_the_plain_operations():
    call = Call(torch.device("cpu"), torch.float32, {"dropout": True})
    for op in ("attention", "packed_attention", "mlp", "layer_norm", "rms_norm"):
        assert select(op, "auto", call) == "cpu"
        assert select(op, "auto", Call(torch.device("cpu"), torch.bfloat16, {"dropout": True})) == "torch"
        with torch.autocast("cpu"):
            assert select(op, "auto", call) == "torch"
        with forward_ad.dual_level():
            assert select(op, "auto", call) == "torch"
    case = perceptron()
    plain = torch.func.grad(lambda x: case.run("torch", **{**case.leaves, "x": x}).sum())(case.leaves["x"])
    auto = torch.func.grad(lambda x: case.run("auto", **{**case.leaves, "x": x}).sum())(case.leaves["x"])
    assert torch.equal(auto, plain)
