"""The report of a run folder with real clips: what it says, shows, escapes and refuses."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests import browser
from train.core.run_folder import RunFolder
from train.report.page import main, write_report
from train.report.plots import write_plots
from train.report.records import read_metrics
from vatt.html import policy

LEVEL = {"r1": 0.25, "r5": 0.5, "r10": 0.75, "median_rank": 3.0, "n": 40}
CHANCE = {"r1": 0.025, "r5": 0.125, "r10": 0.25, "median_rank": 20.5, "n": 40}
EVIL = "a <script>alert(1)</script> & \"red\" ball 🎈 'quoted'"


def film(path, colour, seconds=2):
    """A video of one colour in its first half, black in its second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for i in range(10 * seconds):
            picture = np.zeros((64, 64, 3), np.uint8)
            if i < 5 * seconds:
                picture[:] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def train_record(step, **changes):
    record = dict(kind="train", step=step, loss=4.0 / step, vidtxt_loss=5.0 / step, vidaud_loss=3.0 / step, lr=1e-3)
    record |= dict(samples_per_s=20.0 + step, tflops=0.05, mfu=None, data_wait=0.125, memory_gb=1.5 + step)
    record |= dict(device_wait=0.0, ranks_wait=0.0)
    return record | dict(skipped_steps=2, time=1_800_000_000.0 + 60 * step) | changes


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture
def run(tmp_path):
    """A folder as a run leaves it: two sentences, the second of which found its clip, and one file that is gone."""
    folder = RunFolder(tmp_path / "a run & more")
    folder.path.mkdir()
    red, green = film(tmp_path / "red.mp4", (255, 0, 0)), film(tmp_path / "<i>green.mp4", (0, 255, 0))
    clips = [{"video": name, "start": None, "end": None} for name in (red, green, str(tmp_path / "gone.mp4"))]
    clips.append({"video": green, "start": 1.0, "end": 2.0})  # a range of it: the black half
    hits = [{**clip, "score": 0.9 - 0.1 * i, "own": False} for i, clip in enumerate(clips)]
    queries = [
        {"text": EVIL, "rank": 17, **clips[0], "top": hits[1:]},
        {"text": "something green", "rank": 2, **clips[1], "top": [hits[0], {**hits[1], "own": True}]},
    ]
    table = {"text_to_video": LEVEL, "audio_to_video": {**LEVEL, "r5": 0.25}, "chance": CHANCE}
    oracle = {"text_to_video": {**LEVEL, "r5": 1.0}}
    config = {"model": {"name": "vatt-tiny"}, "run": {"steps": 3, "seed": 7}, "data": {"sources": ["<i> clips"]}}
    folder.config.write_text(json.dumps(config))
    folder.retrieval.write_text(json.dumps({"table": table, "oracle": oracle, "queries": queries}))
    folder.environment.write_text(json.dumps({"torch": "9.9.9+<i>fast"}))
    bad = {"file": "bad<i>.mp4", "field": "container", "reason": "<i>moov atom not found"}
    write(folder.skipped, [bad, bad, {**bad, "file": "other.mp4"}])
    write(folder.metrics, [train_record(1), {"kind": "eval", "step": 2, **table}, train_record(2), train_record(3)])
    return folder


