"""Media files to arrays: windows of videos, sounds, and pictures."""

from vatt.data.decode.audio import check_numbers, decode_sound, decode_sounds, is_silent, sound_digest
from vatt.data.decode.container import ROUNDING, ChooseStart, Media, Packed, Packing
from vatt.data.decode.image import decode_picture, write_picture
from vatt.data.decode.opening import MediaError, Piece, TimeLimit, open_media
from vatt.data.decode.planes import PlaneFrames, planes_capacity
from vatt.data.decode.rgb import RgbFrames
from vatt.data.decode.streams import duration_of, film_of
from vatt.data.decode.torchcodec import DECODERS, DecoderError, check_decoder
from vatt.data.decode.video import Wanted, Window, Written, decode_views, decode_window, decode_windows
from vatt.data.decode.view import Box, Colours, Encoding, FrameWriter, View

__all__ = [
    "DECODERS",
    "ROUNDING",
    "Box",
    "ChooseStart",
    "Colours",
    "DecoderError",
    "Encoding",
    "FrameWriter",
    "Media",
    "MediaError",
    "Packed",
    "Packing",
    "Piece",
    "PlaneFrames",
    "RgbFrames",
    "TimeLimit",
    "View",
    "Wanted",
    "Window",
    "Written",
    "check_decoder",
    "check_numbers",
    "decode_picture",
    "decode_sound",
    "decode_sounds",
    "decode_views",
    "decode_window",
    "decode_windows",
    "duration_of",
    "film_of",
    "is_silent",
    "open_media",
    "planes_capacity",
    "sound_digest",
    "write_picture",
]
