"""``--config auto``: a recipe for the data and the machine at hand, with a reason for every choice.

`choose` is a pure function of facts and of what was set by hand, so all ranks choose alike. A reason says what a choice
rests on: "measured" is the built-in sample or the benchmarks of this project, "the paper" is its recipe, and "a guess"
lies between the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from train.auto.choices import BY_HAND, Choice, Choosing
from train.auto.facts import Facts
from train.auto.rates import computing_rate, in_words
from train.auto.rules import PATIENCE, TELLING, augmentation, pace, power_of_two, warm_up, workers
from train.config.pretraining import PretrainConfig
from train.config.sections import refuse_for_convolutions
from train.pretraining.expected import held_out
from train.pretraining.memory import fit, host_batch, in_parts
from vatt.analysis.flops import train_flops_per_sample
from vatt.analysis.plan.zero import weights
from vatt.config import ConfigError
from vatt.evaluation.retrieval import MEANINGFUL
from vatt.models.config import VATTConfig
from vatt.objectives.pretraining import Pretraining
from vatt.presets import preset

GIB = 2**30
# What was measured: the sample's recipe, on which tiny models learn in minutes. Everything scales from here.
CLIPS, BATCH = 768, 32
# Over those clips. 11 (260 steps) are enough there, but own videos are harder. Larger models: as in --config
# sample-gpu, of which a GPU has run no more than 60 steps.
PASSES = {"tiny": 30.0, "other": 50.0}
LEAST_STEPS = 200
# And what the paper has: 500,000 steps of 2,048 clips over the 136 million windows of HowTo100M.
PAPER_WINDOWS, PAPER_BATCH, PAPER_STEPS, PAPER_PASSES = 136e6, 2048, 500_000, 7.5
CPU_BATCH = 256  # most clips of a step on a CPU: more would leave it few steps
OFTEN = 0.1  # share of captions with a colour from which hues stay as they are
_RATES = {"tiny": (3e-3, 1e-3), "small": (1e-3, 3e-4), "base": (2e-4, 1e-4)}  # of short and of long runs
_LARGE_RATES = (1e-4, 1e-4)
_SHORT, _LONG = 1000, 100_000  # steps


def choose(facts: Facts, given: Mapping[str, Any]) -> tuple[PretrainConfig, list[Choice]]:
    """The configuration of a run, and the table of what was chosen and why.

    Args:
        given: dotted settings that were set by hand; "model" is the name of a preset.

    Raises:
        ConfigError: there is nothing to learn from, or what was set by hand cannot be.
    """
    refuse_without_pairs(facts)
    name, why = _model(facts, given)
    picks = Choosing(PretrainConfig(model=preset(name)), {key: x for key, x in given.items() if key != "model"})
    refuse_unbuildable(picks.config.model)
    refuse_for_convolutions(picks.config.engine, convolutional=picks.config.model.backbone == "convolutional")
    picks.tell("model", name, why)
    _pairs(picks, facts)
    if facts.survey.captioned:
        _words(picks)
    _dropped_tokens(picks)
    _held_out(picks, facts)
    _memory_and_batch(picks, facts)
    _length(picks, facts)
    _rate(picks)
    _augmentation(picks, facts)
    _pace(picks, facts)
    return picks.config, picks.choices


def refuse_without_pairs(facts: Facts) -> None:
    """Raises ConfigError: the clips have neither captions nor sound; names the data sets."""
    survey = facts.survey
    if not survey.captioned and survey.good and not survey.with_sound - survey.silent:
        silence = " but silence" if survey.silent else ""
        raise ConfigError(
            f"{', '.join(facts.data)}: no clip has captions, and none of the {survey.good} that were looked at has "
            f"sound{silence}; pretraining learns from pairs: put captions beside the videos (.srt, .vtt, .json, .txt "
            "of the same name), or take videos with sound"
        )


def refuse_unbuildable(config: VATTConfig) -> None:
    """Raises ConfigError: no model has these settings. All that predicts memory and time would fail of it."""
    try:
        weights(config)
        with torch.device("meta"):
            module = Pretraining(config)
        module.check_input()
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error


def _model(facts: Facts, given: Mapping[str, Any]) -> tuple[str, str]:
    if "model" in given:
        return str(given["model"]), BY_HAND
    windows = _windows(facts, preset("vatt-base"))
    if not facts.on_gpu:
        return "vatt-tiny", "no GPU; measured: it learns the sample in minutes on 2 cores"
    memory = facts.memory / GIB
    if memory < 6:
        return "vatt-tiny", f"the {memory:.0f} GiB of this GPU are little for vatt-base"
    whole = facts.ranks * memory
    if windows >= 10_000_000 and whole >= 2000:
        return "vatt-large", "the paper's largest: over 10 million windows, and over 2,000 GiB of GPU memory"
    if windows >= 1_000_000 and whole >= 300:
        return "vatt-medium", "the paper's Medium: over a million windows, and over 300 GiB of GPU memory"
    return "vatt-base", "the paper's Base; larger ones need over a million windows and more GPUs (a guess)"


def _pairs(picks: Choosing, facts: Facts) -> None:
    """A pair of modalities of which the data have nothing is left out of the loss."""
    survey, weight = facts.survey, "model.loss.{}_weight"
    if not survey.captioned:
        picks.set(weight.format("vid_txt"), 0.0, "no clip has captions: video and sound alone are left to learn from")
    if survey.good and not survey.with_sound - survey.silent:
        what = "sound is silence in all" if survey.silent else "no sound in any"
        reason = f"{what} of the {survey.good} clips looked at: video and captions alone are left to learn from"
        picks.set(weight.format("vid_aud"), 0.0, reason)


def _words(picks: Choosing) -> None:
    """Word vectors are trained where no table of them is given."""
    unified = picks.config.model.backbone == "unified"
    trainable = "model.unified.txt_embedding_trainable" if unified else "model.text.trainable_embeddings"
    reach = "model.unified.txt_embedding_reach" if unified else "model.text.embedding_reach"
    if picks.config.data.word_embeddings is not None:
        reason = "the table of data.word_embeddings, frozen as in the paper"
        picks.set(trainable, False, reason, "frozen", "word vectors")
        return
    picks.put({reach: 2.0})
    picks.set(trainable, True, "no table of them was given (data.word_embeddings)", "learned", "word vectors")


def _dropped_tokens(picks: Choosing) -> None:
    """DropToken as in the paper, unless it was set. Convolutional networks have none."""
    if picks.config.model.backbone == "convolutional":
        return
    unified = picks.config.model.backbone == "unified"
    parts = ("unified",) if unified else ("video", "waveform")
    names = [f"model.{part}.{name}" for part in parts for name in ("random_patch_sampling", "patch_sampling_rate")]
    by_hand = picks.put({name: 0.5 if name.endswith("rate") else True for name in names})
    kept = [f"{picks.get(f'model.{part}.patch_sampling_rate'):.0%}" for part in parts]
    value = f"{' and '.join(dict.fromkeys(kept))} kept"
    reason = BY_HAND if by_hand else "as in the paper; measured on the sample: twice as fast, nothing lost"
    picks.tell("DropToken", value, reason)


def _windows(facts: Facts, model: VATTConfig) -> int:
    """About how many windows of all clips there are."""
    return facts.survey.windows(model.input.seconds)


def training_clips(config: PretrainConfig, facts: Facts) -> int:
    """About how many clips there are to train on, 1 at least."""
    if facts.named:
        return max(1, facts.named[0])
    return max(1, round(facts.survey.clips * (1 - config.data.eval_share)))


def training_windows(config: PretrainConfig, facts: Facts) -> int:
    """About how many windows they have."""
    whole = _windows(facts, config.model)
    return max(1, round(whole * training_clips(config, facts) / max(1, facts.survey.clips)))


def _held_out(picks: Choosing, facts: Facts) -> None:
    clips, videos = facts.survey.clips, facts.survey.videos
    if facts.named:
        value = f"{facts.named[1]:,} clips"
        picks.tell("held out", value, "the data name splits (column split)")
    else:
        share = min(0.2, min(1000, max(100, 0.05 * clips)) / clips)
        if videos * share < MEANINGFUL:
            share = 0.0
            reason = f"{videos} files are too few to hold {MEANINGFUL} out, which an evaluation needs; so there is none"
        else:
            reason = "by a hash of their names; 100 to 1,000 are wanted, and at most a fifth"
        shown = f"{share:.3g}, about {share * clips:,.0f} clips" if share else "0"
        picks.set("data.eval_share", float(f"{share:.3g}"), reason, shown)
    seconds, window = facts.survey.typical, picks.config.model.input.seconds
    count = 1 if 0 < seconds < 2 * window else min(4, int(seconds / window)) if seconds else 4
    reason = f"of {window:g} s each, from clips of {seconds:.3g} s" if seconds else "as in the paper"
    picks.set("evaluation.windows", count, reason)


def _at_once(config: PretrainConfig, facts: Facts, local: int, unit: int) -> int:
    """Clips of a rank, halved until they fit at once where a batch cannot go in parts."""
    while config.model.backbone == "convolutional" and local // 2 >= max(2, unit):
        asked = replace(config, run=replace(config.run, batch_size=local * facts.ranks))
        if in_parts(asked, facts, config.engine.zero, checkpointing=False).part:
            break
        local = local // 2 // unit * unit
    return local


def _memory_and_batch(picks: Choosing, facts: Facts) -> None:
    """The batch grows with the root of the number of windows from the sample's 32 to the paper's 2,048. What of it does
    not fit into memory at once goes in parts, which give the loss of the whole."""
    clips, windows = training_clips(picks.config, facts), training_windows(picks.config, facts)
    most = PAPER_BATCH if facts.on_gpu else CPU_BATCH
    scarce = min(
        [share for share in (facts.survey.captioned / facts.survey.clips, facts.survey.sound) if share] or [1.0]
    )
    wanted = BATCH * math.sqrt(windows / CLIPS) * min(2.0, 1 / scarce)
    size = min(most, power_of_two(math.sqrt(2) * wanted), power_of_two(clips / 2))
    data, accumulated = picks.config.data, picks.config.engine.gradient_accumulation
    parts = max(accumulated, picks.config.engine.contrastive_parts)
    unit = math.lcm(data.windows_per_open, 2 * parts if parts > 1 else 1)
    local = min(power_of_two(size / facts.ranks), power_of_two(host_batch(picks.config, facts)))
    local = max(2, unit, local // unit * unit)
    whole, local = local, _at_once(picks.config, facts, local, unit)
    batch = local * facts.ranks
    reason = "measured: 32 for the 768 clips of the sample; it grows with the root of the windows"
    if scarce < 0.9:
        reason += f", and as {scarce:.0%} of the clips have a pair"
    if local == max(2, unit) and batch > clips / 2:
        reason = "the least of which clips can be told apart"
        if facts.ranks * unit > 1:
            reason = f"the least: {local} on each of {facts.ranks} ranks"
    elif local < whole:
        reason = "as many as fit at once (predicted): the batch norms of convolutions must see the whole batch"
    elif batch >= most:
        reason = f"the paper's {PAPER_BATCH:,}" if facts.on_gpu else "the most on a CPU: more would leave few steps"
    elif batch < wanted / math.sqrt(2):
        reason = "at most half of the clips: more would meet the same ones in every step"
    picks.set("run.batch_size", batch, reason)
    found = fit(picks.config, facts, by_hand=picks.given)
    if picks.is_given("engine.zero") or found.zero != picks.config.engine.zero:
        picks.set("engine.zero", found.zero, "spreads optimizer and weights over the GPUs, as they do not fit on one")
    if found.checkpointing or picks.is_given("engine.activation_checkpointing"):
        reason = f"without it a GPU of {facts.memory / GIB:.0f} GiB holds too few clips (predicted)"
        picks.set("engine.activation_checkpointing", found.checkpointing, reason)
    if found.parts > 1 and picks.config.engine.without_parts is None:
        of = f"{facts.memory / GIB:.0f} GiB hold" if found.part else "memory may not hold"
        reason = f"{of} {max(1, found.part)} clips at once (predicted); the loss is that of the whole batch"
        picks.set("engine.contrastive_parts", found.parts, reason)


def _length(picks: Choosing, facts: Facts) -> None:
    """Passes over the windows fall from the sample's to the paper's; and a run should end while somebody waits."""
    config, windows = picks.config, training_windows(picks.config, facts)
    tiny = config.model.name.endswith("-tiny")
    most = PASSES["tiny" if tiny else "other"]
    grown = math.log(max(windows, CLIPS) / CLIPS) / math.log(PAPER_WINDOWS / CLIPS)
    passes = most * (PAPER_PASSES / most) ** min(1.0, grown)
    batch = config.run.batch_size
    steps = max(LEAST_STEPS, round(passes * windows / batch))
    reason = f"{passes:.3g} passes over {windows:,} windows; {most:g} for {CLIPS}, {PAPER_PASSES} in the paper"
    if steps == LEAST_STEPS:
        reason = "the least in which a new model learns anything (a guess)"
    elif steps > PAPER_STEPS:
        steps, reason = PAPER_STEPS, "as long as the paper's"
    limit = PATIENCE[facts.device]
    rate, _ = computing_rate(facts, timed=False)  # timing differs from start to start, and the choice must not
    least = train_flops_per_sample(config.model) * batch / facts.ranks / rate
    if steps * least > limit:
        steps = max(LEAST_STEPS, int(limit / least))
        of = f"the data would carry {passes:.3g} passes"
        reason = f"as many as {in_words(limit)} allow on a machine that is not busy; {of}"
    picks.set("run.steps", steps, reason)


def _rate(picks: Choosing) -> None:
    config = picks.config
    size = config.model.name.rpartition("-")[2]
    short, long = _RATES.get(size, _LARGE_RATES)
    grown = math.log(max(config.run.steps, _SHORT) / _SHORT) / math.log(_LONG / _SHORT)
    rate = float(f"{short * (long / short) ** min(1.0, grown):.2g}")
    why = {"tiny": "measured: 3e-3 for up to 1,000 steps of vatt-tiny; a third of it for long runs (a guess)"}
    reason = why.get(size, "1e-4 in the paper; twice as much for short runs of vatt-base (a guess)")
    picks.set("optim.lr", rate, reason)
    if not picks.is_given("optim.final_lr"):
        picks.put({"optim.final_lr": picks.config.optim.lr / 100})
    warm_up(picks, 0.115, 5000, "a ninth of the run")
    if size != "tiny" and not picks.is_given("optim.clip_backbone"):
        picks.set("optim.clip_norm", 1.0, "a safeguard for short runs; the paper does not clip")


def _augmentation(picks: Choosing, facts: Facts) -> None:
    windows, survey = training_windows(picks.config, facts), facts.survey
    if (values := augmentation(picks, windows)) is None:
        return
    flip = survey.left_right < TELLING
    reason = f"{survey.left_right:.1%} of the captions tell left from right"
    reason = reason if survey.captioned else "no captions that a mirror would belie"
    picks.set("data.augment.flip", flip, f"{reason}, which a mirror would belie" if not flip else reason)
    hue, why = values.hue, f"{survey.hues:.1%} of the captions name a colour"
    why = why if survey.captioned else "no captions that name a colour"
    if survey.hues >= OFTEN:
        hue, why = 0.0, f"{why}, which a turn of the hues would belie"
    elif survey.hues >= TELLING:
        hue, why = min(hue, 0.05), f"{why}: small turns alone, which leave red red"
    picks.set("data.augment.hue", hue, why)


def _pace(picks: Choosing, facts: Facts) -> None:
    clips = held_out(picks.config, facts)
    reason = ""
    if clips < MEANINGFUL:
        reason = f"{clips} clips are held out, and an evaluation needs {MEANINGFUL}" if clips else "nothing is held out"
    pace(picks, reason)
    workers(picks, facts)
