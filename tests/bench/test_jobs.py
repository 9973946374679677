"""Whole jobs of the benchmark suite at tiny sizes: what their rows say, and that a failure is a row."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import av
import av.video.frame
import pytest
import torch

import bench.jobs.pretraining
import bench.jobs.run
from bench import store
from bench.__main__ import main as benchmark
from bench.jobs import decoding
from bench.jobs.case import config_of, pace
from bench.jobs.decoding import (
    BARE_TWICE,
    BEFORE,
    FILES,
    SHARDS,
    SHARDS_PLANES,
    Film,
    decode,
    make_video,
    table,
    verdicts,
)
from bench.jobs.options import SIZES, JobError, Options, doubling, parse
from bench.jobs.pretraining import Training, pretrain, read_records, summary
from bench.jobs.reading import embed, loader, reading_pace
from bench.jobs.run import in_process, jobs, main
from tests.limits import HANG
from vatt.analysis.flops import tokens, train_flops_per_sample
from vatt.analysis.peak_memory import MIB, held_mib, peak_mib
from vatt.clip import InputConfig
from vatt.data import Clip, DataConfig, Source, Tokenizer, TrainLoader
from vatt.data.samples import PretrainReader
from vatt.process import ProcessFailed
from vatt.results import ORIGIN

CPU = torch.device("cpu")
TINY = Options("cpu", "tiny")


def mib(size: float) -> torch.Tensor:
    return torch.empty(int(size * MIB), dtype=torch.uint8)


def rows_of(messages):
    return [message["done"] for message in messages if "done" in message]


@pytest.fixture(scope="module")
def pretrained():
    return rows_of(pretrain(Options("cpu", "tiny", drops=(50, 0))))


@pytest.mark.slow
def test_pretraining_rows_are_consistent(pretrained, tmp_path):
    assert [row["case"] for row in pretrained] == [
        f"vatt-tiny {case}%" for case in ("b2 drop 50", "b4 drop 50", "b2 drop 0")
    ]
    for row in pretrained:
        batch, drop = int(row["case"].split()[1][1:]), int(row["case"].split()[3][:-1])
        flops = train_flops_per_sample(config_of("vatt-tiny", drop, tiny=True)) * batch
        assert row["ms"] > 0
        assert row["ms_p20"] <= row["ms"] <= row["ms_p80"]
        assert row["repeats"] >= 2
        assert row["rate"] == pytest.approx(1e3 * batch / row["ms"])
        assert row["unit"] == "samples/s"
        assert row["tflops"] == pytest.approx(flops / (row["ms"] * 1e-3) * 1e-12)
        assert row["mfu"] == pytest.approx(row["tflops"] / row["roof_tflops"])
        assert row["mfu"] > 0
        assert "measured before" in row["note"]  # no data sheet of a CPU
        assert not set(row) & set(ORIGIN)
        assert set(row) <= set(store.FIELDS)
        again = row["command"].split()
        assert again[:4] == ["python", "-m", "bench", "jobs"]
        options, _ = parse(again[4:])
        assert [options.cases(sweep) for sweep in options.sweeps()] == [[(drop, (batch,))]]
    store.append(tmp_path / "rows.csv", pretrained)
    assert len(store.read(tmp_path / "rows.csv")) == len(pretrained)


@pytest.mark.slow
def test_the_peak_holds_weights_gradients_and_moments(pretrained):
    """At least three times the trained weights stand before the step, and their gradients come in it."""
    module = Training(config_of("vatt-tiny", 50, tiny=True), CPU).module
    weights = sum(4 * p.numel() for p in module.parameters() if p.requires_grad) / MIB
    for row in pretrained:
        assert 4 * weights < row["peak_mib"] < 12 * weights


def test_dropping_more_tokens_needs_fewer_operations():
    configs = [config_of("vatt-base", drop, tiny=False) for drop in (0, 25, 50, 75)]
    assert [tokens(config)["video"].kept for config in configs] == [1568, 1176, 784, 392]
    assert [tokens(config)["audio"].kept for config in configs] == [1200, 900, 600, 300]
    needed = [train_flops_per_sample(config) for config in configs]
    assert needed == sorted(needed, reverse=True)
    assert needed[0] > 3 * needed[3]
    shared_model = [train_flops_per_sample(config_of("vatt-ma-base", drop, tiny=False)) for drop in (0, 75)]
    assert shared_model[0] > 3 * shared_model[1]


def test_peak_of_a_known_pattern():
    def pattern():
        a, b = mib(8), mib(4)
        del a
        c = mib(6)
        return b, c

    assert peak_mib(pattern, CPU) == pytest.approx(12, abs=0.01)
    assert peak_mib(lambda: mib(1), CPU) == pytest.approx(1, abs=0.01)
    assert peak_mib(lambda: None, CPU) == 0


def test_peak_sees_the_backward_pass():
    x = torch.randn(256, 1024, requires_grad=True)  # 1 MiB
    # exp keeps its result, and the gradient of x comes beside that of the sum's inputs
    found = peak_mib(lambda: x.exp().exp().sum().backward(), CPU)
    assert 3 <= found <= 5


def test_peak_is_not_lowered_by_memory_of_earlier_profiles():
    left = []
    assert peak_mib(lambda: left.append(mib(16)), CPU) == pytest.approx(16, abs=0.01)

    def release_and_allocate():
        left.clear()
        return mib(4)

    assert peak_mib(release_and_allocate, CPU) == pytest.approx(4, abs=0.01)


def test_memory_that_stands_is_counted_once():
    module = torch.nn.Sequential(*[torch.nn.Linear(512, 512, bias=False)] * 2)  # one weight of 1 MiB
    adam = torch.optim.AdamW(module.parameters())
    assert held_mib(module, adam) == 1
    module(torch.randn(2, 512)).sum().backward()
    assert held_mib(module, adam) == 2
    adam.step()
    assert held_mib(module, adam, [torch.zeros(512, 512)]) == pytest.approx(5, abs=1e-4)  # and the number of the step


@pytest.mark.slow
def test_an_end_of_memory_is_a_row_and_ends_the_sweep(monkeypatch):
    tried = []

    class Limited(Training):
        def step(self, batch):
            tried.append(len(batch["video"]))
            if tried[-1] > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. FileResult to allocate more")
            super().step(batch)

    monkeypatch.setattr(bench.jobs.pretraining, "Training", Limited)
    found = rows_of(pretrain(Options("cpu", "tiny", drops=(50, 75), batches=(2, 4, 8))))
    assert [row["case"] for row in found] == [f"vatt-tiny b{b} drop {d}%" for d in (50, 75) for b in (2, 4)]
    assert 8 not in tried
    for row in found[1::2]:
        assert row["note"].startswith("out of memory: OutOfMemoryError")
        assert "ms" not in row
        assert "rate" not in row
    assert all(row["ms"] > 0 for row in found[::2])


@pytest.mark.slow
def test_the_command_line_appends_rows_and_survives_a_real_lack_of_memory(tmp_path, monkeypatch):
    """64 videos fit into 3 GiB, the 8 GB of one matrix of 20,000 x 100,000 similarities do not."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    path = tmp_path / "results.csv"
    words = "--only loss_memory --device cpu --size tiny --memory-gib 3 --batch 64 20000"
    assert main([*words.split(), "--limit", str(HANG), "--results", str(path)]) == 0
    rows = store.read(path)
    assert all(row["commit"] and row["device"] and row["suite"] == "jobs" for row in rows)
    found = {(row["provider"], row["case"].split()[0]): row for row in rows}
    assert "CUDA" in found.pop(("triton", "b64"))["note"]  # the interpreter's time would say nothing
    assert set(found) == {(name, batch) for name in ("torch", "matmul", "open_clip") for batch in ("b64", "b20000")}
    for (_, batch), row in found.items():
        if batch == "b64":
            assert float(row["rate"]) == pytest.approx(64e3 / float(row["ms"]), rel=1e-4)
            assert 64 * 320 * 4 / MIB < float(row["peak_mib"]) < 20
        else:
            assert row["note"].startswith("out of memory (this process may hold 3.0 GiB)")
            assert not row["ms"]
            assert not row["rate"]


