"""Embeddings of videos, sounds and sentences in the common spaces: of single items, and of whole data sets.

``VATT.embed_video``, ``embed_audio`` and ``embed_text`` are `embed_media` and `embed_text` of this package; the command
``vatt embed`` is `vatt.inference.job`.
"""

from vatt.inference.embed import Embedded, embed_clips, embed_media, embed_sentences, embed_text
from vatt.inference.spaces import SpaceError, output_name, spaces_of
from vatt.inference.words import find_tokenizer

__all__ = [
    "Embedded",
    "SpaceError",
    "embed_clips",
    "embed_media",
    "embed_sentences",
    "embed_text",
    "find_tokenizer",
    "output_name",
    "spaces_of",
]
