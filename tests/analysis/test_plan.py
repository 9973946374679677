"""Predicted memory against what DeepSpeed allocates, communication by hand, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.train.engine_job import small_model
from tests.train.ranks import run_ranks
from train.config.sections import EngineConfig, OptimConfig
from train.core.engine import deepspeed_json
from vatt.__main__ import main
from vatt.analysis.plan import Request, predict
from vatt.analysis.plan.communication import ONCE, TWICE, Links, loss_collectives, state_collectives
from vatt.analysis.plan.compute import COLUMNS, RESULTS, read_results, same_gpu
from vatt.analysis.plan.predict import GIB
from vatt.analysis.plan.zero import Buckets, Weights, state_bytes, weights
from vatt.presets import preset
from vatt.results import ResultsError

JOB = str(Path(__file__).with_name("plan_ranks.py"))
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Most parts are predicted to the byte. All of a rank at rest has some counters more; and of ZeRO-3's whole parameters
# not each is there at the same time.
ABOUT = {"steady": 0.01, "gathered": 0.01}

# Some parameters of the very small models lie on either side of 300 elements.
SIZES = Buckets(reduce_bucket_size=70_000, param_persistence_threshold=300)
NARROW = Buckets(reduce_bucket_size=60_000, param_persistence_threshold=0, max_reuse_distance=0)
# By ranks. The first model of a group is modality-specific with a frozen word table, the next agnostic, in turn.
JOBS = {
    1: [(3, "fp32", SIZES), (1, "fp32", SIZES)],
    2: [
        *[(0, "fp32", SIZES), (1, "fp32", SIZES), (2, "bf16", SIZES), (3, "fp32", SIZES), (3, "fp32", NARROW)],
        *[(2, "bf16", SIZES, 2), (3, "bf16", SIZES, 2)],  # in parts
    ],
    4: [(1, "fp32", SIZES), (3, "bf16", SIZES)],
}


def as_settings(sizes):
    """The same numbers as entries of DeepSpeed's JSON."""
    return {
        "reduce_bucket_size": sizes.reduce_bucket_size,
        "stage3_prefetch_bucket_size": 500,  # changes when, not how much
        "stage3_param_persistence_threshold": sizes.param_persistence_threshold,
        "stage3_max_reuse_distance": sizes.max_reuse_distance,
    }


@pytest.fixture(scope="module")
def allocated(tmp_path_factory):
    """What the ranks found: (ranks, number of the job) -> the job and its bytes by part."""
    folder, groups = tmp_path_factory.mktemp("ranks"), []
    for ranks, jobs in JOBS.items():
        group = []
        for number, (zero, precision, sizes, *parts) in enumerate(jobs):
            files = {name: str(folder / f"{ranks}.{number}.{name}") for name in ("out", "settings")}
            model = "vatt-ma-tiny" if number % 2 else "vatt-tiny"
            settings = dict(buckets=as_settings(sizes), parts=parts[0] if parts else 1)
            group.append(dict(zero=zero, precision=precision, model=model, **settings, **files))
        groups.append({"ranks": ranks, "jobs": group})
    run_ranks(1, JOB, json.dumps(groups), CUDA_VISIBLE_DEVICES="")  # more ranks than a machine has GPUs
    return {
        (group["ranks"], number): (job, json.loads(Path(job["out"]).read_text()))
        for group in groups
        for number, job in enumerate(group["jobs"])
    }


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "number"), [(ranks, n) for ranks, jobs in JOBS.items() for n in range(len(jobs))])
def test_deepspeed_allocates_what_is_predicted(ranks, number, allocated):
    zero, precision, sizes, *_ = JOBS[ranks][number]
    job, real = allocated[ranks, number]
    states = state_bytes(small_model(job["model"]), zero, ranks, TYPES[precision], sizes, job["parts"])
    wanted = {name: getattr(states, name) for name in real}
    if job["parts"] > 1 and zero == 2:  # beside the sum those of a part, which are gone at the update
        assert real.pop("gradients") == states.master < wanted.pop("gradients")
    # Bounds: it depends on the order of the parameters; and in parts, the heads are not there again.
    for name in ("gathered", "copies") if sizes is NARROW else ("gathered",) if job["parts"] > 1 and zero == 3 else ():
        assert 0 < real.pop(name) <= wanted.pop(name)
    for name, size in wanted.items():
        assert real[name] == pytest.approx(size, rel=ABOUT.get(name, 0)), name


