"""How fine-tuning begins: its clips are read, its recipe is chosen where it is ``auto``, and both are told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace

from train.auto.choices import Choice, table
from train.auto.facts import Facts, gather_facts
from train.auto.fitting import local_batch
from train.auto.rates import Expected, in_words
from train.auto.rules import TELLING
from train.config.finetuning import FinetuneConfig, recipe
from train.core.command import Job
from train.core.console import Reporter
from train.core.data import read_data, sample_manifest
from train.core.ranks import RankContext
from train.core.run_folder import RunFolder
from train.finetuning.auto import choose, share_held_out
from train.finetuning.expected import expected, fit
from train.finetuning.labelled import Labelled, read_labelled, shown
from vatt.config import ConfigError
from vatt.data.survey import count_videos
from vatt.weights.restore import fit_positions

_BROKEN = 0.1  # share of the clips looked at from which broken ones are named
LONG = 3 * 86_400.0  # seconds of a run on a CPU from which it is said to be hopeless


@dataclass
class Start:
    """What is known before the first step. ``facts``: None in a run that goes on."""

    labelled: Labelled
    facts: Facts | None = None
    choices: list[Choice] = field(default_factory=list)

    def tell(self, job: Job[FinetuneConfig], reporter: Reporter) -> None:
        """Prints what was found and chosen, and what will not work."""
        if self.facts is None:
            return
        config, labels = job.config, self.labelled.labels
        if self.choices:
            reporter.say(f"data: {self.facts.survey.line()}")
            reporter.say(f"labels: column {config.label}, {labels.line()}")
            self.choices.append(expected_row(expected(config, self.facts, labels.held_out)))
            reporter.say("--config auto: chosen for these clips and this machine; settings and flags override it")
            reporter.say(table(self.choices))
            if not self.facts.on_gpu:
                reporter.say(beside_the_paper(config, self.facts, labels.held_out))
        for warning in advice(config, self.facts, self.labelled):
            reporter.warn(warning)

    def keep(self, folder: RunFolder) -> None:
        """Writes what was chosen into the folder of the run."""
        if self.facts is None or not self.choices:
            return
        content = {
            "data": self.facts.survey.line(),
            "labels": self.labelled.labels.line(),
            "choices": [asdict(choice) for choice in self.choices],
            "survey": asdict(self.facts.survey),
        }
        folder.write_json(folder.recipe, content)


def prepare(job: Job[FinetuneConfig], context: RankContext) -> Start:
    """Reads the data sets and their labels and, for a new run, chooses ``job.config`` where that is still to be done.
    All ranks must call, and come to the same.

    Raises:
        ManifestError, LabelError, SampleError: the data cannot be used. ConfigError: nor the configuration.
    """
    config = job.config
    if job.sample:
        config.data.sources = [sample_manifest(context, context.say, pictures=config.task == "image")]
    data = read_data(config.data)
    clips = {name: found.clips for name, found in data.items()}
    if job.auto and "data.eval_share" not in job.given:
        count = sum(map(len, clips.values()))
        config.data.eval_share = share_held_out(count, count_videos(clips.values()))
    labelled = read_labelled(config, data, find_kind=job.auto and "model.labels" not in job.given)
    names = list(labelled.classes.names)
    if job.resume and config.model.classes not in ([], names):
        raise ConfigError(f"--resume: {_changed(config, names)}")
    config.model = replace(config.model, num_classes=len(names), classes=names)
    if job.resume:
        return Start(labelled)
    spec, split = config.model.input, config.data.eval_split
    start = Start(labelled, gather_facts(context, clips, spec, split, timed=job.auto, look=job.auto))
    assert start.facts is not None
    if job.auto:
        job.config, start.choices = choose(config, start.facts, labelled.labels, job.given)
    return start


def expected_row(found: Expected) -> Choice:
    """The last row of the table."""
    parts = f"{in_words(found.evaluations)} of it for evaluation, " if found.evaluations >= 1 else ""
    busy = "; longer while other work keeps this machine busy"
    return Choice("expected time", in_words(found.seconds), f"an estimate: {parts}{found.basis}{busy}")


def advice(config: FinetuneConfig, facts: Facts, labelled: Labelled) -> Iterator[str]:
    """What cannot work, or not well, with this configuration and these clips, and what to try."""
    labels, augment, batch = labelled.labels, config.data.augment, config.run.batch_size
    if labels.clips < batch:
        yield (
            f"run.batch_size: {batch:,} clips of a step, but there are {labels.clips:,} to train on: a step reads the "
            "same clips several times; try a --batch-size of at most a quarter of them, or more clips"
        )
    if rare := labels.rare:
        yield (
            f"{len(rare)} of {len(labels.counts)} classes have fewer than 2 clips to train on, which is nothing to "
            f"learn from: {shown(rare)}; add clips, or leave them out of --classes"
        )
    if config.model.modality == "video" and augment.enabled:
        if augment.flip and labels.left_right:
            yield (
                "data.augment.flip: classes tell left from right, which a mirrored picture belies: "
                f"{shown(labels.left_right)}; try data.augment.flip=false"
            )
        if augment.hue > 0.05 and len(labels.hues) >= max(1, TELLING * len(labels.counts)):
            yield (
                f"data.augment.hue: classes name colours, which a turn of the hues by up to {augment.hue:g} belies: "
                f"{shown(labels.hues)}; try data.augment.hue=0"
            )
    yield from _hopeless(config, facts, labels.held_out)
    survey = facts.survey
    if len(survey.broken) > _BROKEN * survey.looked_at:
        yield (
            f"{len(survey.broken)} of the {survey.looked_at} clips looked at cannot be read, such as "
            f"{survey.broken[0]}; `vatt data check` finds all of them"
        )


def _hopeless(config: FinetuneConfig, facts: Facts, held_out: int) -> Iterator[str]:
    """A run that does not fit into the memory, or that nobody will see the end of."""
    engine = config.engine
    found = fit(config, facts, by_hand=("engine.zero", "engine.activation_checkpointing"))
    room = f"may not fit into the {facts.memory / 1e9:.1f} GB that are free (predicted)"
    if not found.part:
        ways = "a smaller model.input.size or --model"
        ways += "" if engine.activation_checkpointing else ", or engine.activation_checkpointing=true"
        yield f"model: even one clip at a time {room}; try {ways}"
    elif found.parts > engine.gradient_accumulation:
        at_once = local_batch(config, facts) // engine.gradient_accumulation
        way = f"engine.gradient_accumulation={found.parts} takes them in parts, with the same loss"
        yield f"run.batch_size: {at_once:,} clips at once {room}; {way}"
    run, estimate = config.run, expected(config, facts, held_out, timed=False)
    if not facts.on_gpu and estimate.seconds > LONG:
        told = expected(config, facts, held_out)  # at the speed that the other lines are told at
        yield (
            f"{run.steps:,} steps of {run.batch_size:,} clips of {config.model.name} are "
            f"{in_words(told.seconds)} on this CPU (an estimate: {told.basis}): "
            "hopeless here; try --config auto, fewer --steps, a smaller model.input.size or model, or a GPU"
        )


def beside_the_paper(config: FinetuneConfig, facts: Facts, held_out: int) -> str:
    """What the paper's recipe would take here, with the same backbone."""
    paper = recipe("paper", config.task)
    paper.model.num_classes = config.model.num_classes
    paper.model.video, paper.model.waveform = replace(config.model.video), replace(config.model.waveform)
    fit_positions(paper.model.backbone, paper.model.input)
    paper.data.workers = config.data.workers
    run, found = paper.run, expected(paper, facts, held_out)
    return (
        f"--config paper is {run.steps:,} steps of {run.batch_size:,} clips of its own input: "
        f"{in_words(found.seconds)} on this CPU"
    )


def _changed(config: FinetuneConfig, names: list[str]) -> str:
    """How the classes differ from those that the run began with: its outputs would mean something else."""
    began = config.model.classes
    at = next((at for at, pair in enumerate(zip(began, names, strict=False)) if pair[0] != pair[1]), None)
    how = f"{len(began)} then, {len(names)} now" if at is None else f"number {at} was {began[at]!r}, is {names[at]!r}"
    where = config.classes or ", ".join(config.data.sources)
    return f"the classes of {where}, column {config.label}, are not those that the run began with ({how}); begin anew"
