"""Evaluation of a real model on batches of the loader's layout: windows, masks, modes, results."""

from __future__ import annotations

import json
from fractions import Fraction
from math import comb

import av
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vatt.clip import InputConfig
from vatt.data import Tokenizer, eval_batches, read_clips
from vatt.data.config import DataConfig
from vatt.evaluation.retrieval import (
    Embeddings,
    EqualRetrieval,
    EvaluationError,
    Retrieval,
    chance,
    chance_of_equal,
    embed,
    format_table,
    retrieval_table,
    retrieval_tables,
    same_caption,
    shared_lines,
    similarity,
    write_results,
)
from vatt.evaluation.retrieval import retrieval as dense
from vatt.models import VATT
from vatt.presets import preset

WINDOWS = 2


def batch(clips, config, generator, text_mask, audio_mask):
    spec = config.input
    rows = clips * WINDOWS
    return {
        "video": torch.randint(0, 256, (rows, spec.frames, spec.size, spec.size, 3), generator=generator).byte(),
        "audio": torch.randn(rows, spec.samples, generator=generator).clamp(-1, 1),
        "text": torch.randint(1, 50, (clips, 1, spec.words), generator=generator),
        "text_mask": torch.tensor(text_mask, dtype=torch.float32),
        "audio_mask": torch.tensor(audio_mask, dtype=torch.float32),
        "of_window": torch.arange(rows).view(clips, WINDOWS),
        "sounds": [f"{clips} {i}".encode() for i in range(clips)],
        "captions": [f"caption {i}" for i in range(clips)],
        "videos": [f"{i}.mp4" for i in range(clips)],
        "ranges": [(0.5 * i, None) for i in range(clips)],
    }


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return VATT(preset("vatt-tiny")).double().train()  # float64: batches of other sizes add up alike


def test_windows_are_averaged_and_the_mode_is_put_back(model):
    generator = torch.Generator().manual_seed(1)
    batches = [
        batch(2, model.config, generator, [1, 1], [[0, 1], [0, 0]]),
        {"captions": [], "skipped": [{"file": "bad.mp4"}]},  # nothing of it could be decoded
        batch(1, model.config, generator, [0], [[1, 1]]),
    ]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = embed(model, batches)
    assert model.training
    for name, value in model.state_dict().items():  # batch statistics too
        assert torch.equal(value, before[name]), name
    assert found.has_text_N.tolist() == [True, True, False]
    assert found.has_audio_N.tolist() == [True, False, True]
    assert found.videos == ["0.mp4", "1.mp4", "0.mp4"]
    model.eval()
    with torch.no_grad():
        alone = model(video=batches[0]["video"][2:4], text=batches[0]["text"][1:2])
        sound = model(audio=batches[0]["audio"])["audio/tovid"].float()
    model.train()
    torch.testing.assert_close(found.spaces["video/totxt"][1], alone["video/totxt"].mean(0).float())
    torch.testing.assert_close(found.spaces["text/tovid"][1], alone["text/tovid"][0].float())
    unit = F.normalize(alone["video/totxt"].float(), dim=1).mean(0)
    torch.testing.assert_close(found.unit_means["video/totxt"][1], unit)
    torch.testing.assert_close(found.spaces["audio/tovid"][0], sound[1])  # its first window is silent
    torch.testing.assert_close(found.spaces["audio/tovid"][1], sound[2:4].mean(0))  # both are: no query, yet a number
    table = retrieval_table(found)
    assert list(table) == ["text_to_video", "audio_to_video", "chance"]
    assert [table[name].n for name in table] == [2, 2, 3]


def test_the_mode_is_put_back_after_an_error(model):
    with pytest.raises(EvaluationError, match="no clip could be read"):
        retrieval_table(embed(model, [{"captions": []}]))
    with pytest.raises(KeyError):
        embed(model, [{"captions": ["a"], "video": torch.zeros(1)}])
    assert model.training


def embeddings(text, video, has_text=None):
    """Text and video as given; sound that equals the video."""
    n = len(video)
    spaces = {"text/tovid": text, "video/totxt": video, "audio/tovid": video, "video/toaud": video}
    has = torch.ones(n, dtype=torch.bool)
    names = [f"clip {i}" for i in range(n)]
    return Embeddings(spaces, has if has_text is None else has_text, has, names, [*names], [(None, None)] * n)


def test_directions_lengths_and_missing_text():
    unit = torch.eye(20)
    longer = unit * torch.arange(1, 21)[:, None]
    longer[19] = 100  # somewhat like everything, and long: the length of an embedding must not count
    has_text = torch.tensor([True] * 10 + [False] * 10)
    table = retrieval_table(embeddings(longer.roll(1, 0), longer, has_text))
    assert table["text_to_video"].r1 == 0  # each sentence finds its neighbour
    assert table["text_to_video"].n == 10
    assert table["audio_to_video"] == Retrieval(1.0, 1.0, 1.0, 1.0, 20)
    assert table["chance"].r5 == 0.25
    nobody = retrieval_table(embeddings(longer, longer, torch.zeros(20, dtype=torch.bool)))
    assert "text_to_video" not in nobody


