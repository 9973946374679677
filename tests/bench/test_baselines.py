"""Baselines of the benchmark: they compute what they are compared for, with the sizes, dropout and tokens of ours."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.baselines import need
from bench.baselines.models import mil_nce, missing, models
from bench.cases import SIZES
from bench.cases.base import TORCH, Problem
from bench.cases.block import LAYER
from bench.cases.nce import CLIP, clip_style
from bench.cases.norm import LIGER, LIGER_SUM
from bench.cases.patch_embed import CONV, TIMM, native, patch_dropout_rate
from bench.checks.correctness import error, largest_error, named
from tests.limits import HANG
from vatt.analysis.flops import forward_flops, tokens
from vatt.kernels import patch_embed
from vatt.kernels.nce import Rows, nce
from vatt.objectives.pretraining import Pretraining
from vatt.presets import PRESETS, preset

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
PACKAGES = ("timm", "transformers", "open_clip", "liger_kernel")
OF = {TIMM: "timm", CLIP: "open_clip", LIGER: "liger_kernel", LIGER_SUM: "liger_kernel", "transformers": "transformers"}
FOREIGN = {CONV, TIMM, LIGER, LIGER_SUM, LAYER, CLIP}
SHAPES = {f"{case.op}-{case.name}": case for case in SIZES["tiny"]}
CASES = [(key, name) for key, case in SHAPES.items() for name in case.baselines() if name in FOREIGN]
MODELS = tuple(models(preset("vatt-tiny")))


def made(case, dropout=0.0):
    """Problem, call and leaves of a case; skips if its package is missing. Without a GPU Liger is interpreted."""
    on_gpu = case[1] in (LIGER, LIGER_SUM) and torch.cuda.is_available()
    problem = Problem(SHAPES[case[0]], torch.device("cuda") if on_gpu else CPU)
    return problem, *or_skip(lambda: problem.case.baselines()[case[1]].make(problem, dropout))


@pytest.fixture
def interpreted(request, monkeypatch):
    """What Triton's interpreter lacks of a compiled kernel, for Liger's: numbers that can be cast, a root of CUDA's."""
    if "liger" not in request.node.callspec.params["case"][1] or torch.cuda.is_available():
        return
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    convert, tl = interpreter._implicit_cvt, interpreter.tl

    def with_floats(arg):
        if not isinstance(arg, float):
            return convert(arg)
        return tl.tensor(interpreter.TensorHandle(np.array([arg], np.float32), tl.float32), tl.float32)

    monkeypatch.setattr(interpreter, "_implicit_cvt", with_floats)
    for name in ("layer_norm", "rms_norm", "fused_add_rms_norm"):
        module = pytest.importorskip(f"liger_kernel.ops.{name}")
        monkeypatch.setattr(module, "rsqrt", lambda x: tl.rsqrt(x))


def or_skip(make_one):
    try:
        return make_one()
    except ImportError as absent:
        if absent.name not in PACKAGES:
            raise
        pytest.skip(str(absent))


def model(name, config):
    torch.manual_seed(0)
    return or_skip(models(config)[name]).train()


def batch(config, clips):
    draw, spec = torch.Generator().manual_seed(0), config.input
    video = torch.randint(0, 256, (clips, spec.frames, spec.size, spec.size, 3), dtype=torch.uint8, generator=draw)
    audio = torch.rand(clips, spec.samples, generator=draw) * 2 - 1
    text = torch.randint(1, 100, (clips, spec.candidates, spec.words), generator=draw)
    text[:, :, -3:] = 0  # padding
    return video, audio, text


def small(**changes):
    """vatt-tiny with shorter clips and few words, and one layer in each encoder unless told otherwise."""
    config = preset("vatt-tiny")
    own = {
        "video": dict(max_temporal_buckets=2),
        "waveform": dict(max_temporal_buckets=30),
        "text": dict(vocab_size=100),
    }
    changes = {"num_layers": 1, **changes}
    parts = {part: replace(getattr(config, part), **changes, **values) for part, values in own.items()}
    return replace(config, input=replace(config.input, frames=8, sample_rate=19200), **parts)


def test_cases():
    assert {name for _, name in CASES} == FOREIGN
    for case in SIZES["tiny"]:
        for kernels in (True, False):
            with_cuda, without = (set(case.providers(kernels, cuda)) for cuda in (True, False))
            assert with_cuda - without == ({LIGER, LIGER_SUM} & set(case.baselines()))
            assert next(iter(case.providers(kernels))) == ("triton" if kernels else "auto")
    assert LIGER_SUM not in SHAPES["norm-layer"].baselines()


SAME = [case for case in CASES if case[0].split("-")[0] in ("norm", "block") or case[1] == CONV]


