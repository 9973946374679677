"""Configuration of what is read and how it is augmented."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from vatt.config import NotAll, Range, Section, Share

Positive = Annotated[float, Range(0.0, 1e9, above=True)]
Processes = Annotated[int, Range(0, 1024)]
Few = Annotated[int, Range(1, 1024)]
Shards = Annotated[int, Range(0, 10_000_000)]
Seconds = Annotated[float, Range(0.001, 86_400.0)]
MostWords = Annotated[int, Range(2, 10_000_000)]
Gigabytes = Annotated[float, Range(0.0, 1e6)]


@dataclass
class AugmentConfig(Section):
    """One draw per clip, the same for all its frames. The defaults are the paper's (appendix; official dataset.py)."""

    enabled: bool = True  # false: the centre of the picture, no noise
    area_min: Annotated[float, Range(0.0, 1.0, above=True)] = 0.08  # smallest crop, share of the picture
    area_max: Annotated[float, Range(0.0, 1.0, above=True)] = 1.0  # largest crop, share of the picture
    aspect_min: Annotated[float, Range(0.01, 100.0)] = 0.5  # smallest width over height of the crop
    aspect_max: Annotated[float, Range(0.01, 100.0)] = 2.0  # largest width over height of the crop
    flip: bool = True  # mirror half of the clips
    brightness: Share = 32 / 255  # largest change, share of full white
    saturation: Share = 0.4  # largest change of the factor 1
    contrast: Share = 0.4  # largest change of the factor 1
    hue: Share = 0.2  # largest turn, share of the colour circle
    audio_noise: Annotated[float, Range(0.0, 10.0)] = 0.01  # standard deviation, share of the clip's loudest sample

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("area", "aspect"):
            if (least := getattr(self, f"{name}_min")) > (most := getattr(self, f"{name}_max")):
                raise ValueError(f"{name}_min: {least:g} is above {name}_max, {most:g}")


@dataclass
class DataConfig(Section):
    """The loader. Data sets and their weights are lists of equal length; no weights means equal ones."""

    sources: list[str] = field(default_factory=list)  # folders of videos, manifests, shards or their URLs
    weights: list[Positive] = field(default_factory=list)  # how often each source is drawn from; empty: equally often
    workers: Processes = 2  # decoding processes of each rank
    prefetch: Few = 4  # batches (or parts of one) kept ready on each rank, beside those in use; fewer if memory is low
    windows_per_open: Few = 1  # windows that are read of a clip when it is opened, one after the other in the batch
    augment_on: Literal["auto", "gpu", "cpu"] = "auto"  # where crop, scale and colours are done; auto: where the run is
    decoder: Literal["pyav", "torchcodec", "torchcodec-cuda"] = "pyav"  # of films, but not of their views
    shuffle_shards: Shards = 0  # of shards: clips of so many at a time are mixed; 0: of all (slow disks ask for a few)
    cache: str | None = None  # folder for pieces of remote shards; None: ~/.cache/vatt/pieces
    cache_gb: Gigabytes = 20.0  # most gigabytes in it, shared by all processes; 0 keeps none
    decode_timeout: Seconds = 30.0  # seconds for one clip, then it is skipped; as many to fetch a piece of a shard
    max_bad_share: Share = 0.1  # of the clips that were tried; more stops the run
    eval_share: NotAll = 0.05  # of the videos: held out for evaluation where a data set names no split
    eval_split: str = "val"  # that a run evaluates on, such as val or test; test where val is asked for and not there
    vocabulary: str | None = None  # one word per line, or BERT's vocab.txt; None learns the words from the captions
    vocabulary_size: MostWords = 2**16  # most words learned from the captions, if there is no vocabulary
    word_embeddings: str | None = None  # .npy, one row per word
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and len(self.weights) != len(self.sources):
            raise ValueError(f"weights: {len(self.weights)} weights for {len(self.sources)} data sets")
        if not (name := self.eval_split.strip().lower()) or name in ("train", "all"):
            raise ValueError(f"eval_split: {self.eval_split!r} is no split that is held out, such as val or test")
