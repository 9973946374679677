"""Zero-shot retrieval: sentences and sounds find videos, by averaged embeddings and by averaged similarities."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from train.core.ranks import RankContext, everyone, gather, wait_for_all
from train.evaluation.task import clips_of, exit_status, tell_missing, tell_skipped, write
from vatt.config import ConfigError
from vatt.data import Batch, Clip, DataConfig, Tokenizer, eval_batches
from vatt.data.clips import ClipTable
from vatt.data.skipped import Record
from vatt.data.tokenizer import FILE as TOKENIZER
from vatt.evaluation.retrieval import EQUAL, MEANINGFUL, NAMES, embed, format_table, retrieval_tables, shared_lines
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
    numbers = context.shard(len(clips))
    own: Sequence[Clip] = clips.part(numbers) if isinstance(clips, ClipTable) else [clips[n] for n in numbers]
    began = time.monotonic()
    skipped: list[Record] = []

    def batches() -> Iterator[Batch]:
        for batch in eval_batches(
            own, tokenizer, model.config.input, config, batch_size=options.batch_size, windows=windows
        ):
            skipped.extend(batch["skipped"])
            yield batch

    found = embed(model, batches(), context.device)
    skipped = [record for records in gather(skipped) for record in records]
    seconds = time.monotonic() - began
    tell_skipped(context, options, skipped)
    tables = retrieval_tables(found, everyone())
    embedded = len(clips) - len(skipped)
    for name, table in tables.items():
        queries = ", ".join(f"{table[key].n} queries {NAMES[key]}" for key in EQUAL if key in table)
        context.say(f"averaged {name} of {windows} windows; {embedded} clips; {queries or 'no query'}")
        context.say(format_table(table))
    if embedded < MEANINGFUL:
        context.say(f"warning: recall at 10 says nothing of {embedded} clips; --eval-share or --split takes others")
    for line in shared_lines(tables["embeddings"]):
        context.say(line)
    _tell_unknown(context, tokenizer, found.captions, model.config.input.words)
    context.say(f"{len(clips) / seconds:.1f} clips/s, {context}")
    tell_missing(context, missing)
    content = {kind: {name: asdict(level) for name, level in table.items()} for kind, table in tables.items()}
    about = {"task": "retrieval", "model": str(options.model), "data": options.data, "split": split, "windows": windows}
    about |= {"precision": options.precision, "missing": len(missing)}
    write(context, options.out, {**about, "n": embedded, "skipped": len(skipped), "tables": content})
    wait_for_all()
    return exit_status(context, options, len(skipped), len(clips))


def _tell_unknown(context: RankContext, tokenizer: Tokenizer, queries: Sequence[str], words: int) -> None:
    """Names the words of the queries that the model does not know. Such queries count all the same."""
    unknown: Counter[str] = Counter()
    some = none = 0
    for query in queries:
        strange, known = tokenizer.unknown_words(query, words)
        unknown.update(strange)
        some, none = some + bool(strange), none + bool(strange and not known)
    found = gather((unknown, some, none))
    if some := sum(part[1] for part in found):
        every: Counter[str] = sum((part[0] for part in found), Counter())
        shown = ", ".join(word for word, _ in every.most_common(5)) + (", ..." if len(every) > 5 else "")
        alone = f", {none} of them no other" if (none := sum(part[2] for part in found)) else ""
        context.say(f"warning: {some} queries hold words that the model does not know{alone}: {shown}")
