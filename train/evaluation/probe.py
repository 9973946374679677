"""Linear probes on frozen features: the paper's low-rank classifier, and a linear SVM."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from train.core.command import positive
from train.core.ranks import RankContext, gather, wait_for_all
from train.evaluation.task import exit_status, share_of, tell_skipped, write
from vatt.data import Clip, DataConfig, Views, find_classes, other_splits, read_clips
from vatt.evaluation.probe import (
    KINDS,
    Features,
    LowRankConfig,
    check_classes,
    extract,
    fit_split,
    require_svm,
    splits_of,
    summary,
)
from vatt.evaluation.probe.features import fingerprint
from vatt.models import VATT, Classifier
from vatt.precision import type_of
from vatt.weights.folder import WEIGHTS, load_pretrained, model_folder

CACHE = Path("runs/features")
Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--modality", choices=("video", "audio"), default="video", help="which backbone (default: video)")
    add("--classifier", choices=(*KINDS, "both"), default="both", help="default: both")
    add("--steps", type=positive, default=LowRankConfig().steps, help="of the low-rank classifier (default: 50000)")
    add("--no-standardise", action="store_true", help="fit on the features as they are (default: mean 0, deviation 1)")
    add("--random-init", type=int, metavar="SEED", help="forget the weights: what the architecture alone knows")
    add("--seed", type=int, default=0, help="of both classifiers (default: 0)")
    add("--features", type=Path, default=CACHE, metavar="DIR", help="where features are kept (default: %(default)s)")


def run(options: argparse.Namespace, context: RankContext) -> int:
    """Extracts the features once, on all ranks, and fits on rank 0 for each split."""
    kinds = KINDS if options.classifier == "both" else (options.classifier,)
    if "svm" in kinds:
        require_svm()
    found = read_clips(options.data)
    if others := other_splits(found.clips):
        context.say(f"warning: {options.data}: {others}")
    clips, splits = found.clips, splits_of(found.clips, options.data, options.split, share_of(options))
    used = sorted({number for split in splits for number in (*split.train, *split.test)})
    classes = find_classes([clips[number] for number in used], options.data, options.label or "label")
    for split in splits:
        if without := check_classes(classes, clips, split, options.data):
            context.say(f"warning: {split.name} has no test clip of {len(without)} classes: {', '.join(without[:5])}")
    views = Views(options.clips or 4, options.crops or 1)
    config = DataConfig(workers=options.workers)
    features = _features(options, clips, views, config, context)
    timings = {"features": round(time.monotonic() - context.began, 2)}
    tell_skipped(context, options, features.skipped)
    if context.first:
        low_rank = LowRankConfig(steps=options.steps, seed=options.seed)
        rows = []
        for kind in kinds:
            began = time.monotonic()
            rows += [
                fit_split(features, clips, classes, split, kind, low_rank, standardise=not options.no_standardise)
                for split in splits
            ]
            timings[kind] = round(time.monotonic() - began, 2)
        _print(context, rows, timings, options)
        if found.skipped:
            first = found.skipped[0]
            context.say(f"warning: {len(found.skipped)} entries of the manifest were left out, such as {first['file']}")
        about = {"task": "probe", "model": str(options.model), "data": str(options.data), "modality": options.modality}
        about |= {"random_init": options.random_init, "label": classes.column, "views": asdict(views)}
        about |= {"standardised": not options.no_standardise, "low_rank": asdict(low_rank), "timings": timings}
        about["precision"] = options.precision
        write(context, options.out, {**about, "rows": rows, "summary": summary(rows), "missing": len(found.skipped)})
    wait_for_all()
    return exit_status(context, options, len(features.skipped), len(clips))


def _features(
    options: argparse.Namespace, clips: Sequence[Clip], views: Views, config: DataConfig, context: RankContext
) -> Features:
    """From the file of an earlier probe where there is one; what that could not read is tried again."""
    folder = model_folder(options.model)
    exact = str(type_of(options.precision, context.device))
    mark = fingerprint(folder / WEIGHTS, clips, options.modality, views, options.random_init, exact)
    kept = options.features / f"{mark}.safetensors"
    earlier = Features.load(kept) if context.first else None
    earlier = gather(earlier)[0]  # rank 0's: the ranks may not see the same files
    todo = range(len(clips)) if earlier is None else [record["index"] for record in earlier.skipped]
    if earlier is not None:
        context.say(f"features: {kept}, as an earlier probe left them")
        if not todo:
            return earlier
    model = load_pretrained(folder)
    if options.random_init is not None:
        model = _forget(model, options.random_init)
    context.say(f"features: {len(todo)} clips, {views.count(options.modality)} views each")
    own = extract(
        context.to_device(model, options.precision),
        clips,
        options.modality,
        views,
        config,
        device=context.device,
        batch_size=options.batch_size,
        numbers=[todo[number] for number in context.shard(len(todo))],
    )
    parts = gather(own)
    if earlier is not None:
        parts.append(Features(earlier.numbers, earlier.x_NVD))
    found = Features.join(parts)
    if len(found.numbers) + len(found.skipped) != len(clips):
        raise RuntimeError(f"{len(clips)} clips were asked for, {len(found.numbers)} have features")
    if context.first:
        found.save(kept)
    return found


def _forget(model: VATT | Classifier, seed: int) -> VATT | Classifier:
    """The same architecture with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(model, VATT):
            return VATT(model.config).eval()
        assert model.config is not None
        return Classifier.from_config(model.config).eval()


def _print(context: RankContext, rows: list[Row], timings: dict[str, float], options: argparse.Namespace) -> None:
    context.say(
        f"{'split':12}{'classifier':>12}{'top-1':>8}{'top-5':>8}{'chance':>8}{'train':>8}{'test':>8}{'skipped':>9}"
    )
    for row in rows:
        shares = "".join(f"{100 * row[name]:7.1f}%" for name in ("top1", "top5", "chance"))
        counts = f"{row['n_train']:8d}{row['n_test']:8d}{row['skipped']:9d}"
        context.say(f"{row['split']:12}{row['classifier']:>12}{shares}{counts}")
    for line in summary(rows):
        if line["splits"] > 1:
            top1, deviation = 100 * line["top1"], 100 * line["top1_deviation"]
            context.say(
                f"{'mean':12}{line['classifier']:>12}{top1:7.1f}% +- {deviation:.1f} over {line['splits']} splits"
            )
    weights = "random weights" if options.random_init is not None else "frozen"
    context.say(f"{options.modality} backbone of {options.model}, {weights}, column {options.label or 'label'}")
    context.say(", ".join(f"{name} {seconds:g} s" for name, seconds in timings.items()))
