"""Builds the clips, trains on them, asks what was learned, and adds the figures to a table: one seed of the study.

    python -m examples.stamps --seed 0
    python -m examples.stamps --levels      # sounds as they are beside sounds at one level, three seeds, short runs
    python -m examples.stamps --page        # only write the tables of docs/results.md

Each command that it runs is one of the project's, and is printed as one would type it. What an earlier call has done is
not done again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.stamps import neighbours, results
from examples.stamps.clips import STAMPS, build
from examples.stamps.neighbours import Features, chance, recall
from vatt import VATT, Clip, read_clips
from vatt.errors import UserError, printable
from vatt.files import TREE

LEVELS = ("as_is", "rms")
# Of the comparison of levels: the recipe of the built-in sample, shorter, and without sentences.
SHORT = "--config sample --steps 200 data.augment.flip=false model.loss.vid_txt_weight=0 run.eval_every=0"


class StudyError(UserError, RuntimeError):
    """A command of the study that failed; what it printed says why."""


@dataclass
class Study:
    """One run and what is asked of it.

    Attributes:
        clips: folder of the clips.
        folder: of the run, and of all that is made from it.
        about: columns of all its rows: study, level, seed.
    """

    clips: Path
    folder: Path
    about: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seed(self) -> str:
        return str(self.about["seed"])

    def command(self, what: str, result: Path, *arguments: str) -> dict[str, Any]:
        """Runs one of the project's commands, unless its result is there; gives that, and notes how long it took."""
        arguments = tuple(word.removeprefix(f"{TREE}/") for word in arguments)  # as one would type it in the clone
        line = shlex.join(["python", *arguments])
        kept = self.folder.with_name(f"{self.folder.name}.seconds.json")
        seconds = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        if not result.is_file():
            if arguments[0] != "train/evaluate.py":  # the folder of a run that was stopped
                shutil.rmtree(result.parent, ignore_errors=True)
            print(f"$ {line}", flush=True)
            began = time.monotonic()
            if subprocess.run([sys.executable, *arguments], cwd=TREE).returncode:
                raise StudyError(f"{what}: failed: {line}")
            seconds[line] = time.monotonic() - began
            kept.write_text(json.dumps(seconds, indent=1), encoding="utf-8")
        if line in seconds:
            self.add(what, "", "", "seconds", seconds[line], command=line)
        return json.loads(result.read_text(encoding="utf-8"))

    def add(self, what: str, split: str, method: str, metric: str, value: float, **others: Any) -> None:
        row = {**self.about, "what": what, "split": split, "method": method, "metric": metric, "value": value}
        self.rows.append(row | others)

    @cached_property
    def all_clips(self) -> list[Clip]:
        return list(read_clips(self.clips / "manifest.csv").clips)

    def numbers(self, split: str, sounding: bool = False) -> np.ndarray:
        """The numbers of the clips of a split, or of those with a sound."""
        found = [(clip.split == split and (not sounding or clip.extra["sound"] != "")) for clip in self.all_clips]
        return np.flatnonzero(found)

    def column(self, name: str, numbers: np.ndarray) -> np.ndarray:
        return np.array([self.all_clips[number].extra[name] for number in numbers])

    def captions(self, numbers: np.ndarray) -> list[str]:
        return [self.all_clips[number].captions[0].text for number in numbers]

    @cached_property
    def features(self) -> Features:
        return neighbours.features(self.all_clips, self.clips / "neighbours.npz")

    def features_of(self, numbers: np.ndarray) -> Features:
        found = self.features
        return Features(found.colours_ND[numbers], found.changes_ND[numbers], found.spectra_ND[numbers])

    def pretrain(self, recipe: str) -> dict[str, Any]:
        data = ("--data", str(self.clips / "manifest.csv"), "--out", str(self.folder), f"run.seed={self.seed}")
        return self.command(
            "pretraining", self.folder / "retrieval.json", "train/pretrain.py", *shlex.split(recipe), *data
        )

    def search(self, split: str, sounds_alone: bool = False) -> None:
        """Sentences and sounds find videos of a split, by the model, by random weights, and by neighbours."""
        trained = VATT.from_pretrained(self.folder)
        torch.manual_seed(int(self.seed))
        fresh = VATT(trained.config)
        fresh.tokenizer = trained.tokenizer
        models = {"model": trained, "random": fresh.eval()}
        if not sounds_alone:
            numbers = self.numbers(split)
            sentences, train = self.captions(numbers), self.numbers("train")
            equal = np.array(sentences)
            similar = {name: self.similar(model, numbers, "text") for name, model in models.items()}
            words = (sentences, self.captions(train), self.features_of(train), self.features_of(numbers))
            similar["neighbours"] = neighbours.by_words(*words)
            self.judge("text -> video", split, similar, equal[:, None] == equal[None])
        if split == "val":  # a sound that training does not have at all says nothing of the picture
            numbers, heard = self.numbers(split, True), self.features_of(self.numbers("train", True))
            equal, own = self.column("sound", numbers), self.features_of(numbers)
            similar = {name: self.similar(model, numbers, "audio") for name, model in models.items()}
            similar["neighbours"] = neighbours.by_sound(own.spectra_ND, heard, own.colours_ND)
            self.judge("audio -> video", split, similar, equal[:, None] == equal[None])

    def similar(self, model: VATT, numbers: np.ndarray, by: str) -> np.ndarray:
        """(Q, V): cosines between the sentences or sounds of the clips and their videos. One window covers a clip."""
        clips = [self.all_clips[number] for number in numbers]
        options: dict[str, Any] = {"windows": 1, "batch_size": 32, "workers": 1}
        videos_VD = model.embed_video(clips, space=by, **options)
        if by == "text":
            return (model.embed_text(self.captions(numbers)) @ videos_VD.T).numpy()
        return (model.embed_audio(clips, **options) @ videos_VD.T).numpy()

    def judge(self, what: str, split: str, similar: dict[str, np.ndarray], right_QV: np.ndarray) -> None:
        for method, similar_QV in similar.items():
            value, others = recall(similar_QV, right_QV), {"chance": chance(right_QV), "n": len(right_QV)}
            self.add(what, split, method, "R@5", value, **others)

    def probe(self, modality: str, label: str) -> None:
        """What linear classifiers find in the frozen features, of the model and of random weights; and neighbours."""
        sounding = label == "sound"
        manifest = self.clips / ("sounds.csv" if sounding else "manifest.csv")
        for method, options in (("model", ()), ("random", ("--random-init", self.seed))):
            result = self.folder / f"probe-{method}-{label}.json"
            asked = ("--modality", modality, "--data", str(manifest), "--label", label, "--split", "val")
            fit = ("--classifier", "low-rank", "--steps", "10000", "--clips", "1", "--seed", self.seed)
            where = ("--features", str(self.folder / "features"), "--out", str(result))
            line = ("train/evaluate.py", "--task", "probe", "--model", str(self.folder), *asked, *fit, *options, *where)
            (row,) = self.command(f"probe of {label}", result, *line)["rows"]
            self.add(label, "val", method, "top-1", row["top1"], chance=row["chance"], n=row["n_test"])
        train, held_out = self.numbers("train", sounding), self.numbers("val", sounding)
        name = "spectra_ND" if sounding else "changes_ND"
        ours, theirs = (getattr(self.features_of(numbers), name) for numbers in (held_out, train))
        right = np.array(neighbours.vote(ours, theirs, self.column(label, train))) == self.column(label, held_out)
        self.add(label, "val", "neighbours", "top-1", right.mean(), chance=row["chance"], n=len(right))

    def finetune(self, modality: str, label: str, recipe: str) -> None:
        """A classifier of all weights, from the pretrained backbone and from scratch, for equally many steps."""
        manifest = str(self.clips / "manifest.csv")
        name = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))["model"]["name"]
        for method, start in (("fine-tuned", ("--init", str(self.folder))), ("scratch", ("--model", name))):
            out = self.folder / f"{method}-{label}"
            task = ("--task", modality, *shlex.split(recipe), "--data", manifest, "--label", label)
            line = ("train/finetune.py", *task, *start, "--out", str(out), f"run.seed={self.seed}")
            found = self.command(f"fine-tuning for {label}", out / "evaluation.json", *line)
            table = found["table"]
            self.add(label, "val", method, "top-1", table["top1"], chance=table["chance"], n=table["n"])

    def last_loss(self) -> None:
        """The loss of video and sound at the end of training."""
        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        record = [record for record in map(json.loads, lines) if record["kind"] == "train"][-1]
        self.add("loss", "train", "model", "vidaud_loss", record["vidaud_loss"], chance=record["vidaud_chance"])