def test_stage_3_shards_each_parameter_by_itself():
    """With more ranks than any parameter has elements, a rank has one element of each."""
    config = small_model("vatt-tiny")
    count, ranks = weights(config), 1_000_000
    found = state_bytes(config, 3, ranks, torch.bfloat16)
    assert found.parameters == 2 * (len(count.trained) + len(count.frozen)) + count.buffers
    assert found.master == 2 * found.gradients == 4 * len(count.trained)
    assert len(count.frozen) == 1


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_the_sizes_are_those_of_the_generated_settings(zero):
    """DeepSpeed's defaults behind our JSON: were one set there, or changed by DeepSpeed, the constants would be old."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    generated = deepspeed_json(EngineConfig(zero=zero), OptimConfig(), 2, True)["zero_optimization"]
    found = DeepSpeedZeroConfig(**generated)
    assert {name: getattr(found, name) for name in vars(Buckets())} == vars(Buckets())
    assert found.contiguous_gradients
    assert found.reduce_scatter
    assert found.use_multi_rank_bucket_allreduce
    assert not found.round_robin_gradients
    assert found.overlap_comm == (zero == 3)  # stages 1 and 2 would have a second bucket with it


@pytest.mark.parametrize(
    ("arguments", "word"),
    [((4, 2, torch.float32), "zero"), ((1, 0, torch.float32), "ranks"), ((1, 2, torch.half), "dtype")],
)
def test_states_of_nonsense_are_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        state_bytes(preset("vatt-tiny"), *arguments)


def test_links_by_hand():
    """800 bytes on 2 nodes of 4: a ring of 4, then each rank's 200 bytes between 2 nodes."""
    links = Links(ranks=8, per_node=4, intra=100.0, inter=10.0, latency=0.5)
    assert links.sent(800, ONCE) == (600, 100)
    assert links.seconds(800, ONCE) == 600 / 100 + 100 / 10 + 0.5
    assert links.seconds(800, TWICE, messages=3) == 2 * (600 / 100 + 100 / 10) + 1.5
    one_node = Links(4, 4, 100.0, 10.0, 0.0)
    assert one_node.seconds(800, ONCE) == 6.0
    assert Links(1, 1, 100.0, 10.0, 0.5).seconds(800, TWICE) == 0


def test_collectives_by_stage():
    count = Weights(trained=(60, 40), frozen=(10,), buffers=0)
    sizes = Buckets(reduce_bucket_size=50, max_reuse_distance=1000)

    def volumes(zero, dtype, sizes=sizes):
        return [(e.volume, e.passes, e.messages) for e in state_collectives(count, zero, dtype, sizes)]

    assert volumes(0, torch.float32) == [(400, TWICE, 2)]
    assert volumes(0, torch.bfloat16) == volumes(1, torch.bfloat16) == [(200, TWICE, 2), (200, ONCE, 1)]
    assert volumes(3, torch.bfloat16) == [(220, ONCE, 1), (200, ONCE, 2)]
    short = Buckets(reduce_bucket_size=50, max_reuse_distance=219)  # 110 forwards and 110 backwards do not fit
    assert volumes(3, torch.bfloat16, short)[0] == (440, ONCE, 2)


def test_the_loss_collectives_embeddings_and_statistics():
    found = {e.name: e for e in loss_collectives(preset("vatt-base"), batch=4, ranks=8)}
    rows = 32 * (2 * 512 + (1 + 5) * 256) * 4
    assert found["embeddings, all-gather"].volume == found["their gradients, all-reduce"].volume == rows
    assert found["their gradients, all-reduce"].passes == TWICE
    # Both directions of sum and squares: 512 + 1 and 512 numbers twice in the first two norms, 256 in the third.
    assert found["batch norms, all-reduce"].volume == 4 * 2 * (2 * (2 * 512 + 1) + 2 * 256 + 1)


def request(**changes):
    known = dict(model="vatt-large", gpus=64, batch=2048, zero=3)
    return Request(**{**known, **changes}, given=frozenset({*known, *changes}))


def test_times_follow_from_the_parts():
    plan = predict(request(mfu=0.5, steps=864))
    assert plan.speed.mfu == pytest.approx(0.5)
    assert plan.step["no overlap"] == pytest.approx(plan.speed.seconds + plan.communication)
    assert plan.step["full overlap"] == max(plan.speed.seconds, plan.communication)
    assert plan.days["no overlap"] == pytest.approx(plan.step["no overlap"] / 100)
    assert 0 < plan.share["no overlap"] < 1
    slow = predict(request(mfu=0.5, inter_gbps=0.01))
    assert slow.communication > slow.speed.seconds
    assert slow.step["full overlap"] == slow.communication
    assert 0 < slow.share["full overlap"] < slow.share["no overlap"]
    assert predict(request(mfu=0.5, checkpointing=True)).speed.seconds == pytest.approx(plan.speed.seconds * 4 / 3)


