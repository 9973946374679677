"""One classifier on one split, and several splits together, on features whose answer is known."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from vatt.data.clips import Clip
from vatt.data.labels import Classes, LabelError
from vatt.evaluation.probe import (
    Features,
    LowRankConfig,
    ProbeError,
    Split,
    check_classes,
    fit_low_rank,
    fit_split,
    fit_svm,
    require_svm,
    splits_of,
    summary,
)
from vatt.extras import install

CLASSES = Classes(("a", "b", "c"))
QUICK = LowRankConfig(components=20, sampled=0.2, lr=1e-2, steps=200)


def labelled(labels):
    return [Clip(Path(f"{number}.mp4"), label=label) for number, label in enumerate(labels)]


def features_of(clips, numbers=None, views=2, noise=0.3):
    """A direction a class, far from 0 and of other sizes, and views that differ by noise."""
    g = torch.Generator().manual_seed(0)
    numbers = list(range(len(clips))) if numbers is None else numbers
    direction = torch.eye(3, 6)
    x = torch.stack([direction[CLASSES.numbers(clips[n])[0]].expand(views, 6) for n in numbers])
    x = x + noise * torch.randn(x.shape, generator=g)
    return Features(numbers, 50 + x * torch.tensor([1e-2, 1.0, 10.0, 1.0, 1.0, 1.0]))


@pytest.mark.parametrize("kind", ["low-rank", "svm"])
def test_a_split_is_learned_from_standardised_features_and_counted(kind):
    clips = labelled("abc" * 12 + "aab")
    features = features_of(clips)
    split = Split("s", tuple(range(30)), tuple(range(30, 39)))
    row = fit_split(features, clips, CLASSES, split, kind, QUICK)
    assert row["top1"] > 0.7
    assert row["top5"] == 1
    assert row["chance"] == pytest.approx(4 / 9)
    assert (row["split"], row["classifier"], row["n_train"], row["n_test"], row["skipped"]) == ("s", kind, 30, 9, 0)
    assert fit_split(features, clips, CLASSES, split, kind, QUICK) == row
    if kind == "low-rank":  # in so few steps nothing is learned from numbers near 50
        assert fit_split(features, clips, CLASSES, split, kind, QUICK, standardise=False)["top1"] < row["top1"]


def test_scores_are_the_mean_over_the_views_of_a_clip():
    clips = labelled("abc" * 10 + "a")
    train = features_of(clips, list(range(30)), views=3, noise=0.0)
    a, b = train.x_NVD[0, 0], train.x_NVD[1, 0]
    for views, wanted in (([a, a, b], 1.0), ([a, b, b], 0.0), ([b, a, a], 1.0)):
        features = Features(list(range(31)), torch.cat([train.x_NVD, torch.stack(views)[None]]))
        split = Split("s", tuple(range(30)), (30,))
        assert fit_split(features, clips, CLASSES, split, "svm", QUICK)["top1"] == wanted


def test_clips_without_features_are_counted_and_a_lost_class_is_an_error():
    clips = labelled("abcabcabc")
    split = Split("split2", (0, 1, 2, 3, 4, 5), (6, 7, 8))
    some = features_of(clips, [0, 1, 2, 4, 5, 7])
    row = fit_split(some, clips, CLASSES, split, "low-rank", QUICK)
    assert (row["n_train"], row["n_test"], row["skipped"]) == (5, 1, 3)
    with pytest.raises(ProbeError, match="split2: no training clip of the class c could be read"):
        fit_split(features_of(clips, [0, 1, 3, 4, 6]), clips, CLASSES, split, "low-rank", QUICK)
    with pytest.raises(ProbeError, match="split2: none of its 3 test clips could be read"):
        fit_split(features_of(clips, [0, 1, 2]), clips, CLASSES, split, "low-rank", QUICK)


def test_classes_are_looked_for_on_both_sides_before_anything_is_decoded():
    clips = labelled("abcab")
    assert check_classes(CLASSES, clips, Split("split1", (0, 1, 2), (3, 4)), "ucf.csv") == ["c"]
    with pytest.raises(ProbeError, match=r"ucf.csv, split1, column label: no training clip of the class b, c"):
        check_classes(CLASSES, clips, Split("split1", (0,), (1, 2)), "ucf.csv")
    with pytest.raises(LabelError, match=r"ucf.csv, split1: 1.mp4, column label: has no label"):
        check_classes(CLASSES, [clips[0], Clip(Path("1.mp4"))], Split("split1", (0, 1), ()), "ucf.csv")


def test_a_clip_without_a_fold_is_in_none():
    clips = [Clip(Path(f"{n}.wav"), extra={"fold": fold}) for n, fold in enumerate(["1", "2", "", "1"])]
    assert [(split.train, split.test) for split in splits_of(clips, "m")] == [((1,), (0, 3)), ((0, 3), (1,))]
    with pytest.raises(ProbeError, match="m: fold 1 has no clip to train on"):
        splits_of(clips[:1], "m")


def test_the_svm_keeps_views_of_a_clip_together_when_a_class_has_few_clips():
    x = torch.cat([torch.zeros(4, 3), torch.ones(4, 3)]) + 0.1 * torch.randn(8, 3)
    label = [0] * 4 + [1] * 4
    for clip in ([0] * 4 + [1] * 4, [0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 1, 1, 2, 2, 2, 2]):
        assert fit_svm(x, label, clip, classes=2)(x).argmax(1).tolist() == label


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(ProbeError, match=re.escape(install("probe"))):
        require_svm()


def test_several_labels_a_sample():
    g = torch.Generator().manual_seed(0)
    target = (torch.rand(80, 3, generator=g) < 0.5).float()
    x = 2 * target + 0.2 * torch.randn(80, 3, generator=g) - 1
    model = fit_low_rank(x, target, QUICK, multi=True)
    assert ((model(x) > 0) == (target > 0)).float().mean() > 0.95


def test_the_summary_of_splits():
    rows = [{"classifier": "svm", "top1": value, "top5": 1.0} for value in (0.2, 0.4, 0.6)]
    several, single = summary([*rows, {"classifier": "low-rank", "top1": 0.5, "top5": 1.0}])
    assert (several["classifier"], several["splits"]) == ("svm", 3)
    assert several["top1"] == pytest.approx(0.4)
    assert several["top1_deviation"] == pytest.approx(0.2)
    assert single == {"classifier": "low-rank", "splits": 1, "top1": 0.5, "top1_deviation": None} | {
        "top5": 1.0,
        "top5_deviation": None,
    }
