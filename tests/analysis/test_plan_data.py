"""Clips for the GPUs of a plan: cores, storage and the bottleneck, by hand."""

from __future__ import annotations

import json

import pytest
import torch

from vatt.__main__ import main
from vatt.analysis.memory import activation_bytes
from vatt.analysis.plan import Request, predict
from vatt.analysis.plan.compute import COLUMNS
from vatt.data.shards.format import INDEX, Index, Settings, Shard
from vatt.kernels.patch_embed.gather import KEPT_BYTES
from vatt.presets import preset

KNOWN = dict(model="vatt-base", gpus=16, batch=1600, mfu=0.5)


def plan(**changes):
    return predict(Request(**{**KNOWN, **changes}, given=frozenset({*KNOWN, *changes})))


def test_cores_that_are_too_few_set_the_pace():
    """16 GPUs with 4 cores each, 10 clips/s a core: 640 clips/s, so a step of 1600 clips takes 2.5 s."""
    found = plan(clips_per_core=10.0, cores_per_gpu=4.0)
    assert found.step == {"no overlap": 2.5, "full overlap": 2.5}
    assert found.bottleneck == {"no overlap": "decoding", "full overlap": "decoding"}
    assert found.supply.decoding == 640
    alone = found.gpus_alone["full overlap"]
    assert found.waiting["full overlap"] == pytest.approx(1 - alone / 2.5)
    assert found.cores_needed["full overlap"] == pytest.approx(100 / 10 / alone)  # 100 clips a GPU in each step
    enough = plan(clips_per_core=10.0, cores_per_gpu=found.cores_needed["full overlap"] * 1.001)
    assert enough.bottleneck["full overlap"] == "computation"
    assert enough.step == enough.gpus_alone


def test_storage_that_is_too_slow_sets_the_pace():
    """2 nodes at 100 MB/s and 0.5 MB a clip: 400 clips/s, 4 s a step."""
    found = plan(clips_per_core=1e6, storage_mbps=100.0, clip_mb=0.5)
    assert found.supply.storage == 400
    assert found.step["no overlap"] == 4.0
    assert set(found.bottleneck.values()) == {"storage"}
    alone = found.gpus_alone["full overlap"]
    assert found.storage_needed["full overlap"] == pytest.approx(800 * 0.5e6 / alone)  # 800 clips a node and step
    both = plan(clips_per_core=0.1, storage_mbps=100.0, clip_mb=0.5)  # 25.6 clips/s
    assert set(both.bottleneck.values()) == {"decoding"}


def test_slow_links_are_the_bottleneck_of_the_gpus():
    found = plan(inter_gbps=0.01)
    assert set(found.bottleneck.values()) == {"communication"}
    assert found.cores_needed is None
    assert found.storage_needed is None
    assert {"not counted"} <= {a.what for a in found.assumptions}


def shards(folder):
    folder.mkdir()
    settings = Settings(256, 10.0, 3.2, 60.0, 1 << 30, 48000, "mpeg4", "pcm", "jpg")
    digest = "0" * 64
    numbers = {"bytes": 9_000_000, "lines_bytes": 1_000_000, "sources": 2, "clips": 5, "pieces": 2, "seconds": 100.0}
    texts = {"file": "shard-000000.tar", "sha256": digest, "lines": "shard-000000.jsonl", "lines_sha256": digest}
    values = numbers | texts
    (folder / INDEX).write_text(Index(settings, digest, (Shard(**values),), 0).text())
    return folder


def test_bytes_of_a_clip_come_from_the_index(tmp_path):
    """10 MB for 100 s; a window of 3.2 s (vatt-base), and a second before it: 0.42 MB."""
    found = plan(data=shards(tmp_path / "shards"), storage_mbps=42.0)
    assert found.supply.clip_bytes == pytest.approx(420_000)
    assert found.supply.storage == pytest.approx(200)
    assert any("index.json" in a.source for a in found.assumptions)


