"""Probes on features: the low-rank classifier, the SVM, and which clips are on which side."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vatt.data.clips import Clip
from vatt.evaluation.probe import Features, LowRank, LowRankConfig, ProbeError, fit_low_rank, fit_svm, splits_of


def blobs(count=60, classes=3, width=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % classes
    centres = 3 * torch.eye(classes, width)
    return centres[label] + torch.randn(count, width, generator=g), label


@pytest.mark.slow
def test_the_low_rank_classifier_learns_and_is_repeatable():
    x, label = blobs()
    target = torch.nn.functional.one_hot(label, 3).float()
    config = LowRankConfig(components=20, sampled=0.2, lr=1e-2, steps=300)
    first, second = fit_low_rank(x, target, config), fit_low_rank(x, target, config)
    assert torch.equal(first(x), second(x))
    test, wanted = blobs(seed=1)
    assert (first(test).argmax(1) == wanted).float().mean() > 0.9
    assert (fit_low_rank(x, target, LowRankConfig(steps=1))(test).argmax(1) == wanted).float().mean() < 0.7


def test_a_tenth_of_the_components_takes_part_in_a_step():
    model = LowRank(8, 3, LowRankConfig(components=40)).train()
    x, _ = blobs()
    model(x, torch.Generator().manual_seed(0)).sum().backward()
    touched = model.down.weight.grad.abs().sum(1) > 0
    assert touched.sum() == 4
    assert torch.equal(touched, model.up.weight.grad.abs().sum(0) > 0)
    with torch.no_grad():  # in expectation training is evaluation
        g = torch.Generator().manual_seed(1)
        mean = torch.stack([model(x, g) for _ in range(4000)]).mean(0)
        assert torch.allclose(mean, model.eval()(x), atol=0.25)


def test_the_svm_learns_and_ranks_classes_it_never_saw_last():
    x, label = blobs()
    scores = fit_svm(x, label.tolist(), list(range(len(x))), classes=5)
    test, wanted = blobs(seed=1)
    found = scores(test)
    assert found.shape == (60, 5)
    assert (found.argmax(1) == wanted).float().mean() > 0.9
    assert torch.isinf(found[:, 3:]).all()
    two = label < 2
    pair = fit_svm(x[two], label[two].tolist(), list(range(int(two.sum()))), classes=3)
    assert (pair(test[wanted < 2]).argmax(1) == wanted[wanted < 2]).float().mean() > 0.9
    with pytest.raises(ProbeError, match="at least two classes"):
        fit_svm(x[:3], [1, 1, 1], [0, 1, 2], classes=3)


def clips(**columns):
    count = len(next(iter(columns.values())))
    rows = [{name: values[i] for name, values in columns.items()} for i in range(count)]
    return [Clip(Path(f"{i}.mp4"), split=row.pop("split", None), extra=row) for i, row in enumerate(rows)]


def test_official_splits_folds_and_the_plain_split():
    found = splits_of(clips(split1=["train", "test", ""], split2=["test", "train", "train"]), "m")
    assert [(s.name, s.train, s.test) for s in found] == [("split1", (0,), (1,)), ("split2", (1, 2), (0,))]
    found = splits_of(clips(fold=["1", "2", "1", "10"]), "m")
    assert [(s.name, s.train, s.test) for s in found] == [
        ("fold 1", (1, 3), (0, 2)),
        ("fold 2", (0, 2, 3), (1,)),
        ("fold 10", (0, 1, 2), (3,)),
    ]
    (plain,) = splits_of(clips(split=["train", "val", "train", "test"]), "m")
    assert (plain.name, plain.train, plain.test) == ("val", (0, 2), (1,))
    both = clips(split=["train", "val", "train", "test"])
    (plain,) = splits_of(both, "m", "Test")
    assert (plain.name, plain.train, plain.test) == ("test", (0, 2), (3,))
    (plain,) = splits_of(clips(split=["train", "test"]), "m")
    assert (plain.name, plain.test) == ("test", (1,))
    (plain,) = splits_of(clips(video=[None] * 200), "m", share=0.3)
    assert set(plain.train) | set(plain.test) == set(range(200))
    assert 30 < len(plain.test) < 90
    (official,) = splits_of(clips(split1=["train", "test", "val"]), "m", "validation")
    assert (official.train, official.test) == ((0,), (2,))
    with pytest.raises(ProbeError, match="each fold of m is tested on in turn"):
        splits_of(clips(fold=["1", "2"]), "m", "test")
    with pytest.raises(ProbeError, match="m: split1 has no clip to test on"):
        splits_of(clips(split1=["train", ""]), "m")


def test_features_of_several_ranks_come_back_in_order_and_from_a_file(tmp_path):
    x = torch.arange(10.0).view(5, 2, 1)
    parts = [
        Features([0, 2, 4], x[[0, 2, 4]]),
        Features([1], x[[1]], [{"index": 3}]),
        Features([], torch.empty(0, 2, 0)),
    ]
    whole = Features.join(parts)
    assert whole.numbers == [0, 1, 2, 4]
    assert torch.equal(whole.x_NVD, x[[0, 1, 2, 4]])
    whole.save(tmp_path / "kept" / "f.safetensors")
    again = Features.load(tmp_path / "kept" / "f.safetensors")
    assert again.numbers == whole.numbers
    assert again.skipped == [{"index": 3}]
    assert torch.equal(again.x_NVD, whole.x_NVD)
    (tmp_path / "kept" / "f.safetensors").write_bytes(b"cut short")
    assert Features.load(tmp_path / "kept" / "f.safetensors") is None
    assert Features.load(tmp_path / "absent.safetensors") is None
