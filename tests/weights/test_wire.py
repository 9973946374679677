"""The wire format of protocol buffers: the documented examples, and messages that are cut off."""

from __future__ import annotations

import pytest

from vatt.weights.tensorflow.table import fields, varint


def test_numbers():
    assert varint(b"\x96\x01", 0) == (150, 2)  # protobuf.dev, Encoding: 150
    assert varint(b"\xff\x00", 1) == (0, 2)
    assert varint(b"\xff" * 9 + b"\x01", 0) == (2**64 - 1, 10)


def test_fields():
    message = b"\x08\x96\x01" + b"\x12\x07testing" + b"\x1d\x01\x02\x00\x00" + b"\x21" + bytes([3]) + bytes(7)
    assert list(fields(message)) == [(1, 150), (2, b"testing"), (3, 513), (4, 3)]


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"\x08", "end inside a number"),
        (b"\x08\x96", "end inside a number"),
        (b"\x12\x07test", "end inside a field"),
        (b"\x1d\x01", "end inside a field"),
        (b"\x0b", "unknown kind 3"),
        (b"\x08" + b"\xff" * 11, "more than 64 bits"),
    ],
)
def test_what_is_no_message(message, why):
    with pytest.raises(ValueError, match=why):
        list(fields(message))
