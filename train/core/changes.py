"""What differs where a run goes on: settings, data, vocabulary, ranks. It is told, with the old and the new value.

What changes what is learned, or from what, is refused, unless ``--allow-changes`` wants it: nothing of a run shows
afterwards that its steps had two batch sizes, or its clips two manifests.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.core.command import Job
from train.core.console import Reporter
from train.core.data import Corpus
from train.core.nodes import flat
from train.core.ranks import RankContext, gather
from train.core.run_folder import RunFolder
from vatt.config import ConfigError, to_dict
from vatt.data import Clip
from vatt.data.captions import Caption, Narration
from vatt.data.clips import ClipTable
from vatt.data.tokenizer import FILE as TOKENIZER
from vatt.json_files import JSONError, read_json

# Where and how fast a run goes, how often it is looked at, and how long: the steps so far are as they would have been.
HARMLESS = {
    *("data.workers", "data.prefetch", "data.cache", "data.cache_gb", "data.decode_timeout", "data.max_bad_share"),
    *("engine.zero", "engine.offload_optimizer", "engine.activation_checkpointing", "engine.cuda_graphs"),
    *("engine.threads", "engine.kernels", "engine.contrastive_parts"),
    *("run.steps", "run.log_every", "run.eval_every", "run.save_every", "run.keep", "run.max_skipped_steps"),
    "run.track",
}
_HARMLESS_SECTIONS = ("evaluation.",)
_SHOWN = 8  # differences in one message
_DIGITS = 12  # of a digest


def check_settings_of_run(job: Job, reporter: Reporter) -> None:
    """Tells in what the settings of a run that goes on differ from those that it had. All ranks must call.

    Data sets may have moved: `check_data_of_run` compares what is in them.

    Raises:
        ConfigError: one of them changes what is learned, and was not allowed to. On all ranks.
    """
    if not job.began:
        return
    before, now = flat(job.began), flat(to_dict(job.config))
    harmless = HARMLESS | ({"data.sources"} if job.out and RunFolder(job.out).data.is_file() else set())
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    lines = {name: f"{name}: {before.get(name, 'not set')} then, {now.get(name, 'not set')} now" for name in changed}
    grave = [name for name in changed if name not in harmless and not name.startswith(_HARMLESS_SECTIONS)]
    _refuse_or_tell(job, reporter, [lines[name] for name in grave], "--resume: the run has other settings")
    for name in changed:
        if name not in grave:
            follows = ", and the learning rate follows" if name == "run.steps" else ""
            reporter.say(f"goes on with {lines[name]}{follows}")


def check_steps(job: Job, done: int) -> None:
    """Raises ConfigError: a run is to end before the step at which its checkpoint is."""
    if job.config.run.steps < done and not job.allow_changes:
        raise ConfigError(
            f"run.steps: {job.config.run.steps}, but the newest checkpoint is of step {done}; ask for at least as many "
            "(--steps), or add --allow-changes, and the model of that step is exported"
        )


def check_data_of_run(
    job: Job, context: RankContext, folder: RunFolder, reporter: Reporter, corpus: Corpus, vocabulary: str | None = None
) -> None:
    """Compares the clips and the words of a run that goes on with those that it began with, and remembers those of a
    new one. All ranks must call.

    Args:
        vocabulary: the file that the words come from, if any.

    Raises:
        ConfigError: they are others, and may not be. On all ranks.
    """
    changed: list[str] = []
    if context.first:
        facts = data_facts(corpus, folder.path / TOKENIZER, vocabulary)
        before = _before(folder) if job.resume else {}
        changed = list(_differences(before, facts)) if before else []
        if not changed or job.allow_changes:
            folder.write_json(folder.data, facts)
    _refuse_or_tell(job, reporter, gather(changed)[0], "--resume: the run has other data")


def data_facts(corpus: Corpus, tokenizer: Path, vocabulary: str | None) -> dict[str, Any]:
    """Of each data set: how many clips there are, and a digest of them; and digests of the words."""
    sources = {
        source.name: {
            "clips": len(source.clips),
            "digest": digest(source.clips),
            "held_out": len(held_out := corpus.held_out.get(source.name, [])),
            "held_out_digest": digest(held_out),
        }
        for source in corpus.sources
    }
    return {"sources": sources, "words": _digest_of(tokenizer), "vocabulary": _digest_of(vocabulary)}


def digest(clips: Sequence[Clip]) -> str:
    """Of what a data set says of its clips, in their order: names, times, captions, labels; not of the media. It stays
    when a data set moves."""
    found = hashlib.sha256()
    if isinstance(clips, ClipTable):  # of shards, whose index has checksums of all else
        found.update(clips.digests().tobytes())
        found.update(str(clips.captioned()).encode())
        return found.hexdigest()[:_DIGITS]
    texts: dict[int, bytes] = {}  # the clips of a video share their captions
    for clip in clips:
        key = id(clip.captions)
        if key not in texts:
            texts[key] = hashlib.sha256(_text_of(clip.captions)).digest()
        name = clip.name or clip.video.name
        row = f"{name}\0{clip.start}\0{clip.end}\0{clip.label}\0{sorted(clip.extra.items())}\n"
        found.update(row.encode(errors="replace") + texts[key])
    return found.hexdigest()[:_DIGITS]


def _text_of(captions: Sequence[Caption]) -> bytes:
    if isinstance(captions, Narration):
        return zlib.decompress(captions.packed)
    return "\n".join(f"{caption.start} {caption.end} {caption.text}" for caption in captions).encode(errors="replace")


def _digest_of(path: Path | str | None) -> str | None:
    try:
        return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()[:_DIGITS]
    except OSError:
        return None


def _before(folder: RunFolder) -> dict[str, Any]:
    """What a run began with; nothing of one that an earlier version has begun."""
    try:
        found = read_json(folder.data, dict)
    except (OSError, JSONError):
        return {}
    return found if isinstance(found.get("sources"), dict) else {}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    # A data set that has moved has another name and the same clips: they are compared in their order.
    pairs = list(zip(before["sources"].items(), now["sources"].items(), strict=False))
    if len(before["sources"]) != len(now["sources"]):
        yield f"data.sources: {len(before['sources'])} data sets then, {len(now['sources'])} now"
    for (_, old), (name, new) in pairs:
        for what, count, key in (
            ("clips to train on", "clips", "digest"),
            ("clips held out", "held_out", "held_out_digest"),
        ):
            if old.get(key) != new[key]:
                yield (f"{name}: {old.get(count)} {what} then (digest {old.get(key)}), {new[count]} now ({new[key]})")
    if before.get("words") != now["words"]:
        yield f"{TOKENIZER}: digest {before.get('words')} then, {now['words']} now: its words would have other numbers"
    if before.get("vocabulary") and before.get("vocabulary") != now["vocabulary"]:
        yield (
            f"data.vocabulary: digest {before['vocabulary']} then, {now['vocabulary'] or 'no file'} now (the run keeps "
            f"the words of its {TOKENIZER})"
        )


def tell_ranks(context: RankContext, folder: RunFolder, reporter: Reporter) -> None:
    """Says where a run goes on with another number of ranks; on rank 0, before that number is written."""
    try:
        before = str(read_json(folder.environment)["ranks"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if before != str(context.ranks):
        reporter.say(f"goes on with ranks: {before} then, {context.ranks} now; its sums are rounded in another order")


def _refuse_or_tell(job: Job, reporter: Reporter, lines: list[str], what: str) -> None:
    if lines and not job.allow_changes:
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise ConfigError(
            f"{what}: {'; '.join(lines[:_SHOWN])}{more}. Take back what has changed, add --allow-changes to go on with "
            "it, or begin a new run in another --out"
        )
    for line in lines:
        reporter.warn(f"goes on with {line}")
