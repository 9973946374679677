"""Captions that a mirrored picture, or turned hues, would belie."""

from __future__ import annotations

import pytest

from vatt.data.caption_words import names_hue, tells_left_from_right
from vatt.sample.words import FULL, PARTIAL, WORDS

DIRECTED = [
    *("a dog on the left", "The car turns RIGHT", "from left to right", "it moves left", "the left hand", "leftmost"),
    *(
        "on the far right",
        "on the right-hand side",
        "swings from right to left",
        "counterclockwise",
        "point to your left",
    ),
    *("a ball moving left", "sliding right", "drives left", "a dog facing right", "at the bottom left"),
    *("a car passes left", "one dog turns left", "a turn left"),
    *("Das Auto fährt nach links", "elle tourne à gauche", "à droite", "a la derecha", "en la izquierda", "左边的狗"),
]
SYMMETRIC = [
    *("glides left and right", "all right now", "turn right now", "she left the room", "right here on the table"),
    *("go right ahead", "walks right past the door", "in the right way", "a bottle left over"),
    *("it's right there", "passes right by", "walks right into it", "the remaining left over", "look right at me"),
    *("two steps left", "no turns left", "3 more jumps left", "one pass left"),
    *("a drink to the lighthouse", "au droit", "nach links und rechts", "他大概十左右", ""),
]


@pytest.mark.parametrize("sentence", DIRECTED)
def test_left_and_right_are_told_apart(sentence):
    assert tells_left_from_right(sentence)


@pytest.mark.parametrize("sentence", SYMMETRIC)
def test_what_stays_true_in_a_mirror(sentence):
    assert not tells_left_from_right(sentence)


@pytest.mark.parametrize("sentence", ["a Red car", "ein roter Ball", "le ballon rouge", "una casa azul", "红色"])
def test_hues(sentence):
    assert names_hue(sentence)


@pytest.mark.parametrize("sentence", ["credit", "white snow", "a black and grey cat", "a hundred", "covered", ""])
def test_no_hue(sentence):
    assert not names_hue(sentence)


def test_the_samples_words():
    """Its motions are symmetric, and its colours have names; white keeps its own."""
    assert not any(tells_left_from_right(f"it {phrase}") for kinds in WORDS["motion"].values() for phrase in kinds)
    assert not any(map(tells_left_from_right, (*FULL, *PARTIAL)))
    hues = {colour for colour, words in WORDS["colour"].items() if any(map(names_hue, words))}
    assert hues == WORDS["colour"].keys() - {"white"}
