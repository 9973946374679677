"""Embeddings of videos, sounds and sentences in the common spaces, and classes of files: one by one or in bulk.

`VATT` and `Classifier` are what ``from vatt import VATT, Classifier`` gives. `embed_clips` and `embed_sentences` go
through a data set in batches and record what they leave out; the command ``vatt embed`` is `vatt.inference.job`.
"""

from typing import TYPE_CHECKING

from vatt.lazy import on_first_use

if TYPE_CHECKING:
    from vatt.inference.api import VATT, Classifier, find_tokenizer, load_pretrained, save_pretrained
    from vatt.inference.embed import Embedded, embed_clips, embed_media, embed_sentences, embed_text
    from vatt.inference.spaces import SpaceError, output_name, spaces_of

__all__ = [
    "VATT",
    "Classifier",
    "Embedded",
    "SpaceError",
    "embed_clips",
    "embed_media",
    "embed_sentences",
    "embed_text",
    "find_tokenizer",
    "load_pretrained",
    "output_name",
    "save_pretrained",
    "spaces_of",
]

if not TYPE_CHECKING:  # where a type checker would take any name for one of these
    __getattr__, __dir__ = on_first_use(__name__)
