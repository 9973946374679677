"""``--config auto`` of fine-tuning: a recipe for the model, the labelled clips and the machine at hand, with a reason
for every choice.

`choose` is a pure function of facts and of what was set by hand, so all ranks choose alike. As in pretraining, a reason
says what a choice rests on: "measured" is the built-in sample, "the paper" is its recipe, and "a guess" lies between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from train.auto.choices import BY_HAND, Choice, Choosing
from train.auto.facts import Facts
from train.auto.rates import computing_rate, in_words
from train.auto.rules import PATIENCE, augmentation, pace, power_of_two, warm_up, workers
from train.config.finetuning import CLIP_BACKBONE, FinetuneConfig, recipe
from train.finetuning.expected import fit, training_flops
from train.finetuning.labelled import Labels, shown
from vatt.config import ConfigError
from vatt.models.config import I3DConfig, ResNetConfig

GIB = 2**30
# What was measured: the sample's recipe, which fine-tunes a tiny model on 768 clips in minutes.
CLIPS, BATCH, LEAST_STEPS = 768, 32, 200
PASSES = 15  # over the clips: the sample's recipe has 8, the paper 25 (AudioSet) to 50 (ImageNet)
SEEN = 50  # times that a class is to be seen at least
MOST_BATCH = {"cpu": {"video": 64, "audio": 64, "image": 64}, "cuda": {"video": 64, "audio": 1024, "image": 512}}
SMOOTHED = 100  # classes from which labels are smoothed as in the paper
MIXED = 10_000  # clips from which sounds of several labels are mixed as in the paper
FEWEST_HELD = 5  # clips that are held out, or none
_RATES = ((192, 1e-3), (512, 3e-4), (768, 1e-4))  # up to a width, by Adam
_LARGE_RATE = 5e-5
_VIEWED = 1000  # clips that a CPU evaluates


def choose(
    base: FinetuneConfig, facts: Facts, labels: Labels, given: Mapping[str, Any]
) -> tuple[FinetuneConfig, list[Choice]]:
    """The configuration of a run, and the table of what was chosen and why.

    Args:
        base: with the task, the model, its input and its classes.
        given: dotted settings that were set by hand; "model" and "init" are told as such.

    Raises:
        ConfigError: there is nothing to learn from, or what was set by hand cannot be.
    """
    picks = Choosing(base, {key: x for key, x in given.items() if key not in ("model", "init")})
    _refuse_without_sound(base, facts)
    _model(picks, facts, given)
    _targets(picks, labels)
    _held_out(picks, facts, labels)
    workers(picks, facts)  # whose memory counts
    _batch(picks, facts, labels)
    _length(picks, facts, labels)
    _rate(picks)
    _augmentation(picks, facts, labels)
    pace(picks, "" if labels.held_out else "nothing is held out")
    return picks.config, picks.choices


def _refuse_without_sound(config: FinetuneConfig, facts: Facts) -> None:
    survey = facts.survey
    if config.task == "audio" and survey.good and not survey.with_sound:
        raise ConfigError(
            f"{', '.join(facts.data)}: none of the {survey.good} clips that were looked at has sound, which --task "
            "audio learns from; take --task video, or clips with sound"
        )


def tiny(config: FinetuneConfig) -> bool:
    """Whether the model is as small as those of the sample."""
    return _width(config) <= _RATES[0][0]


def _width(config: FinetuneConfig) -> int:
    section = config.model.backbone
    return section.width if isinstance(section, I3DConfig | ResNetConfig) else section.d_model


def _model(picks: Choosing[FinetuneConfig], facts: Facts, given: Mapping[str, Any]) -> None:
    config = picks.config
    model, spec = config.model, config.model.input
    if config.init is not None:
        reason = f"its backbone is pretrained: {config.init}"
    elif "model" in given:
        reason = f"{BY_HAND}; from scratch: --init RUN begins with what a run has learned"
    else:
        reason = f"{'a GPU' if facts.on_gpu else 'no GPU'}; from scratch: --init RUN begins with what a run has learned"
    picks.tell("model", model.name, reason)
    if model.modality == "audio":
        value = f"{spec.seconds:.3g} s at {spec.sample_rate:,} Hz"
    else:
        value = f"{spec.frames} frames of {spec.size} x {spec.size}"
        value += f" ({spec.seconds:.3g} s)" if config.task == "video" else ""
    paper = recipe("paper", config.task).model.input
    others = f"{paper.seconds:g} s at {paper.sample_rate:,} Hz" if model.modality == "audio" else f"{paper.size} pixels"
    reason = f"the model's own; --config paper takes {others}"
    if config.task == "image":
        reason = f"the picture, as often as a patch is long; --config paper takes {others}"
    if by_hand := [key for key in given if key.startswith("model.input.")]:
        reason = f"{BY_HAND}: {', '.join(key.rpartition('.')[2] for key in by_hand)}; else the model's own"
    picks.tell("model.input", value, reason)
    if picks.is_given("freeze_backbone"):
        picks.tell("freeze_backbone", "true" if config.freeze_backbone else "false", BY_HAND)
    paper_dropout = recipe("paper", config.task).model.dropout
    rate, reason = (0.1, "measured on the sample") if tiny(config) else (paper_dropout, "the paper's")
    picks.set("model.dropout", rate, reason)


def _targets(picks: Choosing[FinetuneConfig], labels: Labels) -> None:
    """One label a clip or several, as the clips have; what is done to them."""
    config = picks.config
    multi = config.model.labels == "multi"
    reason = f"{labels.several:,} clips have several labels" if labels.several else "each clip has one label"
    if picks.is_given("model.labels"):
        reason = f"{BY_HAND}; {reason}"
    picks.tell("model.labels", config.model.labels, reason)
    if not multi:
        many, count = len(labels.counts) >= SMOOTHED, len(labels.counts)
        reason = f"{count:,} classes: the paper's" if many else f"{count:,} classes: none, as on the sample"
        picks.set("targets.smoothing", 0.1 if many else 0.0, reason)
    elif config.task == "audio":
        many = labels.clips >= MIXED
        reason = f"{labels.clips:,} clips: {'the paper' if many else 'too few for it (a guess)'}"
        picks.set("targets.mixup", 5.0 if many else 0.0, f"{reason}{chr(39) + 's' if many else ''}")


def share_held_out(clips: int, videos: int) -> float:
    """Of clips that name no split, what is held out: 100 to 1,000 clips, at most a fifth; nothing where those would be
    too few to say anything."""
    share = min(0.2, min(1000, max(100, 0.05 * clips)) / max(1, clips))
    return float(f"{share:.3g}") if videos * share >= FEWEST_HELD else 0.0


def _held_out(picks: Choosing[FinetuneConfig], facts: Facts, labels: Labels) -> None:
    config, survey = picks.config, facts.survey
    if facts.named:
        picks.tell("held out", f"{labels.held_out:,} clips", "the data name splits (column split)")
    else:
        share = share_held_out(survey.clips, survey.videos)
        reason = "by a hash of their names; 100 to 1,000 are wanted, and at most a fifth"
        if not share:
            reason = f"{survey.videos} files are too few to hold {FEWEST_HELD} out; so there is no evaluation"
        value = f"{share:.3g}, {labels.held_out:,} clips" if share else "0"
        picks.set("data.eval_share", share, reason, value)
    seconds, window = survey.typical, config.model.input.seconds
    count, reason = 1, "a picture has one"
    if config.task != "image":
        count = (1 if seconds < 2 * window else min(4, int(seconds / window))) if seconds else 4
        reason = f"windows of {window:.3g} s, from clips of {seconds:.3g} s" if seconds else "windows, as in the paper"
    picks.set("evaluation.clips", count, reason)
    crops, reason = 1, "sound has none" if config.task == "audio" else "the centre, as in the paper"
    if config.task == "video":
        longer, shorter = max(survey.width, survey.height), min(survey.width, survey.height)
        crops, reason = 3, "along the longer side, as in the paper"
        if not facts.on_gpu:
            crops, reason = 1, "on a CPU; the paper has 3"
        elif shorter and longer < 1.2 * shorter:
            crops, reason = 1, "pictures are nearly square"
    picks.set("evaluation.crops", crops, reason)
    picks.put({"evaluation.batch_size": 32 if tiny(config) or facts.on_gpu else 8})
    if not facts.on_gpu and labels.held_out > _VIEWED:
        picks.set("evaluation.max_clips", _VIEWED, f"of {labels.held_out:,}, evenly spread, on a CPU; 0 takes all")


def _batch(picks: Choosing[FinetuneConfig], facts: Facts, labels: Labels) -> None:
    """Grows with the root of the number of clips, to the paper's. What of it does not fit into memory at once goes in
    parts, whose mean loss is that of the whole."""
    clips, data = labels.clips, picks.config.data
    most = MOST_BATCH[facts.device][picks.config.task]
    wanted = math.sqrt(2) * BATCH * math.sqrt(clips / CLIPS)
    size = min(most, power_of_two(wanted), power_of_two(clips / 4))
    unit = math.lcm(data.windows_per_open, picks.config.engine.gradient_accumulation)
    local = max(unit, power_of_two(size / facts.ranks) // unit * unit)
    batch = local * facts.ranks
    reason = f"measured: {BATCH} for the {CLIPS} clips of the sample; it grows with their root"
    if batch >= most:
        reason = f"the paper's {most:,}" if facts.on_gpu else "the most on a CPU: more would leave few steps"
    elif batch > clips:
        reason = f"the least: {local} on each of {facts.ranks} ranks"
    elif batch < wanted / 2:
        reason = f"at most a quarter of the {clips:,} clips"
    room = f"{facts.memory / GIB:.0f} GiB"
    if picks.config.model.network == "convolutional":  # whose batch comes in one part
        while local % (2 * unit) == 0 and not _fits(picks, facts, batch):
            local //= 2
            batch, reason = local * facts.ranks, f"as many as {room} hold (predicted): batch norms see all at once"
    picks.set("run.batch_size", batch, reason)
    found, engine = fit(picks.config, facts, by_hand=picks.given), picks.config.engine
    if picks.is_given("engine.zero") or found.zero != engine.zero:
        picks.set("engine.zero", found.zero, "spreads optimizer and weights over the GPUs, as they do not fit on one")
    if found.checkpointing or picks.is_given("engine.activation_checkpointing"):
        reason = f"without it {room} hold too few clips at once (predicted)"
        picks.set("engine.activation_checkpointing", found.checkpointing, reason)
    if found.parts > 1 or picks.is_given("engine.gradient_accumulation"):
        reason = f"{room} hold {found.part} of its clips at once (predicted); the loss is that of the whole batch"
        reason = reason if found.part else f"{room} may not even hold one clip at a time (predicted)"
        picks.set("engine.gradient_accumulation", found.parts, reason)


def _fits(picks: Choosing[FinetuneConfig], facts: Facts, batch: int) -> bool:
    config = picks.config
    return fit(replace(config, run=replace(config.run, batch_size=batch)), facts, by_hand=picks.given).part > 0


def _length(picks: Choosing[FinetuneConfig], facts: Facts, labels: Labels) -> None:
    """So many passes that each class is seen often; and a run should end while somebody waits."""
    config, clips, classes = picks.config, labels.clips, len(labels.counts)
    batch = config.run.batch_size
    steps = round(PASSES * clips / batch)
    reason = f"{PASSES} passes over {clips:,} clips; measured: 8 are enough on the sample, the paper has 25 to 50"
    if (often := math.ceil(SEEN * classes / batch)) > max(steps, LEAST_STEPS):
        steps, reason = often, f"each of {classes:,} classes about {SEEN} times (a guess)"
    if steps <= LEAST_STEPS:
        steps, reason = LEAST_STEPS, "the least in which a classifier learns (measured on the sample)"
    limit = PATIENCE[facts.device]
    rate, _ = computing_rate(facts, timed=False)  # timing differs from start to start, and the choice must not
    each = training_flops(config) * batch / facts.ranks / rate
    if steps * each > limit and steps > LEAST_STEPS:
        of = f"the {PASSES} passes over {clips:,} clips would be {steps:,}"
        steps = max(LEAST_STEPS, int(limit / each))
        reason = f"as many as {in_words(limit)} allow on a machine that is not busy; {of}"
    picks.set("run.steps", steps, reason)


def _rate(picks: Choosing[FinetuneConfig]) -> None:
    config, paper = picks.config, recipe("paper", picks.config.task)
    picks.set("optim.kind", "adam", "learns in short runs; the paper's sgd takes tens of thousands of steps")
    picks.put({"optim.schedule": "cosine"})
    width = _width(config)
    rate = next((rate for most, rate in _RATES if width <= most), _LARGE_RATE)
    reason = (
        "measured on the sample" if tiny(config) else f"for a width of {width}: less than for tiny models (a guess)"
    )
    if picks.config.optim.kind == "sgd":
        rate, reason = paper.optim.lr, f"the paper's, for sgd and batches of {paper.run.batch_size:,}"
    elif config.freeze_backbone:
        rate, reason = _RATES[0][1], "for the classification layer alone (a guess)"
    picks.set("optim.lr", rate, reason)
    warm_up(picks, 0.15, paper.optim.warmup_steps or 2500, "a seventh of the run")
    if not picks.config.optim.clip_norm:
        picks.put({"optim.clip_backbone": CLIP_BACKBONE})


def _augmentation(picks: Choosing[FinetuneConfig], facts: Facts, labels: Labels) -> None:
    """Of pictures; of sound it is a little noise, as in the paper."""
    config, survey = picks.config, facts.survey
    if config.task == "audio":
        return
    windows = labels.clips
    if config.task == "video":
        windows = round(survey.windows(config.model.input.seconds) * labels.clips / max(1, survey.clips))
    if (values := augmentation(picks, windows)) is None:
        return
    reason = "no class tells left from right"
    if labels.left_right:
        reason = f"classes tell left from right, which a mirror would belie: {shown(labels.left_right)}"
    picks.set("data.augment.flip", not labels.left_right, reason)
    reason = f"classes name colours, which a turn of the hues would belie: {shown(labels.hues)}"
    picks.set("data.augment.hue", 0.0 if labels.hues else values.hue, reason if labels.hues else "no class is a colour")