def study_seed(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All figures of one seed."""
    about = {"study": "main", "level": options.level, "seed": options.seed}
    study = Study(options.clips, options.out / f"seed{options.seed}-{options.level}", about)
    began, there = time.monotonic(), options.clips.is_dir()
    build(options.stamps, options.clips, workers=options.workers)
    if not there:
        study.add("building the clips, once", "", "", "seconds", time.monotonic() - began)
    study.pretrain(f"{options.pretrain} model.input.audio_level={options.level}")
    began = time.monotonic()
    study.search("val")
    study.search("test")
    study.add("search and neighbours", "", "", "seconds", time.monotonic() - began)
    study.probe("video", "motion")
    study.probe("audio", "sound")
    study.finetune("video", "motion", options.finetune)
    return study.rows


def compare_levels(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both levels with three seeds: a few clips, all with a sound."""
    clips, rows = options.clips.with_name(f"{options.clips.name}-few"), []
    build(options.stamps, clips, with_sound=3, silent=0, workers=options.workers)
    for seed in (0, 1, 2):
        for level in LEVELS:
            about = {"study": "levels", "level": level, "seed": seed}
            study = Study(clips, options.out / f"levels-seed{seed}-{level}", about)
            study.pretrain(f"{SHORT} model.input.audio_level={level}")
            study.last_loss()
            study.search("val", sounds_alone=True)
            study.probe("audio", "sound")
            rows += study.rows
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m examples.stamps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--stamps", type=Path, default=STAMPS, help="folder of the package (%(default)s)")
    add("--clips", type=Path, default=Path("runs/stamps-clips"), help="where the clips are put (%(default)s)")
    add("--out", type=Path, default=Path("runs/stamps"), help="where the runs are put (%(default)s)")
    add("--results", type=Path, default=results.RESULTS, metavar="FILE.csv", help="where the rows are added")
    add("--seed", type=int, default=0, help="of weights, windows and probes (%(default)s)")
    add("--level", choices=LEVELS, default="rms", help="model.input.audio_level (%(default)s)")
    add("--pretrain", default="--config auto", metavar="ARGUMENTS", help='of train/pretrain.py ("%(default)s")')
    default = "--config sample data.augment.flip=false"  # motions go left and right
    add("--finetune", default=default, metavar="ARGUMENTS", help='of train/finetune.py ("%(default)s")')
    add("--workers", type=int, default=0, help="processes that make clips (0: one for each core)")
    add("--levels", action="store_true", help="only compare the levels of sounds")
    add("--page", action="store_true", help="only write the tables of docs/results.md")
    options = parser.parse_args(arguments)
    try:
        table = results.open_table(options.results)
        where = results.origin(options.results)
        for name in ("clips", "out"):  # the commands run in the clone
            setattr(options, name, getattr(options, name).resolve())
        if not options.page:
            made = compare_levels(options) if options.levels else study_seed(options)
            for row in made:
                table.add({**where, **row})
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    if options.page:
        page = results.PAGE
        page.write_text(results.filled(page.read_text(encoding="utf-8"), table.rows), encoding="utf-8")
        print(page)
        return 0
    rows = results.newest(table.rows)
    own = [row for row in rows if (row["study"], row["seed"]) in {(r["study"], str(r["seed"])) for r in made}]
    name, text = ("levels", results.levels_table(own)) if options.levels else ("table", results.main_table(own))
    (options.out / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    (options.out / f"{name}.json").write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