def test_a_file_that_is_no_results_file_is_left_alone(tmp_path, capsys):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    words = ["jobs", "--only", "loss_memory", "--device", "cpu", "--size", "tiny", "--results", str(path)]
    assert benchmark(words) == 2
    assert "other.csv" in capsys.readouterr().err
    assert path.read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL"),
        ("import sys; sys.exit('bad weather')", "status 1: bad weather"),
        (f"import time; time.sleep({HANG})", "took longer than 0.5 s"),
    ],
)
def test_a_process_that_dies_names_its_case(script, message, monkeypatch):
    about = {"op": "pretrain", "case": "the second"}
    lines = [json.dumps({"done": {"case": "the first", "ms": 1.0}}), json.dumps({"begin": about})]
    script = f"print({chr(10).join(lines)!r}, flush=True); {script}"
    monkeypatch.setattr(bench.jobs.run, "worker", lambda *_: [sys.executable, "-S", "-c", script])
    limit = 0.5 if "sleep" in script else HANG
    rows = list(in_process(Options("cpu", "tiny", models=("vatt-tiny",), limit=limit), "pretrain"))
    assert rows[0] == {"case": "the first", "ms": 1.0} or (limit < 1 and len(rows) == 1)
    assert message in rows[-1]["note"]
    assert "ms" not in rows[-1]
    assert rows[-1]["case"] == "the second" or limit < 1  # a slow machine may take all its time to start


