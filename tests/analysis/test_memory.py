"""Activations counted from the configuration against the tensors that PyTorch saves in a real forward pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from vatt.analysis.memory import Activations, activation_bytes, traffic_bytes
from vatt.config import override
from vatt.models import transformer
from vatt.models.config import SpectrogramConfig
from vatt.objectives.pretraining import Pretraining
from vatt.presets import preset

# The formulas leave out single numbers of a row in batch norms and losses, masks and seeds. They weigh more where less
# is saved, with checkpointing and in the small batches of the interpreter. In bfloat16 a CPU keeps the statistics of
# the norms in two bytes where a GPU takes four.
TOLERANCE = 0.0005
LOOSE = 0.002
SEEDS = 1024  # bytes: the seeds of dropout and other single numbers, which the count leaves out

DROPOUT = [f"{part}.dropout_rate=0.1" for part in ("video", "waveform", "text")]
POSITION_DROPOUT = [f"{part}.position_dropout_rate=0.1" for part in ("video", "waveform", "text")]
PROJECTIONS = ["pre_projection=true", "post_projection=true", "d_post_proj=96"]
SHORT = ["input.frames=8", "input.sample_rate=8000", "input.candidates=2"]
SMALL = [*SHORT, "video.max_temporal_buckets=2", "waveform.max_temporal_buckets=12"]
UNIFIED_SMALL = [*SHORT, "unified.max_vid_temporal_buckets=2", "unified.max_aud_temporal_buckets=12"]
UNIFIED_DROPOUT = ["unified.dropout_rate=0.1", "unified.position_dropout_rate=0.1"]


def tiny(name, *changes):
    """A tiny preset with few words: their table is a parameter, and takes long to fill."""
    words = "unified.txt_vocab_size" if name == "vatt-ma-tiny" else "text.vocab_size"
    return override(preset(name), [f"{words}=50", *changes])


def text_kind(kind):
    rows = 17 if kind == "bert_small" else 16  # as many as it has tokens: nothing is resampled
    return tiny("vatt-tiny", f"text.kind={kind}", f"text.max_temporal_buckets={rows}", *DROPOUT)


def projections():
    changes = [f"{part}.{change}" for part in ("video", "waveform") for change in PROJECTIONS]
    return tiny("vatt-tiny", *changes, *POSITION_DROPOUT)


def spectrogram():
    part = SpectrogramConfig(d_model=64, d_kv=24, d_ff=96, num_layers=2, num_heads=2)
    return replace(tiny("vatt-tiny"), audio_input="spectrogram", spectrogram=part)


CONFIGS = {
    "vatt-tiny": lambda: tiny("vatt-tiny"),
    "vatt-ma-tiny": lambda: tiny("vatt-ma-tiny"),
    "dropout": lambda: tiny("vatt-tiny", *DROPOUT, *POSITION_DROPOUT),
    "ma dropout": lambda: tiny("vatt-ma-tiny", *UNIFIED_DROPOUT),
    "all tokens": lambda: tiny("vatt-tiny", "waveform.random_patch_sampling=false", "video.num_layers=1"),
    "wide mlp": lambda: tiny("vatt-tiny", "video.d_ff=640", "text.d_kv=16", "waveform.num_heads=2"),
    "bert": lambda: text_kind("bert"),
    "bert_small": lambda: text_kind("bert_small"),
    "linear": lambda: text_kind("linear"),
    "projections": projections,
    "spectrogram": spectrogram,
    "joint": lambda: tiny("vatt-tiny", "head.kind=joint", "loss.aud_txt_weight=1"),
    "mmv-tiny": lambda: tiny("mmv-tiny", "input.size=40", "input.frames=9"),
    "mmv joint": lambda: tiny("mmv-tiny", "input.size=32", "head.kind=joint", "loss.aud_txt_weight=1"),
    "symmetric": lambda: tiny("vatt-ma-tiny", "loss.kind=symmetric"),
}


def batch_of(config, clips):
    spec = config.input
    audio = torch.rand(clips, spec.samples)
    return {
        "video": torch.zeros(clips, spec.frames, spec.size, spec.size, 3, dtype=torch.uint8),
        "audio": audio,
        "text": torch.ones(clips, spec.candidates, spec.words, dtype=torch.int64),
        "audio_mask": torch.ones(clips),
        "text_mask": torch.ones(clips),
    }


def saved(config, clips, monkeypatch, backend="torch", dtype=torch.float32, checkpointing=False, cached=0):
    """Bytes of the distinct storages that one forward pass saves, without parameters, buffers and the batch.

    With ``cached`` they are the last part of a batch, and of so many clips the features are there.

    A checkpointed layer keeps its arguments without telling the hooks: they are counted where it is called.
    """
    module = Pretraining(config, backend).train().to(dtype)
    if checkpointing:
        module.vatt.activation_checkpointing = True
    batch = batch_of(config, clips)
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers(), *batch.values())}
    kept = {}  # the storages themselves: one that were freed would give its address to another

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    def counted(layer, *arguments, **options):
        for argument in arguments:
            if isinstance(argument, torch.Tensor) and argument.requires_grad:
                keep(argument)
        return checkpoint(layer, *arguments, **options)

    monkeypatch.setattr(transformer, "checkpoint", counted)
    part = ()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if cached:
            before = {
                name: torch.ones_like(x, device="cpu") for name, x in module.empty_features(cached, dtype).items()
            }
            part = "last", {name: x.requires_grad_("mask" not in name) for name, x in before.items()}
        losses = module(batch, 0, *part)
    assert losses["loss"].requires_grad
    return sum(storage.nbytes() for storage in kept.values())


def predicted(config, clips, dtype=torch.float32, **options):
    return activation_bytes(config, dtype, clips, device="cpu", **options)


@pytest.mark.parametrize("name", CONFIGS)
def test_plain_pytorch_saves_what_is_predicted(name, monkeypatch):
    config = CONFIGS[name]()
    found = predicted(config, 3, backend="torch").total
    assert found == pytest.approx(saved(config, 3, monkeypatch), rel=TOLERANCE)


@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
def test_samples_and_constant_part_separate(name, monkeypatch):
    """Two batch sizes: the difference belongs to the samples, what is left to the constant part."""
    config = CONFIGS[name]()
    for clips in (2, 5):
        found = predicted(config, clips, backend="torch")
        assert found.total == pytest.approx(saved(config, clips, monkeypatch), rel=TOLERANCE)
    small, large = predicted(config, 2, backend="torch"), predicted(config, 5, backend="torch")
    assert small.constant == large.constant > 0
    assert {part: 5 * size for part, size in small.samples.items()} == {p: 2 * v for p, v in large.samples.items()}


@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny", "dropout", "bert_small"])
def test_checkpointing_keeps_the_inputs_of_layers(name, monkeypatch):
    config = CONFIGS[name]()
    found = predicted(config, 3, backend="torch", checkpointing=True)
    real = saved(config, 3, monkeypatch, checkpointing=True)
    assert found.total - found.recomputed == pytest.approx(real, rel=LOOSE)
    assert 0 < found.recomputed < predicted(config, 3, backend="torch").total


@pytest.mark.parametrize("name", ["vatt-tiny", "dropout", "mmv-tiny"])
def test_bfloat16(name, monkeypatch):
    config = CONFIGS[name]()
    found = predicted(config, 2, torch.bfloat16, backend="torch").total
    assert found == pytest.approx(saved(config, 2, monkeypatch, dtype=torch.bfloat16), rel=LOOSE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "checkpointing"),
    [
        ("vatt-tiny", SMALL, False),
        ("vatt-tiny", [*SMALL, *DROPOUT, *POSITION_DROPOUT], False),
        ("vatt-tiny", [*SMALL, *DROPOUT], True),
        ("vatt-ma-tiny", [*UNIFIED_SMALL, *UNIFIED_DROPOUT], False),
    ],
)
def test_our_kernels_in_the_interpreter(name, changes, checkpointing, monkeypatch):
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("with a GPU the interpreter is off")
    config = tiny(name, *changes, *_one_layer(name))
    found = predicted(config, 2, backend="triton", checkpointing=checkpointing)
    real = saved(config, 2, monkeypatch, backend="triton", checkpointing=checkpointing)
    assert found.total - found.recomputed == pytest.approx(real, rel=LOOSE, abs=SEEDS)


def _one_layer(name):
    parts = ("unified",) if name == "vatt-ma-tiny" else ("video", "waveform", "text")
    return [f"{part}.num_layers={2 if part == 'video' else 1}" for part in parts]


@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny", "joint"])
def test_a_batch_in_parts_saves_one_part_and_the_features_of_all(name, monkeypatch):
    """The pass of the last part, which is the largest: features of those before are there, and joined with its own."""
    config = CONFIGS[name]()
    found = predicted(config, 8, backend="torch", parts=4)
    real = saved(config, 2, monkeypatch, cached=6)
    assert (1 - LOOSE) * (found.total - found.features) < real <= found.total
    whole = predicted(config, 8, backend="torch")
    assert found.samples["video"] <= whole.samples["video"] // 4
    assert found.samples["head"] == whole.samples["head"]
    assert whole.features == 0


def test_published_models():
    """What is known without running them: our kernels save less, checkpointing less still, and other ranks add rows."""
    config = preset("vatt-base")
    plain = activation_bytes(config, torch.bfloat16, 4, backend="torch")
    ours = activation_bytes(config, torch.bfloat16, 4)
    cut = activation_bytes(config, torch.bfloat16, 4, checkpointing=True)
    many = activation_bytes(config, torch.bfloat16, 4, ranks=8)
    assert cut.total < ours.total / 3 < plain.total / 6
    assert ours.pairs == ours.gathered == 0 < plain.pairs
    # 32 clips with two embeddings of 512 values, one and five of 256, in float32
    assert many.gathered == 32 * (2 * 512 + (1 + 5) * 256) * 4


def test_traffic_counts_each_activation_twice_and_each_parameter_three_times():
    kept = Activations({"video": 100, "audio": 20}, constant=3, gathered=0, pairs=0, recomputed=50)
    assert traffic_bytes(kept, torch.bfloat16, parameters=10) == 2 * 123 + 3 * 10 * 2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"backend": "cuda"}, "backend"),
        ({"device": "tpu"}, "device"),
        ({"dtype": torch.float16}, "float16"),
        ({"batch": 0}, "batch"),
        ({"ranks": 0}, "ranks"),
        ({"batch": 8, "parts": 3}, "parts"),
    ],
)
def test_nonsense_is_named(changes, word):
    arguments = {"dtype": torch.float32, "batch": 1, **changes}
    with pytest.raises(ValueError, match=word):
        activation_bytes(preset("vatt-tiny"), **arguments)
