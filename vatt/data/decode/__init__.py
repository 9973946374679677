"""Media files to arrays, through PyAV: windows of videos, sounds, and pictures."""

from vatt.data.decode.audio import decode_sound
from vatt.data.decode.container import (
    ROUNDING,
    ChooseStart,
    Media,
    MediaError,
    Packed,
    Packing,
    Piece,
    duration_of,
    open_media,
)
from vatt.data.decode.image import Box, Filter, Scaler, View, decode_picture
from vatt.data.decode.video import Window, decode_views, decode_window

__all__ = [
    "ROUNDING",
    "Box",
    "ChooseStart",
    "Filter",
    "Media",
    "MediaError",
    "Packed",
    "Packing",
    "Piece",
    "Scaler",
    "View",
    "Window",
    "decode_picture",
    "decode_sound",
    "decode_views",
    "decode_window",
    "duration_of",
    "open_media",
]