def test_a_broken_model_scores_nothing():
    alike = torch.ones(20, 4)
    assert retrieval_table(embeddings(alike, alike))["text_to_video"].r10 == 0
    for value in (float("nan"), float("inf")):
        broken = alike.clone()
        broken[3] = value
        with pytest.raises(ValueError, match="not finite"):
            retrieval_table(embeddings(alike, broken))


def test_clips_with_an_equal_caption_or_sound_count_as_right_in_figures_of_their_own():
    """Clips 1 and 2 say the same in other letters, and each of the two sentences finds the other clip first."""
    video = torch.eye(12)
    text = video.clone()
    text[[1, 2]] = video[[2, 1]] + 0.1 * video[[1, 2]]
    found = embeddings(text, video)
    found.captions[1:3] = ["A  red ball!", "a red, ball"]
    found.sounds = [bytes([1 + i // 4]) for i in range(12)]
    found.sounds[0] = b""
    found.has_audio_N = torch.tensor([False] + [True] * 11)
    table = retrieval_table(found)
    assert list(table) == ["text_to_video", "text_to_video_equal", "audio_to_video", "audio_to_video_equal", "chance"]
    assert table["text_to_video"].r1 == pytest.approx(10 / 12)
    level = table["text_to_video_equal"]
    assert isinstance(level, EqualRetrieval)
    assert (level.r1, level.median_rank, level.n, level.shared) == (1.0, 1.0, 12, 2)
    assert level.examples == [("A  red ball!", 2)]
    assert level.chance.r1 == pytest.approx((10 * 1 / 12 + 2 * 2 / 12) / 12)
    sound = table["audio_to_video_equal"]
    assert (sound.n, sound.shared, [count for _, count in sound.examples]) == (11, 11, [4, 4, 3])
    lines = format_table(table).splitlines()
    assert [line[:22].strip() for line in lines[1:]] == [
        "text -> video",
        "or an equal caption",
        "audio -> video",
        "or an equal sound",
        "chance",
    ]
    captions, sounds = shared_lines(table)
    assert captions == "2 of 12 captions are shared by several clips: 'A  red ball!' (2 clips)"
    told = "11 of 11 sounds are shared by several clips: "
    assert sorted(sounds.removeprefix(told).split(", ")) == [
        "'clip 1' (3 clips)",
        "'clip 10' (4 clips)",
        "'clip 4' (4 clips)",
    ]


def test_what_counts_as_an_equal_caption():
    assert same_caption(" Don't\tSTOP\u2026 ") == same_caption("don\u2019t stop") == "dont stop"
    assert same_caption("\uff21 caf\u0065\u0301") == same_caption("a caf\u00e9")
    assert same_caption("left") != same_caption("right")
    found = embeddings(torch.eye(3), torch.eye(3), torch.zeros(3, dtype=torch.bool))
    found.captions[:] = ["", "...", ""]  # no query, and not alike
    assert list(retrieval_table(found)) == ["audio_to_video", "chance"]


def test_chance_where_several_are_right():
    one = chance_of_equal(torch.ones(7, dtype=torch.int64), 40)
    assert [one.r1, one.r5, one.r10] == pytest.approx([1 / 40, 5 / 40, 10 / 40])
    assert (one.median_rank, one.n) == (20.5, 7)
    generator, right = torch.Generator().manual_seed(0), 4
    best = torch.rand(20000, 30, generator=generator).argsort(1).argsort(1)[:, :right].amin(1)  # places from 0 on
    some = chance_of_equal(torch.full((3,), right), 30)
    for share, k in ((some.r1, 1), (some.r5, 5), (some.r10, 10)):
        assert share == pytest.approx((best < k).double().mean().item(), abs=0.012)
    assert some.median_rank == best.median().item() + 1 != pytest.approx(best.double().mean().item() + 1, abs=0.5)
    few = chance_of_equal(torch.tensor([2, 3]), 3)
    assert (few.r1, few.r5) == (pytest.approx((2 / 3 + 1) / 2), 1.0)
    assert chance(1, 3).r5 == 1.0


@pytest.mark.parametrize(("right", "videos"), [([1], 8), ([2], 100), ([1, 2, 2], 7), ([5, 1, 12], 12), ([9] * 3, 9)])
def test_the_median_by_chance_is_that_of_all_orders(right, videos):
    """Of every rank as often as it comes, of exact numbers."""
    shares = [
        (rank, sum(Fraction(comb(videos - rank, m - 1), comb(videos, m)) for m in right) / len(right))
        for rank in range(1, videos + 1)
    ]
    half = [
        next(rank for rank, _ in shares if enough(sum(share for other, share in shares if other <= rank)))
        for enough in (lambda share: share >= Fraction(1, 2), lambda share: share > Fraction(1, 2))
    ]
    assert chance_of_equal(torch.tensor(right), videos).median_rank == sum(half) / 2
    assert chance_of_equal(torch.ones(3, dtype=torch.int64), videos).median_rank == chance(3, videos).median_rank


def test_the_table_is_that_of_the_whole_matrix():
    generator = torch.Generator().manual_seed(2)
    spaces = {name: torch.randn(60, 16, generator=generator) for name in ("text/tovid", "audio/tovid")}
    windows = {name: torch.randn(180, 16, generator=generator) for name in ("video/totxt", "video/toaud")}
    spaces |= {name: x.unflatten(0, (60, 3)).mean(1) for name, x in windows.items()}
    units = {name: F.normalize(x, dim=1).unflatten(0, (60, 3)).mean(1) for name, x in windows.items()}
    has = torch.arange(60) % 4 != 0
    names = [str(i) for i in range(60)]
    found = Embeddings(spaces, has, ~has, names, names, [(None, None)] * 60, [n.encode() for n in names], units)
    tables = retrieval_tables(found)
    for name, query, video, own in (
        ("text_to_video", "text/tovid", "video/totxt", has.nonzero()[:, 0]),
        ("audio_to_video", "audio/tovid", "video/toaud", (~has).nonzero()[:, 0]),
    ):
        for table, average in (("embeddings", True), ("similarities", False)):
            whole = similarity(spaces[query][own], windows[video], 3, average_embeddings=average)
            assert tables[table][name] == dense(whole, own)


def test_table_for_a_terminal():
    table = {"text_to_video": Retrieval(0.25, 0.5, 0.75, 2.5, 100), "chance": Retrieval(0.01, 0.05, 0.1, 50.5, 100)}
    lines = format_table(table, {"chance": table["chance"], "text_to_video": Retrieval(1, 1, 1, 1, 100)}).splitlines()
    assert [line.split() for line in lines] == [
        ["R@1", "R@5", "R@10", "MedR", "R@5", "/", "chance"],
        ["text", "->", "video", "25.0%", "50.0%", "75.0%", "2.5", "10.0x"],
        ["chance", "1.0%", "5.0%", "10.0%", "50.5", "1.0x"],
        ["oracle", "text", "->", "video", "100.0%", "100.0%", "100.0%", "1.0", "20.0x"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_results_name_what_each_query_found(tmp_path):
    video = torch.eye(8)
    text = F.normalize(video + 2 * video.roll(1, 0), dim=1)  # its neighbour first, itself second
    found = embeddings(text, video, torch.tensor([True, False] * 4))
    found.captions[2] = "a <b>red</b> ball 🎈"
    found.ranges[2] = (1.5, 4.0)
    write_results(tmp_path / "retrieval.json", found, retrieval_table(found))
    content = json.loads((tmp_path / "retrieval.json").read_text(encoding="utf-8"))
    assert [query["video"] for query in content["queries"]] == ["clip 0", "clip 2", "clip 4", "clip 6"]
    query = content["queries"][1]
    assert (query["text"], query["rank"], query["start"], query["end"]) == ("a <b>red</b> ball 🎈", 2, 1.5, 4.0)
    assert [hit["video"] for hit in query["top"][:2]] == ["clip 1", "clip 2"]
    assert [hit["own"] for hit in query["top"]] == [False, True, False, False, False]
    assert query["top"][0]["score"] == pytest.approx(2 / 5**0.5)
    assert content["table"]["text_to_video"]["n"] == 4


def test_each_range_of_a_video_has_its_own_query(tmp_path):
    """The narration of a video is shared by its clips; what a clip is searched with is the part that it overlaps."""
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for level in range(0, 240, 8):
            picture = np.full((32, 32, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    manifest = tmp_path / "clips.csv"
    manifest.write_text("video,start,end,caption\nfilm.mp4,0,1.5,a dark part\nfilm.mp4,1.5,3,a bright part\n")
    tokenizer, spec = Tokenizer.train(["a dark part", "a bright part"], 20), InputConfig(frames=2, fps=2.0, size=32)
    clips = read_clips(manifest).clips
    (batch,) = eval_batches(clips, tokenizer, spec, DataConfig(workers=0), batch_size=4)
    assert batch["captions"] == ["a dark part", "a bright part"]
    assert batch["ranges"] == [(0.0, 1.5), (1.5, 3.0)]
    assert batch["video"][0].float().mean() < 100 < 140 < batch["video"][1].float().mean()
    assert not torch.equal(batch["text"][0], batch["text"][1])