class Page(HTMLParser):
    """Text outside <style>, tags, pictures, and figures with their classes."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self.images, self.figures, self._hidden = set(), [], [], [], False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        found = dict(attributes)
        self._hidden = tag == "style"
        if tag == "figure":
            self.figures.append((found.get("class") or "").split())
        if tag == "img":
            self.images.append(found["src"])

    def handle_data(self, data):
        if not self._hidden:
            self.words.append(data)


def decoded(uri):
    kind, content = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", uri).groups()
    return kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


def test_the_page_tells_the_figures(run):
    page = Page(write_report(run.path))
    assert "vatt-tiny, 3 of 3 steps, ended 2027-01-15 08:03 UTC" in page.text
    assert "50.0% R@5 text → video, 4.0x chance" in page.text
    assert "25.0% R@5 audio → video, 2.0x chance" in page.text
    assert "oracle text → video 25.0% 100.0% 75.0% 3.0 8.0x" in page.text
    assert "chance 2.5% 12.5% 25.0% 20.5 1.0x" in page.text
    assert "1.333 loss at step 3" in page.text
    assert "22.0 (median of 3 records)" in page.text
    assert "peak memory 4.50 GB" in page.text
    assert "12.5% of the time" in page.text
    assert "computation: 12% of the time waiting for the loader, 88% computation" in page.text
    assert "9.9.9+<i>fast" in page.text
    assert "2 in all" in page.text
    assert "container: <i>moov atom not found" in page.text


def test_the_page_stands_alone_and_is_escaped(run):
    page = Page(write_report(run.path))
    assert EVIL in page.text
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert "bad<i>.mp4" in page.text
    assert "<i> clips" in page.text
    assert "<i>green.mp4" in page.text
    assert all(image.startswith("data:image/") for image in page.images)
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import", page.source)
    assert 'name="viewport"' in page.source


def test_a_browser_shows_all_of_it_and_fetches_nothing(run, tmp_path):
    path = write_report(run.path)
    assert f'content="{policy(script=False)}"' in path.read_text()
    if (program := browser.find()) is None:
        pytest.skip(f"no browser on PATH: none of {', '.join(browser.NAMES)}")
    with browser.Browser(program, tmp_path / "profile") as found:
        found.size(390, 844)
        found.open(path.as_uri())
        assert found.problems() == []
        assert [url for url in found.requests() if not url.startswith("data:")] == [path.as_uri()]
        assert found.run("document.documentElement.scrollWidth") <= 390
        widths = found.run("[...document.images].map((image) => image.naturalWidth)")
        charts = found.run("[...document.querySelectorAll('svg')].map((svg) => svg.getBoundingClientRect().height)")
    assert len(widths) == 5  # clips
    assert all(widths)
    assert len(charts) == 3  # the loss and two directions
    assert all(height > 100 for height in charts)


def test_equal_sentences_are_shown_once(run):
    found = json.loads(run.retrieval.read_text())
    found["queries"] = [found["queries"][1], *found["queries"], found["queries"][1]]
    run.retrieval.write_text(json.dumps(found))
    text = Page(write_report(run.path)).text
    assert "2 of 2 different sentences" in text
    assert text.count("something green") == 1


def test_the_contact_sheet_shows_the_clips(run):
    page = Page(write_report(run.path))
    assert "rank 17 of 40" in page.text
    assert "rank 2 of 40" in page.text
    strips = [decoded(image) for image in page.images if image.startswith("data:image/jpeg")]
    assert len(strips) == 5  # green, (gone), half of green, then the missed red one; red and green again
    thirds = [[strip[48, int(width * strip.shape[1])] for width in (0.16, 0.5, 0.84)] for _, strip in strips]
    green, half, missed, red, own = thirds
    assert green[0][1] > 200 > 60 > green[2].max()  # the colour first, black at the end
    assert max(part.max() for part in half) < 60  # the range alone
    assert missed[0][0] > 200
    assert np.array_equal(red, missed)
    assert np.array_equal(own, green)
    assert "cannot be decoded" in page.text
    clips = [kinds[1:] for kinds in page.figures if kinds[:1] == ["clip"]]
    assert clips == [[], [], [], ["missed"], [], ["own"]]


def test_a_run_without_evaluation_has_a_report(run):
    run.retrieval.unlink()
    run.skipped.unlink()
    run.environment.unlink()
    write(run.metrics, [train_record(1)])
    page = Page(write_report(run.path))
    assert "Not evaluated" in page.text
    assert page.images == []
    assert page.source.count("<svg") == 1  # the loss
    assert [path.name for path in write_plots(run, read_metrics(run.metrics))] == ["loss.png"]


def with_chance(step, **changes):
    """A record of a run that was compared with chance: text is learned, sound is not."""
    chances = {"vidtxt_chance": 4.1, "vidaud_chance": 4.0, "vidaud_audio_cosine": 0.25, "vidaud_loss": 4.01}
    return train_record(step, **{**chances, "vidtxt_loss": 2.5, **changes})


def test_equal_captions_have_a_line_of_their_own(run):
    results = json.loads(run.retrieval.read_text())
    equal = {
        **LEVEL,
        "r1": 0.5,
        "r5": 0.625,
        "shared": 12,
        "examples": [["a ball", 3]],
        "chance": {**CHANCE, "r5": 0.25},
    }
    results["table"]["text_to_video_equal"] = equal
    run.retrieval.write_text(json.dumps(results))
    text = Page(write_report(run.path)).text
    assert "or an equal caption 50.0% 62.5% 75.0% 3.0 2.5x" in text
    assert "12 of 40 captions are shared by several clips; each of these may be found." in text
    assert "or an equal sound" not in text


def test_losses_stand_beside_their_chance(run):
    run.config.write_text(json.dumps({"run": {"steps": 300}, "optim": {"lr": 1e-3, "warmup_steps": 10}}))
    records = [with_chance(step) for step in (1, 100, 200, 300)]
    write(run.metrics, records)
    page = Page(write_report(run.path))
    assert "contrastive loss (dashed: chance)" in page.text
    assert page.source.count('class="line third dashed"') == 1  # video-text; no evaluation was recorded
    assert page.source.count('class="line fourth dashed"') == 1
    assert "Learned: vid-txt 2.50 (chance 4.10)." in page.text
    assert "Vid-aud 4.010 (chance 4.000) is not below its chance in steps 200 to 300; try more run.steps" in page.text
    assert "vid-aud, audio 0.250" in page.text
    before = np.asarray(Image.open(write_plots(run, read_metrics(run.metrics))[0]))
    write(run.metrics, [{**record, "vidaud_chance": 2.0} for record in records])
    assert not np.array_equal(before, np.asarray(Image.open(write_plots(run, read_metrics(run.metrics))[0])))


def test_a_run_of_an_older_version_has_a_page_without_chance(run):
    """Its records have neither chances nor cosines, as those of the fixture."""
    page = Page(write_report(run.path))
    assert "What was learned" not in page.text
    assert "contrastive loss" in page.text
    assert "contrastive loss (dashed" not in page.text


def test_plots_show_what_was_recorded(run):
    paths = write_plots(run, read_metrics(run.metrics))
    assert [path.name for path in paths] == ["loss.png", "retrieval.png"]
    before = [np.asarray(Image.open(path)) for path in paths]
    evaluation = {"kind": "eval", "step": 2, "text_to_video": LEVEL, "audio_to_video": LEVEL, "chance": CHANCE}
    write(run.metrics, [train_record(1), train_record(2, loss=float("nan")), train_record(3), evaluation])
    after = [np.asarray(Image.open(path)) for path in write_plots(run, read_metrics(run.metrics))]
    for old, new in zip(before, after, strict=True):
        assert min(old.shape[:2]) > 400
        assert old.std() > 5
        assert not np.array_equal(old, new)


def test_metrics_after_an_interruption_and_a_resume(run):
    write(run.metrics, [train_record(1), train_record(2, loss=8.0), train_record(2, loss=1.0)])
    with run.metrics.open("a") as file:
        file.write('{"kind": "train", "st')  # cut short
    assert [record["loss"] for record in read_metrics(run.metrics).train] == [4.0, 1.0]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run: run.metrics.unlink(), "metrics.jsonl: no such file"),
        (lambda run: run.metrics.write_text(""), "metrics.jsonl: holds no training record"),
        (lambda run: run.metrics.write_text("{\n{}\n"), "metrics.jsonl, line 1: is not JSON"),
        (lambda run: run.metrics.write_text('{"kind": "trian", "step": 1}\n'), "needs kind (train or eval) and step"),
        (lambda run: run.metrics.write_text('{"kind": "eval", "step": 1}\n'), "record 1: has no chance"),
        (lambda run: run.config.unlink(), "config.json: no such file"),
        (lambda run: run.retrieval.write_text("[]"), "retrieval.json: expected an object"),
        (lambda run: run.retrieval.write_text('{"table": {}}'), "retrieval.json: has no oracle, queries"),
        (lambda run: run.retrieval.write_text("{"), "retrieval.json: is not JSON"),
        (lambda run: run.retrieval.write_text("[" * 100_000), "retrieval.json: is nested deeper than 64 levels"),
        (lambda run: run.metrics.write_text("{" + '"a":' * 9 + "[" * 100_000 + "\n"), "line 1: is nested deeper"),
        (lambda run: run.retrieval.write_bytes(b"\xff"), "retrieval.json: cannot be read"),
    ],
)
def test_a_bad_file_is_named(run, capsys, spoil, words):
    spoil(run)
    assert main([str(run.path)]) == 1
    error = capsys.readouterr().err
    assert str(run.path) in error
    assert words in error


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 1
    assert "nothing: no such run folder" in capsys.readouterr().err


def test_the_command_writes_the_page_again(run, capsys):
    assert main([str(run.path)]) == 0
    assert Path(capsys.readouterr().out.strip()) == run.path / "report.html"
