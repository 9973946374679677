"""Scores of clips and what they are worth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vatt.data import Classes
from vatt.data.clips import Clip
from vatt.evaluation.classification import ScoreError, Scores, classification_table, per_class

LABELS = ["a", "b", "b", "c", "a"]
CLIPS = [Clip(Path(f"{i}.mp4"), label=label) for i, label in enumerate(LABELS)]
CLASSES = Classes(("c", "a", "b", "z"))


def test_ranks_are_joined_in_order_and_no_clip_counts_twice():
    logits = torch.arange(20.0).view(5, 4)
    parts = [Scores([0, 2, 4], logits[[0, 2, 4]]), Scores([3], logits[[3]], [{"index": 1}])]
    whole = Scores.join(parts)
    assert whole.numbers == [0, 2, 3, 4]
    assert torch.equal(whole.logits_NK, logits[[0, 2, 3, 4]])
    assert whole.skipped == [{"index": 1}]
    with pytest.raises(ScoreError, match=r"clips \[2\] were scored twice"):
        Scores.join([parts[0], Scores([2], logits[[2]])])


def test_one_label_a_clip():
    logits = torch.zeros(4, 4)
    for row, best in enumerate((1, 2, 1, 0)):  # a, b, a, c for the clips a, b, b, c
        logits[row, best] = 1
    scores = Scores([0, 1, 2, 3], logits, [{"index": 4}])
    table = classification_table(scores, CLIPS, CLASSES)
    assert (table["top1"], table["top5"], table["chance"]) == (0.75, 1.0, 0.5)
    assert (table["n"], table["skipped"], table["without"]) == (4, 1, ["z"])
    assert per_class(scores, CLIPS, CLASSES) == [("c", 1.0, 1), ("a", 1.0, 1), ("b", 0.5, 2)]
    with pytest.raises(ScoreError, match="no clip could be scored; 1 could not be read"):
        classification_table(Scores([], torch.empty(0, 4), [{"index": 0}]), CLIPS, CLASSES)


def test_several_labels_a_clip_and_classes_that_are_left_out():
    clips = [Clip(Path(f"{i}.mp4"), label=label) for i, label in enumerate(("a|all", "all", "b|all", "a|all"))]
    classes = Classes(("a", "all", "b", "none"), multi=True)
    logits = torch.tensor([[2.0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 2, 0], [3, 0, 0, 0]])
    table = classification_table(Scores([0, 1, 2, 3], logits), clips, classes)
    assert table["left_out"] == ["all", "none"]
    assert (table["mAP"], table["AUC"]) == (1.0, 1.0)
    assert table["without"] == ["none"]
    worse = classification_table(Scores([0, 1, 2, 3], -logits), clips, classes)
    assert worse["AUC"] == 0.0
    with pytest.raises(ScoreError, match="mAP and AUC are not defined"):
        classification_table(Scores([0], logits[:1]), clips, classes)
