"""Configuration of what is read and how it is augmented."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class AugmentConfig:
    """One draw per clip, the same for all its frames. The defaults are the paper's (appendix; official dataset.py)."""

    enabled: bool = True  # false: the centre of the picture, no noise
    area_min: float = 0.08  # smallest crop, share of the picture
    area_max: float = 1.0  # largest crop, share of the picture
    aspect_min: float = 0.5  # smallest width over height of the crop
    aspect_max: float = 2.0  # largest width over height of the crop
    flip: bool = True  # mirror half of the clips
    brightness: float = 32 / 255  # largest change, share of full white
    saturation: float = 0.4  # largest change of the factor 1
    contrast: float = 0.4  # largest change of the factor 1
    hue: float = 0.2  # largest turn, share of the colour circle
    audio_noise: float = 0.01  # standard deviation, share of the clip's loudest sample


@dataclass
class DataConfig:
    """The loader. Data sets and their weights are lists of equal length; no weights means equal ones."""

    sources: list[str] = field(default_factory=list)  # folders of videos, manifests, shards or their URLs
    weights: list[float] = field(default_factory=list)  # how often each source is drawn from; empty: equally often
    workers: int = 2  # decoding processes of each rank
    prefetch: int = 4  # batches (or parts of one) kept ready on each rank, beside those in use; fewer if memory is low
    windows_per_open: int = 1  # windows that are read of a clip when it is opened, one after the other in the batch
    augment_on: Literal["auto", "gpu", "cpu"] = "auto"  # where crop, scale and colours are done; auto: where the run is
    decoder: Literal["pyav", "torchcodec", "torchcodec-cuda"] = "pyav"  # of films, but not of their views
    shuffle_shards: int = 0  # of shards: clips of so many at a time are mixed; 0: of all (slow disks ask for a few)
    cache: str | None = None  # folder for pieces of remote shards; None: ~/.cache/vatt/pieces
    cache_gb: float = 20.0  # most gigabytes in it, shared by all processes; 0 keeps none
    decode_timeout: float = 30.0  # seconds for one clip, then it is skipped; as many to fetch a piece of a shard
    max_bad_share: float = 0.1  # of the clips that were tried; more stops the run
    eval_share: float = 0.05  # of the videos: held out for evaluation where a data set names no split
    eval_split: str = "val"  # that a run evaluates on, such as val or test; test where val is asked for and not there
    vocabulary: str | None = None  # one word per line, or BERT's vocab.txt; None learns the words from the captions
    vocabulary_size: int = 2**16  # most words learned from the captions, if there is no vocabulary
    word_embeddings: str | None = None  # .npy, one row per word
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.sources):
            raise ValueError(f"weights: {len(self.weights)} weights for {len(self.sources)} data sets")
        if any(weight <= 0 for weight in self.weights):
            raise ValueError(f"weights: {self.weights} must all be above 0")
        if not 0 <= self.max_bad_share <= 1 or not 0 <= self.eval_share < 1:
            raise ValueError("max_bad_share and eval_share are shares between 0 and 1")
        if not (name := self.eval_split.strip().lower()) or name in ("train", "all"):
            raise ValueError(f"eval_split: {self.eval_split!r} is no split that is held out, such as val or test")
        if self.shuffle_shards < 0 or self.cache_gb < 0:
            raise ValueError("shuffle_shards and cache_gb must be 0 or more")
        if self.workers < 0 or self.prefetch < 1 or not 0 < self.decode_timeout < float("inf"):
            raise ValueError("workers must be 0 or more, prefetch 1 or more and decode_timeout above 0")
        if self.windows_per_open < 1:
            raise ValueError(f"windows_per_open: {self.windows_per_open} must be 1 or more")
