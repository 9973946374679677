"""Zero-shot retrieval: sentences and sounds find videos, by averaged embeddings and by averaged similarities."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict

from train.core.ranks import RankContext, gather, wait_for_all
from train.evaluation.task import clips_of, exit_status, tell_missing, tell_skipped, write
from vatt.config import ConfigError
from vatt.data import Batch, Clip, DataConfig, eval_batches
from vatt.data.skipped import Record
from vatt.data.tokenizer import FILE as TOKENIZER
from vatt.evaluation.retrieval import NAMES, Embeddings, embed_windows, format_table, retrieval_tables
from vatt.inference import VATT
from vatt.weights.folder import PretrainedError, model_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--vocabulary", metavar="FILE", help="one word per line, for a model folder without tokenizer.json")


def run(options: argparse.Namespace, context: RankContext) -> int:
    """Embeds the split on all ranks and prints both tables on rank 0."""
    for name in ("crops", "label"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name}: means nothing for --task retrieval; leave it out")
    folder = model_folder(options.model)
    model = context.to_device(VATT.from_pretrained(folder, vocabulary=options.vocabulary), options.precision)
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise PretrainedError(f"{folder}: has no {TOKENIZER}; give the words of the model by --vocabulary FILE")
    clips, split, missing = clips_of(context, options)
    windows = options.clips or 4
    config = DataConfig(workers=options.workers)
    own: list[Clip] = [clips[number] for number in context.shard(len(clips))]
    began = time.monotonic()
    skipped: list[Record] = []

    def batches() -> Iterator[Batch]:
        for batch in eval_batches(
            own, tokenizer, model.config.input, config, batch_size=options.batch_size, windows=windows
        ):
            skipped.extend(batch["skipped"])
            yield batch

    part = embed_windows(model, batches(), context.device) if own else None
    parts = [item for item in gather(part) if item is not None]
    skipped = [record for records in gather(skipped) for record in records]
    found = Embeddings.join(parts)
    seconds = time.monotonic() - began
    tell_skipped(context, options, skipped)
    tables = retrieval_tables(found, windows)
    for name, table in tables.items():
        queries = ", ".join(f"{level.n} queries {NAMES[key]}" for key, level in table.items() if key != "chance")
        context.say(f"averaged {name} of {windows} windows; {len(found.captions)} clips; {queries or 'no query'}")
        context.say(format_table(table))
    context.say(f"{len(clips) / seconds:.1f} clips/s, {context}")
    tell_missing(context, missing)
    content = {kind: {name: asdict(level) for name, level in table.items()} for kind, table in tables.items()}
    about = {"task": "retrieval", "model": str(options.model), "data": options.data, "split": split, "windows": windows}
    about |= {"precision": options.precision, "missing": len(missing)}
    write(context, options.out, {**about, "n": len(found.captions), "skipped": len(skipped), "tables": content})
    wait_for_all()
    return exit_status(context, options, len(skipped), len(clips))
