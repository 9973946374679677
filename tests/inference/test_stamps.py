"""The example on real media: clips of a folder of stamps, nearest neighbours, measures, tables."""

from __future__ import annotations

import csv
import subprocess
import sys
from math import comb

import av
import numpy as np
import pytest

from examples.stamps import clips, neighbours, results
from examples.stamps.__main__ import Study, StudyError
from tests.inference.library_models import save_model
from vatt.data import read_clips
from vatt.files import TREE

RATE = clips.RATE


def write_picture(path, colour):
    """A disc on a transparent ground."""
    y, x = np.mgrid[:40, :40] - 19.5
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[np.hypot(x, y) < 18] = (*colour, 255)
    frame = av.VideoFrame.from_ndarray(rgba, format="rgba")
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 40, 40, "rgba"
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_sound(path, frequency):
    """Half a second of a tone, or of silence (0 Hz)."""
    sound = (0.5 * np.sin(2 * np.pi * frequency * np.arange(RATE // 2) / RATE)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libopus" if path.suffix == ".ogg" else "pcm_s16le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        resampler = av.AudioResampler(stream.format, "mono", RATE)
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def stamps(tmp_path_factory):
    """A red frog and a blue crow with sounds of their own, a green toad whose sound is silence, and a letter."""
    root = tmp_path_factory.mktemp("stamps")
    for name, colour, frequency, words in (
        ("animals/birds/crow", (20, 40, 230), 3000, "A blue crow (a bird). It flies.\nde.utf8=Eine Krähe."),
        ("animals/frog", (230, 20, 30), 400, "A red frog.\nfr.utf8=Une grenouille."),
        ("animals/green_toad2", (20, 220, 30), 0, "Only on Mondays you will see this one in all of the garden."),
        ("symbols/letters/a", (0, 0, 0), 500, "The letter A."),
    ):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path, colour)
        write_sound(path.with_suffix(".wav" if "toad" in name else ".ogg"), frequency)
        path.with_suffix(".txt").write_text(words, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def built(stamps, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "clips"
    clips.build(stamps, out, with_sound=2, silent=2, workers=1)
    return out


def test_stamps_are_found_with_their_words_and_sounds(stamps):
    crow, frog, toad = clips.find_stamps(stamps)  # but no letter
    assert [stamp.words for stamp in (crow, frog, toad)] == ["A blue crow", "A red frog", "A green toad"]
    assert (crow.sounds_like, frog.sounds_like, toad.sounds_like) == ("animals/birds/crow", "animals/frog", "")
    assert toad.sound is None  # nothing but silence


def test_val_shows_known_stamps_in_other_motions(built):
    rows = list(csv.DictReader((built / "manifest.csv").open()))
    shown = {split: {(r["stamp"], r["motion"]) for r in rows if r["split"] == split} for split in ("train", "val")}
    assert {split: len(found) for split, found in shown.items()} == {"train": 6, "val": 6}
    assert not shown["train"] & shown["val"]
    assert {row["category"] for row in rows} == {"animals"}
    assert rows[0]["caption"] == f"A blue crow {clips.MOTIONS[rows[0]['motion']]}."
    heard = list(csv.DictReader((built / "sounds.csv").open()))
    assert heard == [row for row in rows if row["sound"]]
    assert len(heard) == 8


def test_clips_are_as_long_as_they_say_and_sound(built):
    found = {clip.extra["stamp"]: clip for clip in read_clips(built / "manifest.csv").clips}
    for name, sounds in (("animals/frog", True), ("animals/green_toad2", False)):
        with av.open(str(found[name].video)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            assert np.shape(frames) == (60, clips.SIDE, clips.SIDE, 3)
            assert bool(container.streams.audio) is sounds
    (spectrum,) = neighbours.features([found["animals/frog"]], built / "one.npz").spectra_ND
    band = np.geomspace(60, 16_000, 65)
    assert band[spectrum.argmax()] <= 400 * 1.1
    assert band[spectrum.argmax() + 1] >= 400 / 1.1


def test_unknown_stamps_are_in_test_alone(stamps):
    some = [clips.Stamp(f"things/{n}", stamps / f"{n}.png", f"A {n}") for n in range(20)]
    planned = clips.plan(some, 8, 2, seed=0)
    of_split = {
        split: {clip.stamp.name for clip in planned if clip.split == split} for split in ("train", "val", "test")
    }
    assert len({clip.row["video"] for clip in planned}) == len(planned)
    assert len(of_split["test"]) == 2
    assert len(of_split["train"]) == 18
    assert not of_split["test"] & (of_split["train"] | of_split["val"])
    assert of_split["val"] <= of_split["train"]


def test_a_clip_is_the_same_again(stamps, built, tmp_path):
    frog = clips.find_stamps(stamps)[1]
    row = next(row for row in csv.DictReader((built / "manifest.csv").open()) if row["stamp"] == frog.name)
    planned = clips.Planned(frog, row["motion"], row["split"], int(row["video"][-8:-4]))
    (tmp_path / row["split"]).mkdir()
    clips.make(tmp_path, 0, planned)
    assert (tmp_path / row["video"]).read_bytes() == (built / row["video"]).read_bytes()


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("rise", 1, -1), ("fall", 1, 1), ("grow", 2, 1)]
)
def test_motions_go_where_their_names_say(motion, axis, sign):
    path = np.array(list(clips.path_of(motion, np.random.default_rng(0))))
    assert (np.sign(np.diff(path[:, axis])) == sign).all()
    assert np.ptp(np.delete(path, axis, 1), 0).max() == 0


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    command = [sys.executable, "examples/stamps/clips.py", "--stamps", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=TREE, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}: holds no stamps; apt-get install tuxpaint-stamps-default")
    assert len(done.stderr.splitlines()) == 1


def test_other_clips_are_not_taken_for_these(stamps, built):
    assert clips.build(stamps, built, with_sound=2, silent=2) == built / "manifest.csv"
    with pytest.raises(clips.StampsError, match="holds other clips"):
        clips.build(stamps, built, with_sound=3, silent=2)


def test_measures():
    similar_QV = np.array([[0.9, 0.5, 0.5, 0.1], [0.2, 0.2, 0.2, 0.2]])
    right_QV = np.array([[False, True, False, True], [True, False, False, False]])
    assert neighbours.recall(similar_QV, right_QV, 1) == 0
    assert neighbours.recall(similar_QV, right_QV, 3) == 0.5  # the wrong one that is as similar comes first
    assert neighbours.recall(similar_QV, right_QV, 4) == 1
    expected = (1 - comb(2, 2) / comb(4, 2) + 1 - comb(3, 2) / comb(4, 2)) / 2
    assert neighbours.chance(right_QV, 2) == pytest.approx(expected)


def test_words_that_are_rare_count_more():
    known = ["a crow spins", "a frog rises", "a cow rises"]
    found_QN = neighbours.shared_words(["A crow rises."], known)
    assert found_QN.argmax() == 0


def test_searches_are_judged_beside_neighbours(built, tmp_path):
    save_model(tmp_path / "run")
    study = Study(built, tmp_path / "run", {"study": "main", "level": "rms", "seed": 0})
    study.search("val")
    found = {(row["what"], row["method"]): row for row in study.rows}
    assert len(found) == 6
    assert found["audio -> video", "model"]["n"] == 4
    assert found["text -> video", "model"]["n"] == 6
    assert found["audio -> video", "neighbours"]["value"] == 1  # all four are among the first five
    for row in found.values():
        assert 0 <= row["value"] <= 1
        assert 0 < row["chance"] <= 1


def test_tables():
    figures = [("model", 0, 0.5), ("model", 1, 0.7), ("random", 0, 0.1), ("neighbours", 0, 0.8)]
    row = dict.fromkeys(results.FIELDS, "") | {"study": "main", "what": "motion", "split": "val", "chance": "0.125"}
    rows = [row | {"method": m, "seed": str(s), "value": str(v), "n": "378"} for m, s, v in figures]
    expected = "| motion from video, top-1 | 60.0 ± 14.1% |  |  | 10.0% | 80.0% | 12.5% | 378 |"
    assert expected in results.main_table(rows)
    page = "a\n<!-- stamps: main -->\nold\n<!-- end -->\nb\n"
    assert results.filled(page, rows).splitlines()[-3:] == [expected, "<!-- end -->", "b"]
    assert results.filled(page, []).splitlines()[2] == results.NONE
    again = rows[0] | {"value": "0.9"}
    assert "80.0 ± 14.1%" in results.filled(page, [*rows, again])
    levels = [{**found, "study": "levels", "level": "rms", "what": "sound"} for found in rows]
    levels += [{**rows[0], "study": "levels", "level": "rms", "what": what} for what in ("loss", "audio -> video")]
    assert "| `rms` | 1 | 0.50 | 50.0% | 60.0 ± 14.1% |" in results.levels_table(levels)  # of the model alone


def test_the_minutes_of_a_seed_are_added_up():
    row = dict.fromkeys(results.FIELDS, "") | {"study": "main", "what": "probe", "metric": "seconds"}
    seconds = [("0", "60"), ("0", "120"), ("1", "120")]
    rows = [row | {"seed": seed, "value": value, "command": str(n)} for n, (seed, value) in enumerate(seconds)]
    assert results.minutes_table(rows).splitlines()[-1] == "| probe | 2.5 ± 0.7 |"


def test_a_stopped_run_is_begun_again_and_its_time_is_kept(tmp_path):
    study = Study(tmp_path, tmp_path / "run", {"study": "main", "level": "rms", "seed": 0})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("a run that was stopped")
    write = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.parent.mkdir(); p.write_text('{\"a\": 1}')"
    result = tmp_path / "run" / "retrieval.json"
    for _ in range(2):  # the second time nothing runs: the folder would be there
        assert study.command("pretraining", result, "-c", write, str(result)) == {"a": 1}
    first, second = study.rows
    assert first == second
    assert first["metric"] == "seconds"
    with pytest.raises(StudyError, match="probe: failed: python -c 'raise SystemExit\\(1\\)'"):
        study.command("probe", tmp_path / "run" / "none.json", "-c", "raise SystemExit(1)")


def test_the_page_has_the_tables_of_the_committed_rows():
    page = results.PAGE.read_text(encoding="utf-8")
    rows = results.results.read(results.RESULTS, results.FIELDS) if results.RESULTS.is_file() else []
    assert "<!-- stamps: main -->" in page
    assert results.filled(page, rows) == page
