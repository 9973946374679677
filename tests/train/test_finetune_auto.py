"""--config auto of fine-tuning: what it chooses for many clips and machines, what was set by hand, what it warns of."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from tests.train.machines import MACHINES, rows
from train.auto.choices import BY_HAND, table
from train.auto.facts import Facts
from train.auto.fitting import Fit, first_fit
from train.auto.rules import SHARE
from train.config.finetuning import PAPER, FinetuneConfig, recipe
from train.core.command import Job
from train.core.ranks import RankContext
from train.finetuning import start
from train.finetuning.auto import LEAST_STEPS, choose, share_held_out
from train.finetuning.cli import parse
from train.finetuning.expected import count_weights, expected, fit, needed
from train.finetuning.labelled import Labelled, Labels
from train.finetuning.start import advice, beside_the_paper, prepare
from vatt.analysis.memory import classifier_activation_bytes
from vatt.config import ConfigError, from_dict, override, to_dict
from vatt.data import Classes, LabelError
from vatt.data.survey import Survey
from vatt.models import Classifier

COUNTS = (3, 30, 768, 20_000, 1_000_000)


def facts(clips, machine="laptop", named=None, **found):
    looked = min(clips, 48)
    known = dict(looked_at=looked, with_sound=looked, height=112, width=112, seconds=(4.0,) * looked, reading=0.01)
    return Facts(("my_clips",), Survey(clips, clips, 0, **{**known, **found}), named=named, **MACHINES[machine])


def labels(clips, classes=6, several=0, held_out=20, **found):
    names = [f"class {number}" for number in range(classes)]
    counts = {name: clips // classes + (number < clips % classes) for number, name in enumerate(names)}
    return Labels(counts, several, clips, held_out, **found)


def base(task="video", *words, on_gpu=False):
    config = parse(["--task", task, "--data", "a.csv", *words], on_gpu).config
    config.model = replace(config.model, num_classes=6)
    return config


def of_sample(task="video", clips=768):
    return choose(base(task, "--model", "vatt-tiny"), facts(clips, named=(clips, 96)), labels(clips, held_out=96), {})


# Of a batch of 16 clips on two GPUs, each with 8: clips at once and bytes by stage of ZeRO, and with layers twice.
@pytest.mark.parametrize(
    ("parts", "by_hand", "found"),
    [
        ({(0, False): (4, 9)}, (), (0, False)),
        ({(2, False): (4, 5)}, (), (2, False)),  # nothing else gives parts of four clips
        ({(0, False): (2, 9), (1, False): (2, 8)}, (), (0, False)),  # no reason for another stage
        ({(0, False): (1, 9), (0, True): (3, 4)}, (), (0, True)),
        ({(3, True): (0, 2)}, (), (3, True)),  # nothing fits: what needs the least
        ({(2, False): (4, 5), (0, True): (4, 6)}, ("engine.zero",), (0, True)),
        ({(2, True): (8, 5)}, ("engine.activation_checkpointing",), (0, False)),
    ],
)
def test_what_fits_first_is_taken(parts, by_hand, found):
    def in_parts(zero, checkpointing):
        part, size = parts.get((zero, checkpointing), (0, 9))
        return Fit(zero, checkpointing, part, 1, size)

    config = base()
    config.run.batch_size = 16
    fitting = first_fit(config, replace(facts(768), ranks=2), in_parts, 4, by_hand, layers=True)
    assert (fitting.zero, fitting.checkpointing) == found


@pytest.mark.parametrize(
    ("machine", "task"),
    [*(("laptop", task) for task in PAPER), ("two ranks", "video"), ("small gpu", "audio"), ("eight gpus", "image")],
)
def test_every_choice_is_valid_and_grows_with_the_clips(machine, task):
    seen = []
    for count in COUNTS:
        known = facts(count, machine)
        config, choices = choose(base(task, on_gpu=known.on_gpu), known, labels(count), {})
        assert from_dict(FinetuneConfig, to_dict(config)) == config  # every section accepts it
        batch, parts = config.run.batch_size, config.engine.gradient_accumulation
        assert batch % (known.ranks * parts) == 0
        assert batch <= count or batch == known.ranks
        if fit(config, known).part:
            size = needed(config, known, count_weights(config), config.engine.zero, False, parts)
            assert config.engine.activation_checkpointing or size <= SHARE * known.memory
        assert config.run.steps >= LEAST_STEPS
        assert config.optim.warmup_steps <= config.run.steps // 2
        assert (config.optim.kind, config.optim.schedule) == ("adam", "cosine")
        assert (config.evaluation.crops == 1) or (task == "video" and known.on_gpu)
        assert max(map(len, table(choices).splitlines())) <= 100
        assert all(choice.reason for choice in choices)
        estimate = expected(config, known, 20)
        assert estimate.seconds >= estimate.steps > 0
        seen.append(config)
    for before, after in itertools.pairwise(seen):
        assert before.run.batch_size <= after.run.batch_size
        assert before.run.steps <= after.run.steps or before.run.batch_size < after.run.batch_size
        assert before.data.augment.area_min >= after.data.augment.area_min


@pytest.mark.parametrize("task", PAPER)
def test_the_samples_clips_get_the_samples_recipe(task):
    """But for its length: own clips are harder, so it takes nearly twice as many steps."""
    config, choices = of_sample(task)
    known = recipe("sample", task)
    assert to_dict(config.model.input) == to_dict(known.model.input)
    assert config.model.dropout == known.model.dropout
    for name in ("kind", "schedule", "lr", "clip_backbone"):
        assert getattr(config.optim, name) == getattr(known.optim, name)
    assert config.run.batch_size == known.run.batch_size
    assert known.run.steps < config.run.steps < 2 * known.run.steps
    assert (config.evaluation.clips, config.evaluation.crops) == (1, 1)
    assert rows(choices)["held out"].value == "96 clips"
    assert "the model's own" in rows(choices)["model.input"].reason or task == "image"


def test_own_data_take_auto_and_the_paper_stays():
    job = parse(["--data", "a.csv", "--steps", "7", "--batch-size", "4", "optim.lr=0.01"])
    assert (job.auto, job.sample) == (True, False)
    assert job.given == {"run.steps": 7, "run.batch_size": 4, "optim.lr": 0.01}
    assert job.config.model.input.size == 64
    for words in ([], ["--config", "sample", "--data", "a.csv"], ["--config", "paper", "--data", "a.csv"]):
        assert not parse(words).auto
    for task, name in PAPER.items():
        assert parse(["--task", task, "--config", "paper"]).config == parse(["--config", name, "--task", task]).config
    job = parse(["--config", "auto", "--task", "audio"])
    assert (job.auto, job.sample, job.config.label) == (True, True, "shape")
    assert parse(["--data", "a.csv"], on_gpu=True).config.model.name == "vit-base-video"


def test_a_picture_is_as_long_as_a_patch():
    assert base("image").model.input.frames == base("image").model.video.temporal_patch_size == 4
    assert base("image").model.video.max_temporal_buckets == 1


def test_what_was_set_by_hand_stays_and_is_told():
    words = ["--steps", "300", "--batch-size", "8", "--model", "vatt-tiny", "model.input.size=32"]
    words += ["targets.smoothing=0.2", "data.augment.flip=false", "optim.kind=sgd", "evaluation.clips=2"]
    words += ["model.dropout=0.3", "data.eval_share=0.1", "data.workers=3", "engine.gradient_accumulation=2"]
    job = parse(["--data", "a.csv", *words])
    config, choices = choose(job.config, facts(768), labels(768), job.given)
    told = rows(choices)
    assert (config.run.steps, config.run.batch_size, config.model.input.size) == (300, 8, 32)
    assert (config.targets.smoothing, config.data.augment.flip, config.model.dropout) == (0.2, False, 0.3)
    assert (config.evaluation.clips, config.data.eval_share, config.data.workers) == (2, 0.1, 3)
    assert (config.optim.kind, config.optim.lr) == ("sgd", recipe("kinetics", "video").optim.lr)
    for name in ("run.steps", "run.batch_size", "targets.smoothing", "data.augment.flip", "optim.kind"):
        assert told[name].reason == BY_HAND
    assert told["model.input"].reason.startswith(f"{BY_HAND}: size")
    assert told["model"].reason.startswith(BY_HAND)
    assert (config.engine.gradient_accumulation, told["engine.gradient_accumulation"].reason) == (2, BY_HAND)


def test_classes_decide_on_labels_mirrors_hues_and_steps():
    known = facts(768)
    many, _ = choose(base(), known, labels(768, classes=400), {})
    assert (many.targets.smoothing, many.run.steps) == (0.1, 50 * 400 / 32)
    sides, choices = choose(base(), known, labels(768, left_right=("turn left",), hues=("red", "blue")), {})
    assert (sides.data.augment.flip, sides.data.augment.hue) == (False, 0.0)
    assert rows(choices)["data.augment.flip"].reason.endswith("turn left")
    assert rows(choices)["data.augment.hue"].reason.endswith("red, blue")
    sound = base("audio")
    sound.model = replace(sound.model, labels="multi")
    few, choices = choose(sound, known, labels(768, several=3), {})
    assert (few.targets.mixup, few.targets.smoothing) == (0.0, 0.0)
    assert rows(choices)["model.labels"].reason == "3 clips have several labels"
    assert choose(sound, facts(20_000), labels(20_000, several=3), {})[0].targets.mixup == 5.0


def test_a_large_model_on_a_small_machine_goes_in_parts_or_is_hopeless():
    known = replace(facts(2000), memory=6 << 30, host=6 << 30)
    config, choices = choose(base("video", "--model", "vit-base"), known, labels(2000), {})
    assert config.run.steps == LEAST_STEPS  # as few as it takes, and still long
    assert config.engine.activation_checkpointing
    assert config.engine.gradient_accumulation > 1
    assert rows(choices)["engine.gradient_accumulation"].reason.startswith("6 GiB hold ")
    (line,) = advice(config, known, known_labels(labels(2000)))
    assert "hopeless here; try --config auto, fewer --steps" in line
    config.engine.gradient_accumulation, config.engine.activation_checkpointing = 1, False
    (line, _) = advice(config, known, known_labels(labels(2000)))
    assert line.startswith("model: even one clip at a time may not fit into the 6.4 GB that are free (predicted); try")
    config.run.batch_size, known = 256, replace(known, memory=100 << 30)
    (line, _) = advice(config, known, known_labels(labels(2000)))
    assert line.startswith(
        "run.batch_size: 256 clips at once may not fit into the 107.4 GB that are free (predicted); "
    )
    assert line.endswith("takes them in parts, with the same loss")
    assert rows(choices)["model"].reason.startswith("no GPU; from scratch")
    assert beside_the_paper(config, known, 20).startswith(
        "--config paper is 100,000 steps of 64 clips of its own input"
    )


def known_labels(found):
    return Labelled(None, Classes(tuple(found.counts)), found)


def test_what_cannot_work_is_told_with_what_to_try():
    config = recipe("paper", "video")
    known = facts(30, broken=("a.mp4: container: bad",) * 8)
    found = replace(labels(30, classes=29, left_right=("turn left",), hues=("red",)), clips=30)
    lines = "\n".join(advice(config, known, known_labels(found)))
    for words in (
        "run.batch_size: 64 clips of a step, but there are 30 to train on",
        "28 of 29 classes have fewer than 2 clips to train on, which is nothing to learn from: class 1, class 2,",
        "classes tell left from right, which a mirrored picture belies: turn left; try data.augment.flip=false",
        "try data.augment.hue=0",
        "100,000 steps of 64 clips of vit-base are about ",
        "8 of the 30 clips looked at cannot be read, such as a.mp4",
    ):
        assert words in lines
    assert not list(advice(of_sample()[0], facts(768), known_labels(labels(768))))


def test_clips_without_sound_are_refused_for_sound():
    with pytest.raises(ConfigError, match=r"^my_clips: none of the 48 clips .* has sound, which --task audio"):
        choose(base("audio"), facts(768, with_sound=0), labels(768), {})


@pytest.mark.parametrize(("clips", "share"), [(10, 0.0), (24, 0.0), (25, 0.2), (2000, 0.05), (100_000, 0.01)])
def test_held_out_share(clips, share):
    assert share_held_out(clips, clips) == share


def test_labels_are_read_before_anything_is_looked_at(tmp_path, monkeypatch):
    table_of(tmp_path, "label", [f"{'a' if n % 2 else 'b'}|c" for n in range(40)])
    known = []
    monkeypatch.setattr(start, "gather_facts", lambda *given, **options: known.append(options) or facts(40))
    job = parse(["--data", str(tmp_path / "a.csv")])
    found = prepare(job, RankContext(0, 1, torch.device("cpu")))
    assert (job.config.model.labels, job.config.model.classes) == ("multi", ["a", "b", "c"])
    assert job.config.data.eval_share == 0.2
    assert found.labelled.labels.clips + found.labelled.labels.held_out == 40
    assert known == [{"timed": True, "look": True}]
    with pytest.raises(LabelError, match=r"no clip has a label in the column kind; .* by --label: label"):
        prepare(parse(["--data", str(tmp_path / "a.csv"), "--label", "kind"]), RankContext(0, 1, torch.device("cpu")))
    config = override(recipe("sample", "video"), [f'data.sources=["{tmp_path / "a.csv"}"]', "label=label"])
    with pytest.raises(LabelError, match="the task takes one"):  # a named recipe finds nothing by itself
        prepare(Job(config, None, resume=False, sample=False), RankContext(0, 1, torch.device("cpu")))


def table_of(folder, column, values):
    for number in range(len(values)):
        (folder / f"{number}.mp4").write_bytes(b"x")
    lines = [f"{number}.mp4,{value}" for number, value in enumerate(values)]
    (folder / "a.csv").write_text("\n".join([f"video,{column}", *lines]) + "\n")


@pytest.mark.parametrize("task", PAPER)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_predicted_activations_are_those_that_are_kept(task, checkpointing):
    """Of the sample's classifiers; where layers are computed twice, the largest one counts on top."""
    config = base(task).model
    model = Classifier.from_config(config).train()
    model.backbone.encoder.activation_checkpointing = checkpointing
    spec, seen = config.input, {}
    size = (2, spec.samples) if task == "audio" else (2, spec.frames, spec.size, spec.size, 3)
    x = torch.randn(size) if task == "audio" else torch.zeros(size, dtype=torch.uint8)
    own = {p.untyped_storage().data_ptr() for p in (x, *model.parameters())}

    def keep(value):
        seen[value.untyped_storage().data_ptr()] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model(x)
    kept = sum(value.untyped_storage().nbytes() for place, value in seen.items() if place not in own)
    options = dict(checkpointing=checkpointing, backend="cpu", device="cpu")
    found = classifier_activation_bytes(config, torch.float32, 2, **options)
    assert kept <= found
    assert checkpointing or found <= 1.05 * kept
