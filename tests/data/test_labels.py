"""Classes by name: which number a label has, and labels that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from vatt.data import Classes, Clip, LabelError, find_classes, read_classes


def clip(label, **extra):
    return Clip(Path("a.mp4"), label=label, extra=extra)


def test_classes_are_in_the_order_of_their_numbers_or_names():
    assert find_classes([clip(x) for x in ("10", "9", "2")], "m").names == ("2", "9", "10")
    assert find_classes([clip(x) for x in ("b", "a|c")], "m", multi=True).names == ("a", "b", "c")
    by_column = find_classes([clip("x", motion=m) for m in ("spin", "slide")], "m", column="motion")
    assert by_column.names == ("slide", "spin")
    with pytest.raises(LabelError, match=r"m: no clip has a label in the column motion; .* by --label: label, shape$"):
        find_classes([clip("x", shape="s")], "m", column="motion")
    with pytest.raises(LabelError, match=r"m: no clip has a label in the column label; take a manifest .* by --label$"):
        find_classes([clip(None)], "m")
    with pytest.raises(LabelError, match="m, column label: 1 classes among 2 clips"):
        find_classes([clip("x"), clip("x")], "m")


def test_numbers_of_classes_with_a_decimal_point_are_refused_with_a_hint():
    """As pandas writes a column of whole numbers in which some are missing."""
    for labels in (("1.0", "2.0", "10.0"), ("1", "2", "2.0")):
        with pytest.raises(LabelError, match=r"m, column label: '[12]\.0' is a whole number .* write '[12]' \(column"):
            find_classes([clip(label) for label in labels], "m")
    assert find_classes([clip(label) for label in ("1.0", "1.5", "2.0")], "m").names == ("1.0", "1.5", "2.0")
    assert find_classes([clip(label) for label in ("v1.0", "v2.0")], "m").names == ("v1.0", "v2.0")
    with pytest.raises(LabelError, match=r"'7\.0' is no class; did you mean '7'\?"):
        Classes(("6", "7")).target(clip("7.0"))


def test_targets_and_labels_that_cannot_be_used():
    classes = Classes(("cat", "dog", "bird"))
    assert classes.target(clip("bird")).tolist() == [0, 0, 1]
    for label, words in (
        ("dgo", "'dgo' is no class; did you mean 'dog'"),
        (None, "has no label"),
        ("cat|dog", "has 2"),
    ):
        with pytest.raises(LabelError, match=rf"a.mp4, column label: {words}"):
            classes.target(clip(label))
    several = Classes(("cat", "dog", "bird"), multi=True)
    assert several.target(clip("dog|cat|dog")).tolist() == [1, 1, 0]
    assert several.target(clip(None)).tolist() == [0, 0, 0]
    assert classes.check([clip("cat"), clip("bird")], "m") == ["dog"]
    with pytest.raises(LabelError, match=r"m, split val: a\.mp4, column label: '7' is no class"):
        classes.check([clip("7")], "m, split val")


def test_classes_of_a_file(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("dog\ncat\n\n")
    assert read_classes(path).names == ("dog", "cat")
    path.write_text("dog\ncat\ndog\n")
    with pytest.raises(LabelError, match=r"classes.txt, line 3: the class 'dog' is in line 1"):
        read_classes(path)
