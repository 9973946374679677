"""CRC-32C: known answers, and the many lanes against one bit after the other."""

from __future__ import annotations

import numpy as np
import pytest

from vatt.weights.tensorflow.crc32c import crc32c, mask, unmask


def bit_by_bit(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # the next four: RFC 3720, appendix B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_known_answers(data, expected):
    assert crc32c(data) == expected
    assert bit_by_bit(data) == expected


@pytest.mark.parametrize("size", [1, 63, 64, 65, 127, 2047, 2048, 2049, 4096 + 3, 65536, 65536 * 2 + 2048 + 64 + 1])
def test_every_path_agrees_with_bit_by_bit(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == bit_by_bit(data)


def test_it_goes_on_from_what_came_before():
    data = np.random.default_rng(0).bytes(70_001)
    for cut in (0, 1, 64, 65_539, 70_001):
        assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)


def test_arrays_of_any_layout():
    array = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    assert crc32c(array) == crc32c(array.tobytes())
    assert crc32c(array.T) == crc32c(array.T.tobytes()) != crc32c(array)


def test_one_flipped_bit_shows_everywhere():
    data = np.zeros(100_000, np.uint8)
    whole = crc32c(data)
    for at in (0, 1, 65_535, 65_536, 99_999):
        data[at] ^= 0x10
        assert crc32c(data) != whole
        data[at] ^= 0x10


def test_masks():
    assert mask(0) == 0xA282EAD8
    assert [unmask(mask(value)) for value in (0, 1, 0xE3069283, 0xFFFFFFFF)] == [0, 1, 0xE3069283, 0xFFFFFFFF]
