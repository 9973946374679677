"""How a run begins: its data are read and looked at, its recipe is chosen where it is ``auto``, and both are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

from train.auto.choices import Choice, table
from train.auto.facts import Facts, gather_facts
from train.auto.fitting import local_batch
from train.auto.rates import HOPELESS, Expected, in_words
from train.auto.rules import TELLING
from train.config.pretraining import PretrainConfig, recipe
from train.core.command import Job
from train.core.console import Reporter
from train.core.data import build_large, read_data, refuse_without_training, sample_manifest
from train.core.ranks import RankContext
from train.core.run_folder import RunFolder
from train.pretraining.auto import (
    CLIPS,
    choose,
    refuse_unbuildable,
    refuse_without_pairs,
    training_clips,
    training_windows,
)
from train.pretraining.expected import expected
from train.pretraining.memory import in_parts
from vatt.config import ConfigError
from vatt.data.clips import Clips
from vatt.data.splits import splits_of
from vatt.json_files import read_json

FEWEST = 16  # clips below which nothing but they themselves is learned (a guess)
_BROKEN = 0.1  # share of the clips looked at from which broken ones are named


@dataclass
class Start:
    """What is known before the first step. ``facts``: None in a run that goes on. ``parts``: in words, how many parts
    of a batch were found for engine.contrastive_parts=0."""

    data: Mapping[str, Clips]
    facts: Facts | None = None
    choices: list[Choice] = field(default_factory=list)
    parts: str = ""

    def tell(self, job: Job[PretrainConfig], reporter: Reporter) -> None:
        """Prints what was found and chosen, and what will not work."""
        if self.facts is None:
            for line in (*_told_before(reporter.folder), *([self.parts] if self.parts else [])):
                reporter.say(line)
            return
        reporter.say(f"data: {self.facts.survey.line()}")
        warnings = list(advice(job.config, self.facts))
        if self.choices or not job.sample:
            warnings += hopeless(job.config, self.facts)
            self.choices += [expected_row(expected(job.config, self.facts))] if self.choices else []
        if self.choices:
            reporter.say(
                "--config auto: what is chosen for these data and this machine; settings and flags override it"
            )
            reporter.say(table(self.choices))
            if not self.facts.on_gpu:
                reporter.say(beside_the_paper(job.config, self.facts))
        if self.parts:
            reporter.say(self.parts)
        for warning in warnings:
            reporter.warn(warning)

    def keep(self, folder: RunFolder) -> None:
        """Writes it into the folder of the run."""
        if self.facts is not None:
            rows = [asdict(choice) for choice in self.choices]
            content = {"data": self.facts.survey.line(), "choices": rows, "survey": asdict(self.facts.survey)}
            folder.write_json(folder.recipe, content)


def prepare(job: Job[PretrainConfig], context: RankContext) -> Start:
    """Reads the data sets and, for a new run, looks at clips; chooses ``job.config`` where that is still to be done.
    All ranks must call, and come to the same.

    Raises:
        ConfigError: there is nothing to learn from; or a chosen configuration cannot be.
        ManifestError, SampleError: as `read_data` and `sample_manifest`.
    """
    if job.sample:
        job.config.data.sources = [sample_manifest(context, context.say)]
    build_large(job.config.data.sources, context, context.say)
    data = read_data(job.config.data)
    find_parts = job.config.engine.contrastive_parts == 0
    if job.resume and not find_parts:
        return Start(data)
    clips = {name: found.clips for name, found in data.items()}
    for name, found in clips.items():  # before a look at clips, which takes a while
        refuse_without_training(name, splits_of(found, job.config.data.eval_share))
    if not job.auto:
        refuse_unbuildable(job.config.model)
    timed = (job.auto or not job.sample) and not job.resume  # of the sample's own recipe the time is known
    facts = gather_facts(context, clips, job.config.model.input, job.config.data.eval_split, timed)
    if job.resume:  # with engine.contrastive_parts=0, as on another machine
        return Start(data, parts=_find_parts(job.config, facts))
    start = Start(data, facts)
    if job.auto:
        config, start.choices = choose(facts, job.given)
        config.data.sources = job.config.data.sources
        job.config = config
    else:
        refuse_without_pairs(facts)
    if not job.auto or "run.batch_size" in job.given:
        refuse_repeats(job.config, facts)
    if find_parts:
        start.parts = _find_parts(job.config, facts)
    return start


def refuse_repeats(config: PretrainConfig, facts: Facts) -> None:
    """Raises ConfigError: a batch of more clips than there are windows, so that each is the negative of itself."""
    clips, batch = training_clips(config, facts), config.run.batch_size
    if batch > max(clips, training_windows(config, facts)):
        least = max(2, facts.ranks * config.engine.parts)
        raise ConfigError(
            f"run.batch_size: {batch:,} clips of a step, but there are about {clips:,} to train on, so each would be "
            f"the negative of itself; try --batch-size {max(least, clips // 2)}"
        )


def _find_parts(config: PretrainConfig, facts: Facts) -> str:
    """Puts a number in place of engine.contrastive_parts=0; a run that goes on keeps it. In words, why."""
    engine = config.engine
    found = in_parts(config, facts, engine.zero, engine.activation_checkpointing)
    engine.contrastive_parts = found.parts
    size = local_batch(config, facts) // found.parts
    of = f"parts of {size} clips" if found.parts > 1 else f"the batch of {size} clips at once"
    room = f"{found.needed / 1e9:.1f} GB (predicted) of {facts.memory / 1e9:.1f} GB that are free"
    short = "" if found.part else ", TOO LITTLE: activation checkpointing, ZeRO or a smaller model may help"
    return f"engine.contrastive_parts: {found.parts}, {of}: {room}{short}"


def _told_before(folder: RunFolder) -> Iterator[str]:
    """Of a run that goes on: what its data were like when it began."""
    try:
        yield f"data: {read_json(folder.recipe, dict, surrogates=True)['data']} (when the run began)"
    except (OSError, ValueError, KeyError, TypeError):  # begun by an earlier version, or lost
        return


def expected_row(found: Expected) -> Choice:
    """The last row of the table."""
    parts = f"{in_words(found.evaluations)} of it for evaluation, " if found.evaluations >= 1 else ""
    busy = "; longer while other work keeps this machine busy"
    return Choice("expected time", in_words(found.seconds), f"an estimate: {parts}{found.basis}{busy}")


def advice(config: PretrainConfig, facts: Facts) -> Iterator[str]:
    """What cannot work, or not well, with this configuration and these data, and what to try."""
    survey, loss, augment = facts.survey, config.model.loss, config.data.augment
    clips, batch = training_clips(config, facts), config.run.batch_size
    if clips < batch:
        yield (
            f"run.batch_size: {batch:,} clips of a step, but there are about {clips:,} to train on: a step would hold "
            "the same clips several times, each the negative of itself; try a --batch-size of at most half of them, "
            "or more clips"
        )
    elif clips < FEWEST:
        yield (
            f"{clips} {'clip' if clips == 1 else 'clips'} to train on: the steps of {batch} compare the same few again "
            "and again, and the model learns them by heart; it takes hundreds to learn anything else (the sample has "
            f"{CLIPS})"
        )
    if (parts := config.engine.gradient_accumulation) > 1:
        yield (
            f"engine.gradient_accumulation={parts} compares a clip with those of its part alone, another loss than "
            "that of the whole batch, which engine.contrastive_parts has in as little memory"
        )
    elif config.engine.contrastive_parts == 1:
        found = in_parts(config, facts, config.engine.zero, config.engine.activation_checkpointing)
        if found.parts > 1:
            way = f"engine.contrastive_parts=0 takes them in {found.parts} parts, with the same loss"
            way = way if found.part and config.engine.without_parts is None else "try a smaller --batch-size or model"
            yield (
                f"run.batch_size: {local_batch(config, facts):,} clips at once may not fit into the "
                f"{facts.memory / 1e9:.1f} GB that are free; {way}"
            )
    if not survey.captioned and loss.vid_txt_weight:
        yield (
            "no clip has captions, so the loss of video and text has nothing to learn from: put captions beside the "
            "videos (.srt, .vtt, .json, .txt of the same name), or leave the pair out by model.loss.vid_txt_weight=0"
        )
    if survey.good and not survey.with_sound - survey.silent and loss.vid_aud_weight:
        what = "nothing but silence in" if survey.with_sound else "no sound in"
        yield (
            f"{what} any of the {survey.good} clips looked at, so the loss of video and sound has nothing to learn "
            "from: take videos with sound, or leave the pair out by model.loss.vid_aud_weight=0"
        )
    if augment.enabled and augment.flip and survey.left_right >= TELLING:
        yield (
            f"data.augment.flip: {survey.left_right:.1%} of the captions tell left from right, which a mirrored "
            "picture belies; try data.augment.flip=false"
        )
    if augment.enabled and augment.hue > 0.05 and survey.hues >= TELLING:
        yield (
            f"data.augment.hue: {survey.hues:.1%} of the captions name a colour, which a turn of the hues by up to "
            f"{augment.hue:g} belies; try data.augment.hue=0"
        )
    if len(survey.broken) > _BROKEN * survey.looked_at:
        yield (
            f"{len(survey.broken)} of the {survey.looked_at} clips looked at cannot be read, such as "
            f"{survey.broken[0]}; `vatt data check` finds all of them"
        )


def hopeless(config: PretrainConfig, facts: Facts) -> Iterator[str]:
    """A run that nobody will see the end of, on a CPU: whatever else this one is busy with just now."""
    estimate = expected(config, facts, timed=False)
    if not facts.on_gpu and estimate.seconds > HOPELESS:
        run, told = config.run, expected(config, facts)  # at the speed that the other lines are told at
        yield (
            f"{run.steps:,} steps of {run.batch_size:,} clips of {config.model.name} are "
            f"{in_words(told.seconds)} on this CPU (an estimate: {told.basis}); try --config auto, or "
            "fewer --steps"
        )


def beside_the_paper(config: PretrainConfig, facts: Facts) -> str:
    """What the paper's recipe would take here."""
    paper = recipe("paper")
    paper.data.workers = config.data.workers
    run, found = paper.run, expected(paper, facts)
    return (
        f"--config paper is {run.steps:,} steps of {run.batch_size:,} clips of {paper.model.name}: "
        f"{in_words(found.seconds)} on this CPU"
    )
