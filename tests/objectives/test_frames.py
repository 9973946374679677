"""A step on frames as the decoder leaves them is the step on the pictures that are made of them."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from vatt.clip import InputConfig
from vatt.data.decode import planes_capacity
from vatt.data.samples import frames_layout
from vatt.kernel_selection import problems_of
from vatt.kernels.frames_to_patches import clips_from_planes
from vatt.models import Classifier
from vatt.models.config import ClassifierConfig
from vatt.objectives.finetuning import Finetuning, TargetConfig
from vatt.objectives.frames import NAMES
from vatt.objectives.parts import losses_in_parts
from vatt.objectives.pretraining import Pretraining
from vatt.presets import preset

SIZE, FRAMES, B = 32, 8, 4


def frames(spec):
    """Random planes of 40 x 36 pixels and more, with crops, flips and colours."""
    g = torch.Generator().manual_seed(0)
    C = planes_capacity(spec.size)
    sizes = torch.tensor([[40, 36], [36, 40], [44, 40], [40, 36]], dtype=torch.int32)
    top, left = torch.randint(0, 4, (2, B), generator=g).float() * 2
    crop = torch.stack([top, left, sizes[:, 0] - top, sizes[:, 1] - left], 1)
    base = torch.tensor([[1.16, 0, 1.6, -220], [1.16, -0.4, -0.8, 135], [1.16, 2.0, 0, -277]])
    return {
        "planes": torch.randint(16, 235, (B, spec.frames, C), dtype=torch.uint8, generator=g),
        "sizes": sizes,
        "crop": crop,
        "flip": torch.tensor([0, 1, 0, 1], dtype=torch.uint8),
        "colour": base + 0.1 * torch.rand(B, 3, 4, generator=g),
    }


def rgb(batch, name, spec):
    planes = [batch[part] for part in NAMES]
    rest = {key: value for key, value in batch.items() if key not in NAMES}
    return rest | {name: clips_from_planes(*planes, size=spec.size)}


def pretraining(drop, model="vatt-tiny"):
    config = preset(model)
    config.input = InputConfig(FRAMES, 4.0, SIZE, sample_rate=2048, candidates=3)
    config.text.vocab_size = config.unified.txt_vocab_size = 20
    for part in (config.video, config.waveform, config.unified):
        part.num_layers = 1
        part.random_patch_sampling, part.sample_per_item = drop != "none", drop == "item"
        part.patch_sampling_rate = 0.125
    config.video.max_temporal_buckets = config.unified.max_vid_temporal_buckets = 2
    config.waveform.max_temporal_buckets = config.unified.max_aud_temporal_buckets = 8
    torch.manual_seed(0)
    module = Pretraining(config).train()
    g = torch.Generator().manual_seed(1)
    batch = frames(config.input) | {
        "audio": torch.rand(B, config.input.samples, generator=g),
        "text": torch.randint(0, 20, (B, config.input.candidates, config.input.words), generator=g),
    }
    return module, batch, config.input


def finetuning(drop, mixup):
    config = ClassifierConfig(
        "small", "video", InputConfig(FRAMES, 4.0, SIZE), preset("vatt-tiny").video, num_classes=3
    )
    config.video.random_patch_sampling, config.video.sample_per_item = drop != "none", drop == "item"
    config.video.patch_sampling_rate, config.video.max_temporal_buckets = 0.125, 2
    torch.manual_seed(0)
    module = Finetuning(Classifier.from_config(config), TargetConfig(mixup=mixup)).train()
    return module, frames(config.input) | {"target": torch.eye(3)[[0, 1, 2, 0]]}, config.input


def compare(module, batch, name, spec):
    """Losses and gradients from planes, whether they are made into patches before the step or in it; and from RGB."""
    pictures = rgb(batch, name, spec)
    drawn, same = module.draw(batch, 5), module.draw(pictures, 5)
    assert drawn.keys() == same.keys()
    assert all(torch.equal(value, same[key]) for key, value in drawn.items())
    found = []
    for given in (pictures | drawn, module.prepare(batch | drawn), batch | drawn):
        module.zero_grad()
        torch.manual_seed(3)  # dropout
        losses = module(given, 5)
        losses["loss"].backward()
        gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        found.append((losses["loss"].detach(), gradient))
    return found


@pytest.mark.parametrize("drop", ["batch", "item", "none"])
@pytest.mark.parametrize("model", ["vatt-tiny", "vatt-ma-tiny"])
def test_pretraining(model, drop):
    module, batch, spec = pretraining(drop, model)
    before, prepared, within = compare(module, batch, "video", spec)
    assert torch.equal(prepared[0], before[0])
    torch.testing.assert_close(prepared[1], before[1])
    assert torch.equal(prepared[0], within[0])


@pytest.mark.parametrize("mixup", [0.0, 5.0])
@pytest.mark.parametrize("drop", ["batch", "item", "none"])
def test_fine_tuning(drop, mixup):
    module, batch, spec = finetuning(drop, mixup)
    before, prepared, within = compare(module, batch, "x", spec)
    torch.testing.assert_close(prepared[0], before[0])
    torch.testing.assert_close(prepared[1], before[1])
    assert torch.equal(prepared[0], within[0])


def test_each_clip_has_its_own_order_also_where_all_patches_are_kept():
    """Then there are as many patches as are kept, and mixup has not chosen for that."""
    module, batch, spec = finetuning("item", 5.0)
    tokens = module.model.backbone.tokens
    tokens.drop_token.kept = (spec.frames // 4) * (spec.size // 16) ** 2
    before, prepared, within = compare(module, batch, "x", spec)
    torch.testing.assert_close(prepared[0], before[0])
    torch.testing.assert_close(prepared[1], before[1])
    assert torch.equal(prepared[0], within[0])


def test_only_kept_patches_are_made():
    module, batch, _ = pretraining("batch")
    kept = module.vatt.patches("video").drop_token.kept
    prepared = module.prepare(batch | module.draw(batch, 0))
    assert prepared.keys() == {"video", "audio", "text", "video_kept", "audio_kept"}
    assert prepared["video"].shape == (B, kept, 3 * 4 * 16 * 16)
    assert prepared["video"].dtype == torch.uint8
    module, batch, _ = finetuning("item", 5.0)
    whole = module.prepare(batch | module.draw(batch, 0))["x"]
    assert whole.shape[1] == module.model.backbone.tokens.grid(whole)[0] * 4
    assert module.prepare(whole := {"x": whole}) is whole


@pytest.mark.parametrize("make", [lambda: pretraining("batch"), lambda: finetuning("none", 0.0)])
def test_kernels_are_chosen_for_the_batches_of_the_run(make):
    module, batch, spec = make()
    operations = {problem.op for problem in problems_of(module, module.empty_batch(B), 0, dtype=torch.float32)}
    assert "frames_to_patches" not in operations
    module.planes = planes_capacity(spec.size)
    empty = module.empty_batch(B)
    layout = frames_layout(spec, "gpu", "video")
    assert {name: (tuple(x.shape[1:]), x.dtype) for name, x in empty.items() if name in NAMES} == layout
    assert all(batch[name].shape == empty[name].shape for name in NAMES)
    operations = {problem.op for problem in problems_of(module, empty, 0, dtype=torch.float32)}
    assert {"frames_to_patches", "patch_embed"} <= operations


@pytest.mark.parametrize("drop", ["batch", "item"])
def test_pretraining_in_parts(drop):
    """Patches are made of the frames of a part, in both of its passes; each clip keeps the place that it has in the
    batch."""
    module, batch, _ = pretraining(drop)
    module.double()
    batch["audio"] = batch["audio"].double()
    found = []
    for count in (1, 2, 4):
        module.zero_grad()
        losses = losses_in_parts(
            (partial(part_of, module, batch, number, B // count) for number in range(count)),
            count,
            lambda x, how, cached: module(x, 5, how, cached),
            lambda loss, last: loss.backward(),
            torch.device("cpu"),
        )
        gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        found.append((losses["loss"], gradient))
    assert found[0][1].abs().max() > 0
    for loss, gradient in found[1:]:
        torch.testing.assert_close(loss, found[0][0])
        torch.testing.assert_close(gradient, found[0][1], rtol=0, atol=1e-10 * float(found[0][1].abs().max()))


def part_of(module, batch, number, size):
    """Its clips, with what is drawn for them, as an engine gives them to a module."""
    own = {name: x[number * size : (number + 1) * size] for name, x in batch.items()}
    return module.prepare(own | module.draw(own, 5, number * size))


@pytest.mark.parametrize("size", [SIZE, 36])
def test_a_convolutional_network_gets_whole_frames(size):
    config = preset("mmv-tiny")
    config.input, config.text.vocab_size = InputConfig(FRAMES, 4.0, size, sample_rate=2048), 20
    with torch.device("meta"):
        module = Pretraining(config)
    batch = frames(config.input)
    prepared = module.prepare(batch)
    assert prepared.keys() == {"video"}
    assert torch.equal(prepared["video"], rgb(batch, "video", config.input)["video"])
