"""Which scene falls to which split, what is said of it, and between which bounds retrieval lies."""

from __future__ import annotations

import csv
from itertools import combinations, product

import pytest

from vatt.data.tokenizer import Tokenizer
from vatt.sample import levels
from vatt.sample.scene import COLOURS, MOTIONS, SHAPES, scenes
from vatt.sample.words import FULL, WORDS, captions, understand
from vatt.sample.writing import TRAIN, VAL


@pytest.fixture(scope="module")
def dealt():
    return scenes(TRAIN, VAL, seed=0)


def test_held_out_combinations_are_new_but_their_parts_are_not(dealt):
    def seen(split):
        return {(s.shape, s.colour, s.motion) for s in dealt if s.split == split}

    assert len(seen("train") & seen("val")) == 0
    assert len(seen("val")) == VAL  # no two held-out clips are alike to a query
    for first, second in combinations(range(3), 2):
        values = (SHAPES, COLOURS, MOTIONS)
        pairs = set(product(values[first], values[second]))
        assert {(c[first], c[second]) for c in seen("train")} == pairs
        assert {(c[first], c[second]) for c in seen("val")} == pairs


def test_captions_tell_the_truth_and_the_first_tells_shape_colour_and_motion(dealt):
    partial = 0
    for scene in dealt:
        for number, (_, _, text) in enumerate(captions(scene, 4.0)):
            told = understand(text)
            assert told == {key: getattr(scene, key) for key in told}, text
            assert told
            assert len(text.split()) <= 16
            if number == 0:
                assert {"shape", "colour", "motion"} <= set(told), text
            partial += not {"shape", "colour", "motion"} <= set(told)
    assert partial == 2 * len(dealt)


def test_wording_varies(dealt):
    queries = {captions(scene, 4.0)[0][2] for scene in dealt}
    assert len(queries) > 0.95 * len(dealt)
    for attribute, values in WORDS.items():
        for phrases in values.values():
            for phrase in phrases:
                assert any(phrase in text for scene in dealt for _, _, text in captions(scene, 4.0)), (
                    attribute,
                    phrase,
                )
    assert all(f"{{{part}}}" in template for template in FULL for part in ("shape", "colour", "motion"))


def test_every_word_of_validation_was_heard_in_training(dealt):
    def said(split):
        return [text for scene in dealt if scene.split == split for _, _, text in captions(scene, 4.0)]

    tokenizer = Tokenizer.train(said("train"))
    assert not (tokenizer.encode(said("val"), 16) == 1).any()
    assert tokenizer.vocab_size < 200


def write_set(folder, rows):
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["video", "split", "shape", "colour", "size", "motion", "background"])
        writer.writeheader()
        for number, (shape, colour, motion, text) in enumerate(rows):
            writer.writerow(dict(video=f"{number}.mp4", split="val", shape=shape, colour=colour, motion=motion))
            (folder / f"{number}.srt").write_text(f"1\n00:00:00,000 --> 00:00:01,000\n{text}\n")


def test_levels_by_hand(tmp_path):
    write_set(
        tmp_path,
        [
            ("star", "red", "spin", "a red star spins on the spot"),  # found at once
            ("star", "blue", "spin", "something blue rotates in place"),  # one equal: rank 1 or 2
            ("ring", "blue", "spin", "what a nice navy hoop"),  # found at once
            ("ring", "red", "orbit", "it is there"),  # tells nothing: any of the four ranks
        ],
    )
    found = levels(tmp_path)
    assert found == levels(tmp_path / "manifest.csv")
    assert (found["chance"].r1, found["chance"].r5, found["chance"].median_rank) == (0.25, 1.0, 2.5)
    assert found["text_to_video"].r1 == pytest.approx((1 + 1 / 2 + 1 + 1 / 4) / 4)
    assert found["text_to_video"].median_rank == pytest.approx((1.0 + 1.5) / 2)
    assert found["audio_to_video"].r1 == 1.0  # a sound tells shape, colour and motion: no two of the four are alike


def test_sounds_of_clips_that_are_alike(tmp_path):
    """By what a sound tells (shape, colour, motion and size), two of the three are one and the same."""
    twins = [("star", "red", "spin", "a red star spins on the spot")] * 2
    write_set(tmp_path, [*twins, ("star", "red", "orbit", "a red star orbits the middle")])
    found = levels(tmp_path)["audio_to_video"]
    assert found.r1 == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


def test_levels_of_the_set_as_built(sample):
    found = levels(sample)
    assert found["chance"].r1 == pytest.approx(1 / 6)
    assert found["text_to_video"].r1 == 1.0
    with pytest.raises(ValueError, match=r"manifest\.csv: no clip of split 'test'"):
        levels(sample, "test")