def measured(path, rows):
    known = dict(time="2026-11-26", commit="abc", device="EPYC, 1 thread", suite="data", op="decode", unit="clips/s")
    lines = [",".join(COLUMNS), *(",".join(str((known | row).get(name, "")) for name in COLUMNS) for row in rows)]
    path.write_text("\n".join(lines).replace("EPYC, 1", "EPYC 1") + "\n")
    return path


def test_the_measured_rate_of_this_kind_of_reading_is_taken(tmp_path):
    case, small = "640x360@30 to 224", "640x360@30 to 32"
    kinds = {"ours, files": 10, "ours, files, for augment_on=gpu": 12, "ours, shards": 30}
    rows = [dict(case=case, provider=f'"{name}"', rate=rate) for name, rate in kinds.items()]
    more = dict(provider='"ours, shards, for augment_on=gpu"')
    rows += [dict(case=case, rate=60, **more), dict(case=case, rate=59, time="2025", **more)]
    rows += [dict(case=small, rate=99, **more), dict(case=f'"{case}, B frames"', rate=98, time="2027", **more)]
    file, folder = measured(tmp_path / "decode.csv", rows), shards(tmp_path / "shards")
    for changes, rate in (
        ({}, 12),
        ({"augment_on": "cpu"}, 10),
        ({"data": folder}, 60),
        ({"data": folder, "augment_on": "cpu"}, 30),
        ({"clips_per_core": 7.0}, 7),
        ({"model": "vatt-tiny"}, None),  # another size of the picture
    ):
        assert plan(decoding=file, **changes).supply.per_core == rate
    file.write_text("film,side\n")
    assert plan(decoding=file).supply.per_core is None


def test_the_command_names_the_bottleneck(tmp_path, capsys):
    base = ["plan", "--model", "vatt-base", "--gpus", "16", "--batch", "1600", "--mfu", "0.5"]
    feeding = ["--clips-per-core", "10", "--cores-per-gpu", "4", "--storage-mbps", "2000", "--clip-mb", "0.5"]
    assert main([*base, *feeding]) == 0
    text = capsys.readouterr().out
    assert "Bottleneck: decoding" in text
    assert "decoding gives 640 clips/s" in text
    assert "storage gives 8,000 clips/s" in text
    assert "cores that a GPU needs for decoding: " in text
    assert "waiting for clips" in text
    assert "not counted: evaluation, checkpoints, a slow rank" in text
    assert main([*base, *feeding, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bottleneck"] == {"no overlap": "decoding", "full overlap": "decoding"}
    assert found["clips_per_second"] == {"decoding": 640, "storage": 8000}
    for wrong, flag in (
        (["--clips-per-core", "0"], "--clips-per-core: 0.0 must be above 0"),
        (["--cores-per-gpu", "nan"], "--cores-per-gpu: nan must be above 0"),
        (["--storage-mbps", "-1"], "--storage-mbps: -1.0 must be above 0"),
        (["--clip-mb", "0"], "--clip-mb: 0.0 must be above 0"),
        (["--data", str(tmp_path)], "--data: "),
        (["--clip-mb", "1", "--data", str(tmp_path)], "not allowed with"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*base, *wrong])
        assert stopped.value.code == 2
        assert flag in capsys.readouterr().err


def test_patches_that_the_gather_backend_keeps_are_counted():
    """vatt-base: half of the 8 x 14 x 14 patches of 4 x 16 x 16 x 3 numbers, and half of the 1200 of 128 samples; each
    with a row for the aggregation token; two bytes."""
    config, bf16 = preset("vatt-base"), torch.bfloat16
    video, audio = (784 + 1) * 3072 * 2, (600 + 1) * 128 * 2

    def more(batch):
        return sum(
            sign * activation_bytes(config, bf16, batch, backend=backend).total
            for sign, backend in ((1, "auto"), (-1, "triton"))
        )

    assert more(8) == 8 * (video + audio)
    assert 200 * video > KEPT_BYTES > 200 * audio
    assert more(200) == 200 * audio  # those of the video are gathered again
