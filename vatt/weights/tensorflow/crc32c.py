"""CRC-32C (Castagnoli), the checksum of every block and array in a TensorFlow checkpoint, fast enough for gigabytes.

A CRC is linear over GF(2). Appending zeros to a message is therefore a 32 x 32 bit matrix on its remainder, and the
remainder of a message is the XOR of those of its words, each followed by the right number of zero words. So the words
are dealt out to L lanes that advance together in numpy (a matrix is applied by two table lookups of 16 bits), and at
the end the lanes are folded in half until one is left. RFC 3720, appendix B.4, has test values.
"""

from __future__ import annotations

from functools import cache

import numpy as np

_POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41 with its bits reversed
_ALL_ONES = 0xFFFFFFFF
_LANES = (1 << 14, 1 << 9, 1 << 4)  # powers of two; 64 KiB of lanes stay in the cache beside the tables
_MASK_DELTA = 0xA282EAD8  # LevelDB's: stored checksums are masked, lest the CRC of data that hold a CRC be degenerate

Buffer = bytes | bytearray | memoryview | np.ndarray


def crc32c(data: Buffer, value: int = 0) -> int:
    """The CRC-32C of ``data``; ``value`` is that of what came before it."""
    flat = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else _bytes(data)
    state = value ^ _ALL_ONES
    at = 0
    for lanes in _LANES:
        count = (flat.size - at) // (4 * lanes) * lanes
        if count:
            state = _fold(flat[at : at + 4 * count].view("<u4").reshape(-1, lanes), state)
            at += 4 * count
    table = _byte_table()
    for byte in flat[at:].tolist():
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state ^ _ALL_ONES


def unmask(masked: int) -> int:
    """The CRC behind a stored one (LevelDB, util/crc32c.h)."""
    rotated = (masked - _MASK_DELTA) & _ALL_ONES
    return ((rotated >> 17) | (rotated << 15)) & _ALL_ONES


def mask(crc: int) -> int:
    """The inverse of `unmask`."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & _ALL_ONES


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _fold(words_RL: np.ndarray, state: int) -> int:
    """The state after all words, row by row. R rows, L lanes (a power of two)."""
    lanes = words_RL.shape[1]
    lane_L = words_RL[0].copy()
    lane_L[0] ^= np.uint32(state)
    for row_L in words_RL[1:]:
        lane_L = _append_zeros(lane_L, lanes) ^ row_L
    while lanes > 1:
        lanes //= 2
        lane_L = _append_zeros(lane_L[:lanes], lanes) ^ lane_L[lanes:]
    return int(_append_zeros(lane_L, 1)[0])


def _append_zeros(states: np.ndarray, words: int) -> np.ndarray:
    """Each state after ``words`` zero words more."""
    low, high = _tables(words)
    return low[states & 0xFFFF] ^ high[states >> 16]


@cache
def _tables(words: int) -> tuple[np.ndarray, np.ndarray]:
    """The matrix of ``words`` zero words, tabulated for the low and the high 16 bits of a state: two of (65536,)."""
    columns = _columns(words)
    halves = []
    for half in (columns[:16], columns[16:]):
        table = np.zeros(1, np.uint32)
        for column in half:
            table = np.concatenate([table, table ^ np.uint32(column)])
        halves.append(table)
    return halves[0], halves[1]


@cache
def _columns(words: int) -> tuple[int, ...]:
    """What becomes of each of the 32 bits of a state when ``words`` (a power of two) zero words follow."""
    if words > 1:
        half = _columns(words // 2)
        return tuple(_times(half, column) for column in half)
    columns = []
    for bit in range(32):
        state = 1 << bit
        for _ in range(4):
            state = _byte_table()[state & 0xFF] ^ (state >> 8)
        columns.append(state)
    return tuple(columns)


def _times(columns: tuple[int, ...], state: int) -> int:
    product = 0
    for bit, column in enumerate(columns):
        if state >> bit & 1:
            product ^= column
    return product


@cache
def _byte_table() -> tuple[int, ...]:
    """State after one zero byte, by its lowest byte."""
    table = []
    for state in range(256):
        for _ in range(8):
            state = (state >> 1) ^ (_POLYNOMIAL if state & 1 else 0)
        table.append(state)
    return tuple(table)