class Clock:
    """Time that passes only where the test says so, in place of the clocks of the computer."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        for name in ("monotonic", "perf_counter"):
            monkeypatch.setattr(time, name, lambda: self.now)

    def sleep(self, seconds):
        self.now += seconds


def reader(monkeypatch, clock, seconds):
    """A loader of two clips a batch, each of which takes ``seconds`` to read."""

    def slow(self, clip, rng, out):
        clock.sleep(seconds)
        return out

    monkeypatch.setattr(PretrainReader, "__call__", slow)
    source = Source("made up", [Clip(Path("a.mp4")), Clip(Path("b.mp4"))])
    return TrainLoader([source], Tokenizer.train(["a word"]), InputConfig(), DataConfig(workers=0), batch_size=2)


def test_waiting_is_the_share_of_the_time_that_reading_takes(monkeypatch):
    clock = Clock(monkeypatch)
    timing, waited = reading_pace(reader(monkeypatch, clock, 0.03), lambda _: clock.sleep(0.02), seconds=0.3, fewest=3)
    assert (timing.median, waited) == pytest.approx((80, 0.75))
    assert timing.repeats == 4
    timing, waited = reading_pace(reader(monkeypatch, clock, 0.0), lambda _: clock.sleep(0.05), seconds=0.1, fewest=3)
    assert (timing.median, waited, timing.repeats) == pytest.approx((50, 0, 3))


@pytest.mark.slow
@pytest.mark.parametrize(("job", "cases"), [(loader, 4), (embed, 2)])
def test_reading_rows(job, cases):
    found = rows_of(job(TINY))
    assert len(found) == cases
    for row in found:
        assert row.get("ms", 0) > 0, row["note"]
        assert row["rate"] == pytest.approx(4e3 / row["ms"])
        assert row["unit"] == "clips/s"
        assert 0 <= row["wait_share"] <= 1
        assert set(row) <= set(store.FIELDS)
        if row["mode"] == "read":
            assert row["wait_share"] > 0.9  # nothing else is done


@pytest.fixture(scope="module")
def decoded():
    return {row["provider"]: row for row in rows_of(decode(TINY))}


@pytest.mark.slow
def test_readers_are_timed_in_turns_on_the_same_windows(decoded, tmp_path):
    timed = {name: row for name, row in decoded.items() if "ms" in row}
    assert set(timed) >= {BEFORE, FILES, BARE_TWICE}
    for name, row in timed.items():
        assert row["rate"] == pytest.approx(1e3 / row["host_ms"])
        assert row["repeats"] == 2
        assert f"x {BEFORE} (" in row["note"] or name == BEFORE
    assert decoded[BEFORE]["error"] == 0
    assert 0 <= decoded[FILES]["error"] < 0.02  # the same crop, mirrored and coloured alike; roundings differ
    store.append(tmp_path / "rows.csv", decoded.values())
    lines = table(store.read(tmp_path / "rows.csv")).splitlines()
    assert len(lines) == 2 + len(decoded)
    assert all(line.count("|") == 7 for line in lines)


@pytest.mark.slow
def test_a_film_of_b_frames_has_three_of_four(tmp_path):
    make_video(tmp_path / "film.mp4", Film(112, 112, 15, 64, b_frames=True))
    with av.open(str(tmp_path / "film.mp4")) as container:
        kinds = [frame.pict_type for frame in container.decode(video=0)]
    assert kinds.count(av.video.frame.PictureType.B) > 0.6 * len(kinds)


def test_a_decoder_that_is_not_installed_is_a_row(monkeypatch):
    for name in ("decord", "torchcodec"):
        monkeypatch.setitem(sys.modules, name, None)
    every, few = decoding.subjects, (FILES, "decord2", "torchcodec")
    monkeypatch.setattr(decoding, "subjects", lambda *given: {name: every(*given)[name] for name in few})
    rows = {row["provider"]: row for row in rows_of(decode(TINY))}
    for name in ("decord2", "torchcodec"):
        assert "ms" not in rows[name]
        assert rows[name]["note"].startswith("ImportError")
    assert rows[FILES]["ms"] > 0


def test_targets_are_met_or_missed():
    used = {BEFORE: [100.0] * 5, FILES: [80.0] * 5, SHARDS: [28.0, 28.5, 29.0, 40.0, 28.0], SHARDS_PLANES: [20.0] * 5}
    used[BARE_TWICE] = [60.0] * 5
    words = {name: list(verdicts(name, used, aims=True)) for name in used}
    before, bare = "1.25 (1.25 to 1.25), target 1.15 met", "0.75 (0.75 to 0.75), target 0.9 MISSED"
    assert words[FILES] == [
        before.replace(" ", f"x {BEFORE} ", 1),
        bare.replace(" ", f"x {BARE_TWICE} ", 1),
    ]
    assert words[SHARDS][0].startswith(f"3.509x {BEFORE} (")
    assert words[SHARDS][0].endswith(", target 3.5 met")
    assert words[SHARDS_PLANES][0] == f"5x {BEFORE} (5 to 5), target 6 MISSED"
    assert "target" not in words[BARE_TWICE][0]
    assert "target" not in next(verdicts(SHARDS, used, aims=False))  # of a film that the targets do not speak of
    row = dict(op="decode", case="film", provider=FILES, note="; ".join(words[FILES]), rate=12.5, host_ms=80.0)
    assert table([row]).endswith(f"| film | {FILES} | 80.0 | 12.5 | {before} | {bare} |")


@pytest.mark.slow
def test_the_real_training_command():
    pytest.importorskip("deepspeed")
    (row,) = list(jobs(Options("cpu", "tiny", only=("train",), limit=HANG)))
    assert row.get("ms", 0) > 0, row["note"]
    assert row["rate"] == pytest.approx(4e3 / row["ms"])
    assert 0 <= row["wait_share"] <= 1
    assert row["peak_mib"] > 50
    assert row["repeats"] == TINY.amount.steps - 1
    flops = train_flops_per_sample(config_of("vatt-tiny", 50, tiny=True))
    assert row["tflops"] == pytest.approx(flops * row["rate"] * 1e-12, rel=0.25)  # medians of each


def records(count):
    speeds = [1.0, 40.0, 50.0, 20.0]
    return [
        dict(kind="train", step=n, samples_per_s=speed, tflops=speed / 100, mfu=None, data_wait=n / 10)
        | dict(memory_gb=1.5, skipped_steps=0)
        for n, speed in enumerate(speeds[:count])
    ]


def test_summary_of_a_run_leaves_out_its_start():
    row = summary(records(4), 8, "cpu", 2e12, "of a product")
    assert (row["ms"], row["rate"], row["wait_share"]) == pytest.approx((200, 40, 0.2))
    assert row["tflops"] == pytest.approx(0.4)
    assert row["mfu"] == pytest.approx(0.2)
    assert row["peak_mib"] == pytest.approx(1.5e9 / MIB)
    assert row["repeats"] == 3
    known = [record | {"mfu": 0.3} for record in records(3)]
    assert summary(known, 8, "cuda", None, "")["mfu"] == 0.3


def test_metrics_that_cannot_be_used_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(ProcessFailed, match=r"metrics\.jsonl: cannot be read"):
        read_records(path)
    path.write_text(json.dumps(records(1)[0]) + "\n")
    with pytest.raises(ProcessFailed, match=r"metrics\.jsonl: 1 training records"):
        read_records(path)
    broken = {name: value for name, value in records(1)[0].items() if name != "data_wait"}
    path.write_text(json.dumps(broken) + "\n")
    with pytest.raises(ProcessFailed, match="training record 1: has no data_wait"):
        read_records(path)


def test_pace_takes_the_repeats_and_the_time_that_were_asked_for():
    calls = []
    timing = pace(lambda: calls.append(time.sleep(0.01)), CPU, seconds=0.1, fewest=3)
    assert timing.repeats == len(calls) >= 3
    assert timing.median >= 10
    assert pace(lambda: None, CPU, seconds=0.0, fewest=4).repeats == 4


def test_bad_options_name_the_option(capsys):
    for wrong, words in [
        (dict(models=("vatt-bas",)), "--model vatt-bas.*vatt-base"),
        (dict(batches=(0,)), "--batch 0"),
        (dict(drops=(100,)), "--drop 100"),
        (dict(memory_gib=-1.0), "--memory-gib -1"),
        (dict(limit=0.0), "--limit 0"),
        (dict(threads=0), "--threads 0"),
    ]:
        with pytest.raises(JobError, match=words):
            Options("cpu", "tiny", **wrong)
    assert benchmark(["jobs", "--device", "cpu", "--model", "vatt-bas"]) == 2
    assert "--model vatt-bas" in capsys.readouterr().err


def test_options_reach_the_process_that_measures():
    options = Options("cpu", "cpu", ("loader",), ("vatt-tiny",), (2, 4), (0, 50), "torch", 0.5, 9.0, 1, 2.5)
    assert Options.of(json.loads(json.dumps(asdict(options)))) == options


def test_sweeps_double_from_the_first_to_the_last_batch():
    assert doubling(4, 32) == doubling(4, 63) == (4, 8, 16, 32)
    base = SIZES["cpu"].sweeps[1]
    assert Options("cpu", "cpu").cases(base) == [(50, (1, 2)), (0, (1,)), (25, (1,)), (75, (1,))]
    (baseline,) = Options("cpu", "cpu", models=("mmv-tiny",), batches=(4,)).sweeps()
    assert Options("cpu", "cpu", batches=(4,)).cases(baseline) == [(0, (4,))]  # there is nothing to drop
    assert all(sweep.full for sweep in SIZES["gpu"].sweeps)
