"""The data of a job: the built-in sample, what a run trains on, and what it holds out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from train.core.ranks import RankContext, wait_for_all
from vatt.clip import InputConfig
from vatt.data import Clip, DataConfig, ManifestError, Source, Splits, other_splits, read_clips, splits_of
from vatt.data.clips import Clips, check_packing, kinds_of
from vatt.data.decode import check_decoder
from vatt.data.skipped import Record
from vatt.data.splits import TRAIN, VAL, nothing_in, split_name
from vatt.sample import build, build_pictures
from vatt.sample.scene import SETS
from vatt.sample.writing import check_unchanged

SAMPLE, LARGE = Path(SETS["default"].folder), Path(SETS["large"].folder)


def sample_manifest(context: RankContext, say: Callable[[str], object], pictures: bool = False) -> str:
    """The manifest of the sample, or that of its pictures. Rank 0 builds what is not there; the others wait, and the
    first rank of a node builds it again where that has no disk in common with rank 0.

    Raises:
        SampleError: it cannot be built; the message names the folder.
    """
    manifest = SAMPLE / ("pictures.csv" if pictures else "manifest.csv")

    def make() -> None:
        build(SAMPLE, seed=0, say=say)
        if pictures:
            build_pictures(SAMPLE)

    if context.first:
        say(f"sample: {SAMPLE} (built once, in under a minute)")
        make()
    wait_for_all()
    if not context.first and context.first_of_node and not manifest.is_file():
        make()
    wait_for_all()
    return str(manifest)


def build_large(sources: list[str], context: RankContext, say: Callable[[str], object]) -> None:
    """Builds the large sample where it is asked for and not there, as `sample_manifest` does. One of another size or
    seed is used as it is.

    Raises:
        SampleError: it cannot be built, or was changed; the message names the folder.
    """
    manifest = LARGE / "manifest.csv"
    if str(manifest) not in sources:
        return
    if context.first and manifest.is_file():
        check_unchanged(LARGE)
    for builds in (context.first, context.first_of_node):
        if builds and not manifest.is_file():
            build(LARGE, name="large", say=say)
        wait_for_all()


@dataclass
class Corpus:
    """The clips of a run.

    Attributes:
        sources: the data sets to train on, with their weights.
        held_out: the clips to evaluate on, by data set.
        skipped: records of what the data sets name and do not hold.
        notes: what a user should know of the data sets.
        splits: in words, for each data set, the clips of its splits and the one that is evaluated.
    """

    sources: list[Source] = field(default_factory=list)
    held_out: dict[str, list[Clip]] = field(default_factory=dict)
    skipped: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)

    def training_clips(self) -> Iterator[Clip]:
        """Those of all data sets, one after the other."""
        return (clip for source in self.sources for clip in source.clips)

    def evaluation_clips(self) -> list[Clip]:
        """The held-out clips of all data sets."""
        return [clip for clips in self.held_out.values() for clip in clips]


def read_data(config: DataConfig) -> dict[str, Clips]:
    """Reads all data sets, by their names.

    Raises:
        ManifestError: one cannot be used; names the file and the place.
    """
    return {
        name: read_clips(name, cache=config.cache, cache_gb=config.cache_gb, timeout=config.decode_timeout)
        for name in dict.fromkeys(config.sources)
    }


def read_corpus(
    config: DataConfig,
    unusable: dict[str, str],
    spec: InputConfig,
    sound_only: bool = False,
    data: Mapping[str, Clips] | None = None,
) -> Corpus:
    """Reads all data sets and holds clips out for evaluation.

    Args:
        data: where they have been read already, see `read_data`.
        spec, sound_only: what the model reads of a clip; shards must have been packed for as much.
        unusable: kinds of media that the job cannot read, with the reason.

    Raises:
        ManifestError: a data set cannot be used or has no clip to train on, or none has a clip of ``data.eval_split``
            though that was named; names the file and the place.
        DecoderError: ``data.decoder`` cannot run here; nothing has been written to the folder of the run yet.
    """
    check_decoder(config.decoder, config.workers)
    data = read_data(config) if data is None else data
    corpus, absent = Corpus(), list[str]()
    weights = config.weights or [1.0] * len(config.sources)
    for name, weight in zip(config.sources, weights, strict=True):
        found = data[name]
        at = next((number for number, kind in enumerate(kinds_of(found.clips)) if kind in unusable), None)
        if at is not None:
            bad = found.clips[at]
            raise ManifestError(f"{name}, column {bad.kind}: {bad.video}: {unusable[bad.kind]}")
        check_packing(found.clips, spec, sound_only)
        splits = splits_of(found.clips, config.eval_share)
        refuse_without_training(name, splits)
        training = splits.of(TRAIN)
        corpus.sources.append(Source(name, training, weight))
        if name in corpus.held_out:  # named twice: each clip is evaluated once, or it would be as similar as its copy
            continue
        evaluated, words = evaluation_split(splits, config.eval_split)
        corpus.held_out[name] = list(splits.of(evaluated))
        corpus.splits.append(f"clips of {name}: {words}")
        wanted = evaluated if splits.named else split_name(config.eval_split)
        absent += [] if splits.counts.get(wanted) else [nothing_in(splits, wanted, name)]
        corpus.notes += [f"{name}: {others}"] if (others := other_splits(found.clips)) else []
        corpus.notes += [f"{name}: {note}" for note in found.notes]
        corpus.skipped += [{"dataset": name, **record} for record in found.skipped]
    if absent and len(absent) == len(corpus.held_out) and split_name(config.eval_split) != VAL:
        raise ManifestError(f"data.eval_split={config.eval_split}: {absent[0]}")
    return corpus


def refuse_without_training(name: str, splits: Splits) -> None:
    """Raises ManifestError: a data set has no clip to train on."""
    if not splits.counts[TRAIN]:
        raise ManifestError(f"{name}: no clip to train on; column split holds {splits}, wanted: train")


def evaluation_split(splits: Splits, wanted: str) -> tuple[str, str]:
    """The split of a data set that is evaluated, and in words what is in which: "train 384, val 96, test 0; evaluated:
    val"."""
    name = splits.held_out(wanted) if splits.named else VAL
    why = "" if name == split_name(wanted) or not splits.named else f", for there is no {split_name(wanted)}"
    return name, f"{splits}; evaluated: {name}{why}"