@pytest.mark.parametrize("case", SAME, ids=": ".join)
def test_the_same_function_as_the_plain_backend(case, interpreted):
    """Outputs and the gradients of all leaves."""
    problem, call, leaves = made(case)
    want_call = inner = problem.call(TORCH)
    if problem.case.op == "block":  # theirs takes and returns the sum of the pair that ours takes and returns
        want_call = lambda: (sum(inner()),)  # noqa: E731
    want = named(problem, want_call, problem.leaves)
    found = named(problem, call, leaves)
    if problem.case.op == "block":
        want["grad x"] = want["grad stream"]
    if problem.case.op == "patch_embed":
        want["grad kernel"] = native(want["grad weight"], problem.case)
    assert len(found) == len(call()) + len(leaves) >= 4
    for key, value in found.items():
        assert value.shape == want[key].shape, key
        assert error(value, want[key]) < 1e-5, key
    assert problem.case.baselines()[case[1]].same
    pair = {name: x.detach() for name, x in zip(problem.case.outputs, inner(), strict=True)}
    assert largest_error(problem.case, call(), pair) < 1e-5
    assert largest_error(problem.case, tuple(2 * x for x in call()), pair) > 0.5


@pytest.mark.parametrize("signal", ["video", "audio"])
def test_timm_draws_its_own_patches(signal):
    """With the patches that it drew for each item, it is ours."""
    problem, call, leaves = made((f"patch_embed-{signal}", TIMM))
    torch.manual_seed(3)
    (out,) = call()
    total, kept = leaves["positions"].shape[0], problem.case.kept
    torch.manual_seed(3)
    draw = need("timm.layers", "PatchDropoutWithIndices")(patch_dropout_rate(kept, total), num_prefix_tokens=1)
    _, indices = draw(torch.zeros(2, 1 + total, 1))
    assert indices.shape == (2, kept)
    given, shape = problem.leaves, problem.case
    rest = dict(kept=indices, positions=given["positions"], token=given["token"], backend="torch")
    want = patch_embed(problem.fixed["x"], given["weight"], given["bias"], shape.patch, **rest)
    assert error(out.detach(), want.detach()) < 1e-5
    assert not problem.case.baselines()[TIMM].same


