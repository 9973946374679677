"""Which streams allow their decoder to drop a frame that no other is predicted from, without a change of the others."""

from __future__ import annotations

from typing import Any

# Decoders for which the frames that remain are the same, as tests hold them to be. VP8 and AV1 gain nothing; others are
# not known well enough.
_SAFE = ("mpeg4", "mpeg2video", "mpeg1video", "vp9")
_UNORDERED = ("avi",)  # containers without times of presentation


def tells_order(container: Any) -> bool:
    """Whether the format of a file tells which packet is which frame."""
    return not set(container.format.name.split(",")) & set(_UNORDERED)


def needs_all(stream: Any) -> bool:
    """Whether a frame needs all packets before it, keyframe or not: of pictures with a palette (screen recordings in
    .avi and .mov), which comes with the first packet and those where it changes."""
    return bool(stream.codec_context is not None and stream.codec_context.pix_fmt == "pal8")


def may_skip(stream: Any) -> bool:
    """Whether ``skip_frame = "NONREF"`` may be set for packets whose frame is not shown.

    Not for H.264 that may be interlaced, where a packet can hold half a frame. Not for HEVC with temporal layers, where
    a frame that its own layer does not use can serve a higher one.
    """
    codec = stream.codec_context
    if codec.name == "h264":
        return _is_progressive(bytes(codec.extradata or b""))
    if codec.name == "hevc":
        return _has_one_layer(bytes(codec.extradata or b""))
    return codec.name in _SAFE


def _unit(extradata: bytes, kinds: tuple[int, ...]) -> bytes:
    """The first unit (SPS, VPS) in a codec's header whose first byte is one of ``kinds``; empty if there is none.

    A header is a series of units after start codes, or the box avcC, whose first unit follows its length of 16 bits.
    """
    annex_b = extradata[:3] == b"\0\0\1" or extradata[:4] == b"\0\0\0\1"
    if annex_b:
        units = [unit.rstrip(b"\0") for unit in extradata.split(b"\0\0\1")[1:]]
        return next((unit for unit in units if unit and unit[0] in kinds), b"")
    first = 6  # of avcC: version, profile, compatibility, level, length size, count of SPS
    if len(extradata) > first + 2 and extradata[first + 2] in kinds:
        length = int.from_bytes(extradata[first : first + 2], "big")
        return extradata[first + 2 : first + 2 + length]
    return b""


class _Bits:
    """Reads the bits of a unit, without the bytes that keep start codes out of it."""

    def __init__(self, unit: bytes) -> None:
        plain = unit.replace(b"\0\0\3", b"\0\0")
        self.bits = "".join(f"{byte:08b}" for byte in plain)
        self.at = 0

    def take(self, count: int) -> int:
        self.at += count
        return int(self.bits[self.at - count : self.at], 2)

    def golomb(self) -> int:
        """An unsigned Exp-Golomb number."""
        zeros = self.bits.index("1", self.at) - self.at
        self.at += zeros
        return self.take(zeros + 1) - 1


def _is_progressive(extradata: bytes) -> bool:
    """Whether the sequence parameter set of H.264 says frame_mbs_only_flag (ITU-T H.264, 7.3.2.1.1)."""
    try:
        bits = _Bits(_unit(extradata, (0x67, 0x47, 0x27)))
        bits.take(8)
        profile = bits.take(8)
        bits.take(16)
        bits.golomb()
        if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
            chroma = bits.golomb()
            if chroma == 3:
                bits.take(1)
            bits.golomb()
            bits.golomb()
            bits.take(1)
            if bits.take(1):  # scaling lists, which are rare, and not read here
                return False
        bits.golomb()
        order = bits.golomb()
        if order == 0:
            bits.golomb()
        elif order == 1:
            bits.take(1)
            bits.golomb()
            bits.golomb()
            for _ in range(bits.golomb()):
                bits.golomb()
        bits.golomb()
        bits.take(1)
        bits.golomb()
        bits.golomb()
        return bool(bits.take(1))
    except ValueError:  # it ends too early
        return False


def _has_one_layer(extradata: bytes) -> bool:
    """Whether the header of HEVC says that there is one temporal layer (hvcC, or the VPS: ITU-T H.265, 7.3.2.1)."""
    if extradata[:1] == b"\1" and len(extradata) > 22:
        return (extradata[21] >> 3) & 7 == 1
    unit = _unit(extradata, (0x40,))
    return len(unit) > 3 and (unit[3] >> 1) & 7 == 0