def test_the_largest_batch_fits_and_one_more_does_not():
    plan = predict(request(memory_gib=40.0))
    assert plan.fits
    best = plan.largest_batch
    for samples, fits in ((best, True), (best + 1, False)):
        other = predict(request(memory_gib=40.0, batch=64 * samples))
        assert other.fits is fits
        assert (other.needed <= 40 * GIB) is fits
    assert predict(request(memory_gib=3.0)).largest_batch == 0
    assert predict(request(memory_gib=40.0, checkpointing=True)).largest_batch > 2 * best


def test_parts_take_the_memory_of_one_and_a_forward_pass_more(capsys):
    whole, parts = (predict(request(mfu=0.5, batch=64 * 64, contrastive_parts=number)) for number in (1, 8))
    for name in ("batch and the next one", "activations"):
        assert parts.memory[name] == pytest.approx(whole.memory[name] / 8, rel=0.05)
    assert parts.memory["features of all parts"] > whole.memory["features of all parts"] == 0
    assert parts.speed.seconds == pytest.approx(whole.speed.seconds * (1 + 7 / 8 / 3))
    assert whole.traffic < parts.traffic < 1.3 * whole.traffic  # each part reads the weights
    assert parts.largest_batch % 8 == 0
    assert parts.largest_batch > 6 * whole.largest_batch
    words = ["plan", "--model", "vatt-large", "--gpus", "1", "--batch", "2048"]
    assert main(words) == 0
    told = capsys.readouterr().out
    fewest = int(told.partition("--contrastive-parts ")[2].split()[0])
    assert "DOES NOT FIT" in told
    for number, fits in ((fewest, True), (fewest // 2, False)):
        assert main([*words, "--contrastive-parts", str(number)]) == 0
        assert ("DOES NOT FIT" in capsys.readouterr().out) != fits
    with pytest.raises(SystemExit):
        main([*words, "--contrastive-parts", "3"])
    assert "--contrastive-parts: 3 do not divide the 2048 samples a GPU" in capsys.readouterr().err


def test_stages_shard_what_they_should():
    sums = [predict(request(zero=zero)).memory for zero in (1, 2, 3)]
    assert sums[0] == sums[1]  # DeepSpeed 0.19.8 keeps no more gradients in stage 1
    assert sums[0]["parameters"] > 50 * sums[2]["parameters"]
    assert sums[2]["gathered parameters"] > 0 == sums[0]["gathered parameters"]
    alone = predict(request(zero=1, gpus=1, batch=32)).memory
    assert alone["Adam's moments"] == pytest.approx(64 * sums[0]["Adam's moments"], rel=0.001)


def row(**changes):
    known = dict(suite="steps", op="step", mode="step", dtype="bfloat16", provider="ours auto", unit="samples/s")
    known |= dict(case="vatt-large b16", rate=100.0, device="NVIDIA H100 80GB HBM3", commit="abc", time="2026-01-01")
    return {**known, **changes}


def line(row):
    return ",".join("" if row.get(name) is None else str(row.get(name)) for name in COLUMNS) + "\n"


def test_a_measured_row_is_used_and_named(tmp_path):
    file = tmp_path / "results.csv"
    rows = [
        row(case="vatt-large b30", rate=200.0, commit="cafe"),
        row(case="vatt-large b64", rate=400.0),  # farther from 32
        row(case="vatt-large b30", rate=1.0, time="2025-01-01"),  # older
        row(case="vatt-large b32", rate=500.0, device="NVIDIA H200"),
        row(case="vatt-large b32", rate=500.0, device="NVIDIA H100 PCIe"),
        row(case="vatt-large b32", rate=500.0, provider="plain PyTorch"),
        row(case="vatt-large b32", rate=500.0, mode="forward"),
        row(case="vatt-large b32", rate=500.0, dtype="float32"),
        row(case="vatt-base b32", rate=500.0),
        row(case="vatt-large b32", rate=None, note="out of memory"),
    ]
    job = dict(suite="jobs", op="pretrain")
    more = [
        row(case="vatt-large b32 drop 50%", rate=300.0, **job),  # steps come first
        row(case="vatt-ma-base b32 drop 75%", rate=900.0, time="2027-01-01", **job),
        row(case="vatt-ma-base b8 drop 50%", rate=800.0, **job),
        row(case="vatt-medium b32 drop 75%", rate=900.0, **job),
    ]
    file.write_text("".join(map(line, [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows, *more])))
    assert predict(request(results=file, model="vatt-ma-base")).speed.seconds == 32 / 800
    assert predict(request(results=file, model="vatt-medium")).speed.mfu == pytest.approx(Request.mfu)
    plan = predict(request(results=file))
    assert plan.speed.seconds == 32 / 200
    (source,) = [s for s in plan.assumptions if s.what == "rate"]
    assert "measured" in source.source
    assert "cafe" in source.source
    assert "H100 80GB" in source.source
    other = predict(request(results=file, gpu="A100"))
    assert other.speed.mfu == pytest.approx(Request.mfu)
    assert any(s.what == "MFU" and s.source.startswith("assumed") for s in other.assumptions)


def test_devices_are_told_apart():
    assert same_gpu("H100 SXM", "NVIDIA H100 80GB HBM3")
    assert not same_gpu("H100 SXM", "NVIDIA H100 PCIe")
    assert not same_gpu("H100 SXM", "NVIDIA H200")  # the same peak
    assert same_gpu("A100", "NVIDIA A100-SXM4-80GB")


GOOD = ["plan", "--model", "vatt-tiny", "--gpus", "4", "--batch", "64", "--mfu", "0.4"]


def test_the_command_prints_each_assumption(capsys):
    assert main([*GOOD, "--zero", "2", "--checkpointing"]) == 0
    text = capsys.readouterr().out
    for words in ("data sheet", "given by --mfu", "assumed; change it by --intra-gbps", "largest batch", "4/3", "fits"):
        assert words in text
    assert main([*GOOD, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["memory"]["sum"] == sum(size for part, size in found["memory"].items() if part in PARTS)
    assert found["request"]["batch"] == 64
    assert set(found["days"]) == {"no overlap", "full overlap"}
    assert all(source["source"] for source in found["sources"])


PARTS = {*predict(Request("vatt-tiny", 2, 4)).memory}


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        (["--batch", "65"], "--batch"),
        (["--batch", "4"], "--batch"),
        (["--zero", "4"], "--zero"),
        (["--model", "vatt-larg"], "--model"),
        (["--gpu", "Voodoo 2"], "--gpu"),
        (["--gpus", "0"], "--gpus"),
        (["--gpus", "12", "--batch", "144"], "--gpus"),
        (["--steps", "-1"], "--steps"),
        (["--inter-gbps", "0"], "--inter-gbps"),
        (["--memory-gib", "nan"], "--memory-gib"),
        (["--latency-us", "-1"], "--latency-us"),
        (["--mfu", "1.5"], "--mfu"),
        (["--results", "none.csv"], "--results"),
        (["--model", "mmv-i3d", "--checkpointing"], "--checkpointing: mmv-i3d has convolutional networks"),
        (["--model", "mmv-i3d", "--contrastive-parts", "2"], "--contrastive-parts: the batch norms of mmv-i3d"),
    ],
)
def test_nonsense_names_the_flag_and_ends_with_2(changes, flag, capsys):
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main([*GOOD, *changes]))
    assert stopped.value.code == 2
    assert flag in capsys.readouterr().err


HEADER = ",".join(COLUMNS) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": is empty"),
        ("suite,op\n", ", line 1: columns are missing: time, commit"),
        (HEADER + "steps,step\n", ", line 2: 2 columns where the header has 12"),
        (HEADER + line(row()) + line(row(rate="fast")), ", line 3: rate is 'fast', not a finite number above zero"),
        *(
            (HEADER + line(row(rate=rate)), f", line 2: rate is '{rate}', not a finite")
            for rate in ("nan", "inf", "-1")
        ),
    ],
)
def test_results_that_cannot_be_read_are_named(text, message, capsys, tmp_path):
    file = tmp_path / "results.csv"
    file.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main([*GOOD[:-2], "--results", str(file)])
    assert stopped.value.code == 2
    assert f"--results: {file}{message}" in capsys.readouterr().err


def test_the_committed_results_can_be_read():
    """The benchmarks' own file, which is the default of --results in a checkout."""
    assert len(read_results(RESULTS)) > 100
    with pytest.raises(ResultsError, match="cannot be read"):
        read_results(RESULTS.with_name("absent.csv"))