def test_patch_dropout_keeps_the_number_asked_for():
    for total in (4, 17, 128, 300, 1200, 1568):
        for kept in {1, total // 3, total // 2, total - 1, total} - {0}:
            assert int(total * (1 - patch_dropout_rate(kept, total))) == kept, (total, kept)


def test_the_losses():
    """open_clip's is the mean over the candidates of a cross-entropy each way; the models' MIL-NCE is ours."""
    problem = Problem(SHAPES["nce-mil"], CPU)
    video, text = problem.leaves["first"].detach(), problem.leaves["second"].detach()
    t = problem.case.temperature
    ours = nce(Rows(video, video), Rows(text, text), temperature=t, backend="torch").mean()
    assert error(mil_nce(video[:, 0], text.flatten(0, 1), t), ours) < 1e-5
    logits = video[:, 0] @ text[:, 0].T / t
    both = -(logits.log_softmax(1).diag() + logits.log_softmax(0).diag()).mean() / 2
    assert error(clip_style(video[:, 0], text[:, 0], t), both) < 1e-5
    _, call, leaves = made(("nce-mil", CLIP))
    want = torch.stack([clip_style(leaves["first"][:, 0], x, t) for x in leaves["second"].unbind(1)]).mean()
    (found,) = call()
    assert error(found.detach(), want.detach()) < 1e-5
    pairs = zip(*(torch.autograd.grad(x, list(leaves.values())) for x in (found, want)), strict=True)
    assert all(error(a, b) < 1e-5 for a, b in pairs)
    assert not problem.case.baselines()[CLIP].same
    with pytest.raises(ValueError, match="no dropout"):
        made(("nce-mil", CLIP), 0.1)


@pytest.mark.parametrize("case", [case for case in CASES if case[1] != CLIP], ids=": ".join)
def test_dropout_is_applied(case, interpreted):
    """One call differs from the next, also with the same patches, and nearly everything can be dropped."""
    problem, call, leaves = made(case, 0.5)
    torch.manual_seed(0)
    first = call()[-1]
    torch.manual_seed(1)
    assert not torch.equal(call()[-1], first)
    problem, call, leaves = made(case, 1 - 1e-6)
    if problem.case.op == "norm":
        assert torch.equal(call()[0], leaves["residual"])
    elif problem.case.op == "block":
        assert torch.equal(call()[0], leaves["x"])
    else:
        assert torch.equal(call()[0][:, 1:], torch.zeros_like(call()[0][:, 1:]))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named(monkeypatch, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    asked = 0
    for key, name in CASES:
        if OF.get(name) == package:
            problem, asked = Problem(SHAPES[key], CPU), asked + 1
            provider = problem.case.baselines()[name].make
            with pytest.raises(ImportError, match=f"^{package} cannot be imported"):
                provider(problem, 0.0)
    for name, constructor in models(small()).items():
        if OF.get(name) == package:
            asked += 1
            with pytest.raises(ImportError, match=f"^{package} cannot be imported"):
                constructor()
    assert asked
    with pytest.raises(ImportError, match=r"^torch cannot be imported: .*Transformator"):
        need("torch.nn", "Transformator")


@pytest.mark.slow
def test_nothing_is_imported_early():
    code = "import sys, bench.cases, bench.baselines.models as w; from vatt.presets import preset\n"
    code += f"assert w.models(preset('vatt-tiny')); print(sorted(set({PACKAGES}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=HANG)
    assert done.stdout.strip() == "[]", done.stderr


def test_presets_without_baselines_say_why():
    for name in PRESETS:
        config = preset(name)
        assert bool(models(config)) == (not name.startswith(("vatt-ma", "mmv"))) == (missing(config) is None)
    assert "backbone 'unified'" in missing(preset("vatt-ma-tiny"))
    config = preset("vatt-tiny")
    assert "audio_input" in missing(replace(config, audio_input="spectrogram"))
    assert "video.d_kv" in missing(replace(config, video=replace(config.video, d_kv=16)))
    assert "head.kind" in missing(replace(config, head=replace(config.head, kind="joint")))
    assert "waveform" in missing(replace(config, waveform=replace(config.waveform, pre_norm=False)))


@pytest.mark.parametrize("name", MODELS)
def test_size_of_a_model(name):
    """Parameters, and operations of a forward pass: those of ours if all patches are projected."""
    config, clips = preset("vatt-tiny"), 1
    baseline = model(name, config)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        assert torch.isfinite(baseline(*batch(config, clips)))  # the products of SDPA's plain form are all counted
    ours, all_projected = (
        clips * sum(part.total for part in forward_flops(config, project_all=every).values()) for every in (False, True)
    )
    assert 0.9 < counter.get_total_flops() / ours < 1.3
    assert counter.get_total_flops() == pytest.approx(all_projected, rel=0.01)
    for trained in (False, True):
        counts = [
            sum(p.numel() for p in m.parameters() if p.requires_grad or not trained)
            for m in (baseline, Pretraining(config))
        ]
        assert counts[0] == pytest.approx(counts[1], rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_attention_of_a_model(name, monkeypatch):
    """Calls of SDPA: layers, heads, the tokens that DropToken keeps, dropout in training and none in evaluation."""
    config, calls, sdpa = small(num_layers=2, dropout_rate=0.25), [], F.scaled_dot_product_attention
    baseline, inputs, clips = model(name, config), batch(config, 2), 2
    parts = {"video": config.video, "audio": config.waveform, "text": config.text}

    def watched(query, key, value, attn_mask=None, dropout_p=0.0, *args, **options):
        calls.append((tuple(query.shape), dropout_p))
        return sdpa(query, key, value, attn_mask, dropout_p, *args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    for training in (True, False):
        calls.clear()
        baseline.train(training)(*inputs)  # with gradients, or PyTorch's encoder takes a path of its own in evaluation
        want = []
        for key, part in parts.items():
            count = tokens(config, training)[key]
            rows = clips * (config.input.candidates if key == "text" else 1)
            cls = 0 if (name, key) == ("transformers", "video") else 1  # VideoMAE has none
            shape = (rows, part.num_heads, count.kept + cls, part.d_kv)
            want += [(shape, 0.25 if training else 0.0)] * part.num_layers
        assert calls == want
    assert torch.equal(baseline(*inputs), baseline(*inputs))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns(name):
    """Every trained parameter gets a gradient, and a few steps on one batch lower the loss."""
    config = small()
    baseline, inputs = model(name, config), batch(config, 3)
    parameters = {key: p for key, p in baseline.named_parameters() if p.requires_grad}
    adam, losses = torch.optim.Adam(parameters.values(), lr=1e-3), []
    for _ in range(6):
        adam.zero_grad()
        loss = baseline(*inputs)
        loss.backward()
        assert not (without := [key for key, p in parameters.items() if p.grad is None or not p.grad.any()]), without
        adam.step()
        losses.append(float(loss.detach()))
    assert all(loss < 20 for loss in losses)
    assert sum(losses[-2:]) < 0.7 * sum(losses[:2]), losses


@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_bfloat16(name):
    config = small(dropout_rate=0.1, position_dropout_rate=0.1)
    baseline = model(name, config).to(torch.bfloat16)
    loss = baseline(*batch(config, 2))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", MODELS)
def test_padding_is_masked(name):
    """What stands in for the padding of a sentence does not reach the loss."""
    config = small()
    baseline, (video, audio, text) = model(name, config).eval(), batch(config, 2)
    with torch.no_grad():
        before = baseline(video, audio, text)
        baseline.text.table.weight[0] += 1
        assert torch.allclose(baseline(video, audio, text), before)
        baseline.text.table.weight[5:50] += 1
        assert not torch.allclose(baseline(video, audio, text), before)


def test_the_models_are_those_named():
    assert MODELS == ("plain PyTorch", "timm", "transformers")
