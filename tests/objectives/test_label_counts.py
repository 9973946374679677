"""The weights of labels by their counts, where the batch of a step is divided."""

from __future__ import annotations

import pytest
import torch

from vatt.models import Classifier, ClassifierConfig
from vatt.models.config import WaveformConfig
from vatt.objectives.classification import Mix
from vatt.objectives.finetuning import Finetuning, TargetConfig

BATCH, CLASSES = 8, 4


def module_of(mixup=0.0, labels="multi"):
    torch.manual_seed(0)
    sizes = dict(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0)
    waveform = WaveformConfig(**sizes, temporal_patch_size=64, max_temporal_buckets=8)
    waveform.random_patch_sampling, waveform.position_dropout_rate = False, 0.0
    config = ClassifierConfig("c", "audio", waveform=waveform, num_classes=CLASSES, labels=labels, dropout=0.0)
    return Finetuning(Classifier.from_config(config), TargetConfig(mixup=mixup)).double().train()


def batch():
    generator = torch.Generator().manual_seed(1)
    target = (torch.rand(BATCH, CLASSES, generator=generator) < 0.4).double()
    target[0] = 0  # a clip without any label
    target[: BATCH // 2, 1] = 1  # a class that most clips of one rank have
    return {"x": torch.rand(BATCH, 512, generator=generator, dtype=torch.float64) - 0.5, "target": target}


def gradients(module):
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


@pytest.mark.parametrize("mixup", [0.0, 5.0])
def test_two_ranks_with_two_parts_are_one_process_with_all(mixup):
    module, whole = module_of(mixup), batch()
    parts = [{name: x.chunk(4)[number] for name, x in whole.items()} for number in range(4)]
    parts = [{**part, **module.draw(part, 7, 2 * number)} for number, part in enumerate(parts)]
    sums = torch.stack([module.step_sums(part)["label_counts"] for part in parts]).sum(0)
    losses = [module({**part, "label_counts": sums}, 7)["loss"] for part in parts]
    (sum(losses) / 4).backward()
    divided = gradients(module)
    if mixup:  # the parts have mixed among themselves: join what they drew
        order = torch.cat([part["mix_order"] + 2 * number for number, part in enumerate(parts)])
        whole |= {"mix_order": order, "mix_share": torch.cat([part["mix_share"] for part in parts])}
    loss = module(whole, 7)["loss"]
    loss.backward()
    assert (sum(losses) / 4).item() == pytest.approx(loss.item(), rel=1e-12)
    for name, value in gradients(module).items():
        torch.testing.assert_close(divided[name], value, rtol=1e-9, atol=1e-12)
    alone = [module(part, 7)["loss"] for part in parts]
    assert (sum(alone) / 4).item() != pytest.approx(loss.item(), rel=0.1)  # what it was without the sums


def test_counts_are_those_of_mixed_labels():
    module, whole = module_of(5.0), batch()
    drawn = module.draw(whole, 3)
    mixed = Mix(drawn["mix_order"], drawn["mix_share"])(whole["target"])
    torch.testing.assert_close(module.step_sums(whole | drawn)["label_counts"], mixed.sum(0))
    assert module_of(labels="single").step_sums(whole) == {}
