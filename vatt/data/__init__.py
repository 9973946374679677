"""From files to batches: data sets, decoding, augmentation, text."""

from typing import TYPE_CHECKING

from vatt.lazy import on_first_use

if TYPE_CHECKING:
    from vatt.data.clips import Clip, ManifestError
    from vatt.data.config import AugmentConfig, DataConfig
    from vatt.data.decode import MediaError, is_silent, sound_digest
    from vatt.data.evaluation_loader import eval_batches, view_batches
    from vatt.data.labels import Classes, LabelError, find_classes, read_classes
    from vatt.data.loader import Batch, ClipLoader, Source, TrainLoader
    from vatt.data.manifest import read_clips
    from vatt.data.samples import LabelledReader, Views
    from vatt.data.skipped import SkipLog, TooManySkipped
    from vatt.data.splits import Splits, choose_split, hold_out, other_splits, splits_of
    from vatt.data.tokenizer import TextError, Tokenizer, load_word_embeddings

__all__ = [
    "AugmentConfig",
    "Batch",
    "Classes",
    "Clip",
    "ClipLoader",
    "DataConfig",
    "LabelError",
    "LabelledReader",
    "ManifestError",
    "MediaError",
    "SkipLog",
    "Source",
    "Splits",
    "TextError",
    "Tokenizer",
    "TooManySkipped",
    "TrainLoader",
    "Views",
    "choose_split",
    "eval_batches",
    "find_classes",
    "hold_out",
    "is_silent",
    "load_word_embeddings",
    "other_splits",
    "read_classes",
    "read_clips",
    "sound_digest",
    "splits_of",
    "view_batches",
]

if not TYPE_CHECKING:  # where a type checker would take any name for one of these
    __getattr__, __dir__ = on_first_use(__name__)
