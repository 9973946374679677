"""What the first command of the README learns, with three seeds of both tiny models: ``python -m train.study.search``;
and with ``--recipe sample-large --models vatt-small`` what is learned of the larger sample.

Runs the pretraining of the sample that has no row yet, and adds two rows for each run, one per direction: recall, and
what the first five clips have in common with the query, which says by which attributes a sentence or a sound finds.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.config.pretraining import recipe
from train.study.experiments import SAMPLE, StudyError
from vatt import VATT, results
from vatt.environment import package_version
from vatt.errors import UserError, printable
from vatt.files import TREE
from vatt.process import running
from vatt.results import Row, Table
from vatt.sample.scene import SETS

RESULTS = TREE / "bench" / "results" / "sample_retrieval.csv"
MODELS = ("vatt-tiny", "vatt-ma-tiny")
FOLDERS = {"sample": SAMPLE, "sample-large": Path(SETS["large"].folder)}
ATTRIBUTES = ("colour", "size", "shape", "motion")
FIRST = 5  # clips of an answer that are looked at
_COMMON = tuple(f"same_{name}" for name in ATTRIBUTES)
FIELDS = (
    *("model", "seed", "audio_level", "direction", "r1", "r5", "r10", "median_rank", "clips", "r5_over_chance"),
    *(*_COMMON, *(f"{name}_chance" for name in _COMMON)),
    *("steps", "batch_size", "time", "commit", "dirty", "device", "versions", "command"),
)


def in_common(found_QK: Tensor, rows: Sequence[Row]) -> dict[str, float]:
    """The share of found clips that have the colour, size, shape and motion of the query's own clip.

    Args:
        found_QK: numbers of the clips that each query found; query i belongs to clip i.
        rows: of the manifest, one a clip.

    Returns:
        attribute -> share, 0 to 1.
    """
    shares = {}
    for name in ATTRIBUTES:
        value_V = [row[name] for row in rows]
        same = [value_V[i] == value for value, found in zip(value_V, found_QK.tolist(), strict=True) for i in found]
        shares[name] = sum(same) / len(same)
    return shares


def command(model: str, seed: int, level: str, name: str = "sample", steps: int | None = None) -> tuple[str, ...]:
    """After the interpreter or ``deepspeed``. The level is named where it is not the model's own, and steps where they
    are not those of the recipe of that name."""
    level_ = () if level == "rms" else (f"model.input.audio_level={level}",)
    steps_ = () if steps in (None, recipe(name).run.steps) else ("--steps", str(steps))
    options = (f"run.seed={seed}", "run.eval_every=0", *level_)
    return "train/pretrain.py", "--config", name, "--model", model, *steps_, *options


def rows_of(run: Path, where: Mapping[str, Any], name: str = "sample") -> list[dict[str, Any]]:
    """The rows of a run that has ended, one per direction. Its commands named the manifest relative to the tree.

    Args:
        where: time, commit, dirty, device and versions.

    Raises:
        StudyError: the run has left no result that can be read.
    """
    try:
        table = json.loads((run / "retrieval.json").read_text(encoding="utf-8"))["table"]
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        sample = TREE / FOLDERS[name]
        with (sample / "manifest.csv").open(newline="", encoding="utf-8") as file:
            clips = [row for row in csv.DictReader(file) if row["split"] == "val"]
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(f"{run}: holds no finished run on the sample: {error}") from error
    model, level, seed = config["model"]["name"], config["model"]["input"]["audio_level"], config["run"]["seed"]
    steps = config["run"]["steps"]
    every_VV = torch.arange(len(clips)).expand(len(clips), -1)
    chance = {f"same_{name}_chance": share for name, share in in_common(every_VV, clips).items()}
    rows = []
    for direction, similar_QV in similarities(run, sample, clips).items():
        found = in_common(similar_QV.topk(FIRST).indices, clips)
        recall = {name: table[direction][name] for name in ("r1", "r5", "r10", "median_rank")}
        times = table[direction]["r5"] / table["chance"]["r5"]
        rows.append(
            {"model": model, "seed": seed, "audio_level": level, "direction": direction, **recall}
            | {"clips": len(clips), "r5_over_chance": f"{times:.1f}"}
            | {f"same_{name}": share for name, share in found.items()}
            | chance
            | {"steps": steps, "batch_size": config["run"]["batch_size"], **where}
            | {"command": shlex.join(["deepspeed", *command(model, seed, level, name, steps)])}
        )
    return rows


def similarities(run: Path, sample: Path, clips: Sequence[Row]) -> dict[str, Tensor]:
    """For each direction the cosine similarities (Q, V) of the clips, in the windows that the evaluation reads."""
    model = VATT.from_pretrained(run)
    paths = [sample / clip["video"] for clip in clips]
    sentences = [queries["text"] for queries in json.loads((run / "retrieval.json").read_text("utf-8"))["queries"]]
    text_QD, audio_QD = model.embed_text(sentences), model.embed_audio(paths, windows=1)
    return {
        "text_to_video": text_QD @ model.embed_video(paths, space="text", windows=1).T,
        "audio_to_video": audio_QD @ model.embed_video(paths, space="audio", windows=1).T,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 with a message for what the user can mend."""
    parser = argparse.ArgumentParser("python -m train.study.search", description=__doc__)
    add = parser.add_argument
    add("--seeds", default="0,1,2", help="default: %(default)s")
    add("--models", default=",".join(MODELS), help="default: %(default)s")
    add("--recipe", default="sample", choices=FOLDERS, help="default: %(default)s")
    add("--steps", type=int, help="of each run (default: the recipe's)")
    add("--audio-level", default="rms", choices=["rms", "as_is"], help="model.input.audio_level (default: %(default)s)")
    add("--out", type=Path, default=Path("runs/search"), help="folder of the runs (default: %(default)s)")
    add("--results", type=Path, metavar="FILE.csv", help="default: that of the recipe in bench/results")
    options = parser.parse_args(arguments)
    name = options.recipe
    path = options.results or (RESULTS if name == "sample" else RESULTS.with_name("sample_large_retrieval.csv"))
    try:
        table = Table(path, FIELDS, resume=True)
        for model in options.models.split(","):
            for seed in map(int, options.seeds.split(",")):
                if table.find(model=model, seed=str(seed), audio_level=options.audio_level):
                    continue
                where = origin(path)
                out = options.out / f"{model}-{options.audio_level}-seed{seed}"
                line = (*command(model, seed, options.audio_level, name, options.steps), "--out", str(out))
                print(" ".join(line), flush=True)
                if not (out / "retrieval.json").is_file():
                    with running([sys.executable, *line], folder=TREE, name=" ".join(line)) as process:
                        process.finish()
                for row in rows_of(out, where, name):
                    table.add(row)
                    print(f"    {row['direction']}: R@5 {row['r5_over_chance']} times chance", flush=True)
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    return 0


def origin(path: Path) -> dict[str, Any]:
    """Where a row that is made now comes from; that rows were added to ``path`` does not make the tree dirty."""
    found = results.origin(torch.device("cuda" if torch.cuda.is_available() else "cpu"), aside=path)
    versions = {name: package_version(name) for name in ("torch", "deepspeed", "av")}
    named = ", ".join(f"{name} {version}" for name, version in {"python": found["python"], **versions}.items())
    return {name: found[name] for name in ("time", "commit", "dirty", "device")} | {"versions": named}


if __name__ == "__main__":
    raise SystemExit(main())
