"""Linear probes on frozen features: the paper's low-rank classifier, and a linear SVM."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import torch

from train.evaluation.place import Place, tell_skipped, write
from train.ranks import gather, wait_for_all
from vatt.classification_metrics import accuracy
from vatt.data import Classes, Clip, DataConfig, Views, find_classes, read_clips
from vatt.models import VATT, Classifier, build_classifier
from vatt.pretrained import WEIGHTS, load_pretrained, model_folder
from vatt.probe import Features, LowRankConfig, ProbeError, Split, extract, fit_low_rank, fit_svm, splits_of
from vatt.probe.features import fingerprint

KINDS = ("low-rank", "svm")
CACHE = Path("runs/features")
Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--modality", choices=("video", "audio"), default="video", help="which backbone (default: video)")
    add("--classifier", choices=(*KINDS, "both"), default="both", help="default: both")
    add("--steps", type=int, default=LowRankConfig().steps, help="of the low-rank classifier (default: %(default)s)")
    add("--random-init", type=int, metavar="SEED", help="forget the weights: what the architecture alone knows")
    add("--seed", type=int, default=0)
    add("--features", type=Path, default=CACHE, metavar="DIR", help="where features are kept (default: %(default)s)")


def run(options: argparse.Namespace, place: Place) -> int:
    """Extracts the features once, on all ranks, and fits on rank 0 for each split."""
    clips = read_clips(options.data)
    splits = splits_of(clips.clips, options.data)
    classes = find_classes(clips.clips, options.data, options.label or "label")
    for split in splits:
        _check(classes, clips.clips, split, options.data, place)
    views = Views(options.clips or 4, options.crops or 1)
    config = DataConfig(workers=options.workers)
    features = _features(options, clips.clips, views, config, place)
    tell_skipped(place, options.out, features.skipped, len(clips.clips), config)
    if place.rank == 0:
        kinds = KINDS if options.classifier == "both" else (options.classifier,)
        low_rank = LowRankConfig(steps=options.steps, seed=options.seed)
        rows = [_fit(features, clips.clips, classes, split, kind, low_rank) for kind in kinds for split in splits]
        _print(place, rows, kinds, options)
        content: dict[str, Any] = {
            name: str(getattr(options, name)) for name in ("model", "data", "modality", "random_init")
        }
        content |= {"label": classes.column, "views": asdict(views), "low_rank": asdict(low_rank)}
        write(place, options.out, {"task": "probe", **content, "rows": rows, "missing": len(clips.skipped)})
    wait_for_all()
    return 0


def _check(classes: Classes, clips: list[Clip], split: Split, where: str, place: Place) -> None:
    if without := classes.check([clips[n] for n in split.train], f"{where}, {split.name}"):
        raise ProbeError(f"{where}, {split.name}: no training clip of the class {', '.join(without[:5])}")
    if without := classes.check([clips[n] for n in split.test], f"{where}, {split.name}"):
        place.say(f"warning: {split.name} has no test clip of {len(without)} classes: {', '.join(without[:5])}")


def _features(
    options: argparse.Namespace, clips: list[Clip], views: Views, config: DataConfig, place: Place
) -> Features:
    folder = model_folder(options.model)
    mark = fingerprint(folder / WEIGHTS, clips, options.modality, views, options.random_init)
    kept = options.features / f"{mark}.safetensors"
    known = gather(Features.load(kept) is not None)
    if all(known) and (found := Features.load(kept)) is not None:
        place.say(f"features: {kept}, as an earlier probe left them")
        return found
    model = load_pretrained(folder)
    if options.random_init is not None:
        model = _forget(model, options.random_init)
    place.say(f"features: {len(clips)} clips, {views.count(options.modality)} views each")
    own = extract(
        model.to(place.device),
        clips,
        options.modality,
        views,
        config,
        device=place.device,
        batch_size=options.batch_size,
        numbers=place.share(len(clips)),
    )
    found = Features.join(gather(own))
    if place.rank == 0:
        found.save(kept)
    return found


def _forget(model: VATT | Classifier, seed: int) -> VATT | Classifier:
    """The same architecture with random weights."""
    torch.manual_seed(seed)
    if isinstance(model, VATT):
        return VATT(model.config).eval()
    assert model.config is not None
    return build_classifier(model.config).eval()


def _fit(
    features: Features, clips: list[Clip], classes: Classes, split: Split, kind: str, low_rank: LowRankConfig
) -> Row:
    """One classifier on one split; scores are averaged over the views of a clip."""
    place = {number: row for row, number in enumerate(features.numbers)}
    train, test = ([n for n in side if n in place] for side in (split.train, split.test))
    if not train or not test:
        raise ProbeError(f"{split.name}: none of its clips could be read on one side")
    x_train, x_test = (features.x_NVD[[place[n] for n in side]] for side in (train, test))
    centre, spread = x_train.flatten(0, 1).mean(0), x_train.flatten(0, 1).std(0).clamp(min=1e-6)
    flat = ((x_train - centre) / spread).flatten(0, 1)
    views = x_train.shape[1]
    labels = torch.tensor([classes.numbers(clips[n])[0] for n in train])
    if kind == "low-rank":
        targets = torch.nn.functional.one_hot(labels, len(classes.names)).float()
        model = fit_low_rank(flat, targets.repeat_interleave(views, 0), low_rank)
        with torch.no_grad():
            scores = model(((x_test - centre) / spread).flatten(0, 1))
    else:
        each = [label for label in labels.tolist() for _ in range(views)]
        owner = [clip for clip in range(len(train)) for _ in range(views)]
        scorer = fit_svm(flat, each, owner, len(classes.names), low_rank.seed)
        scores = scorer(((x_test - centre) / spread).flatten(0, 1))
    wanted = torch.tensor([classes.numbers(clips[n])[0] for n in test])
    found = accuracy(scores.unflatten(0, (-1, views)).mean(1), wanted)
    chance = torch.bincount(wanted, minlength=len(classes.names)).max().item() / len(wanted)
    lost = len(split.train) + len(split.test) - len(train) - len(test)
    counts = {"n_train": len(train), "n_test": len(test), "skipped": lost, "classes": len(classes.names)}
    return {"split": split.name, "classifier": kind, **found, "chance": chance, **counts}


def _print(place: Place, rows: list[Row], kinds: tuple[str, ...], options: argparse.Namespace) -> None:
    place.say(
        f"{'split':12}{'classifier':>12}{'top-1':>8}{'top-5':>8}{'chance':>8}{'train':>8}{'test':>8}{'skipped':>9}"
    )
    for row in rows:
        shares = "".join(f"{100 * row[name]:7.1f}%" for name in ("top1", "top5", "chance"))
        counts = f"{row['n_train']:8d}{row['n_test']:8d}{row['skipped']:9d}"
        place.say(f"{row['split']:12}{row['classifier']:>12}{shares}{counts}")
    for kind in kinds:
        tops = [100 * row["top1"] for row in rows if row["classifier"] == kind]
        if len(tops) > 1:
            place.say(f"{'mean':12}{kind:>12}{mean(tops):7.1f}% +- {pstdev(tops):.1f} over {len(tops)} splits")
    weights = "random weights" if options.random_init is not None else "frozen"
    place.say(f"{options.modality} backbone of {options.model}, {weights}, column {options.label or 'label'}")
