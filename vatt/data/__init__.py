"""From files to batches: data sets, decoding, augmentation, text."""

from vatt.data.config import AugmentConfig, DataConfig
from vatt.data.decode import MediaError
from vatt.data.loader import Batch, Source, TrainLoader, eval_batches
from vatt.data.manifest import Clip, ManifestError, hold_out, read_clips
from vatt.data.skipped import SkipLog, TooManyBadClips
from vatt.data.text import TextError, Tokenizer, load_word_embeddings

__all__ = [
    "AugmentConfig",
    "Batch",
    "Clip",
    "DataConfig",
    "ManifestError",
    "MediaError",
    "SkipLog",
    "Source",
    "TextError",
    "Tokenizer",
    "TooManyBadClips",
    "TrainLoader",
    "eval_batches",
    "hold_out",
    "load_word_embeddings",
    "read_clips",
]
