"""Decoding by torchcodec: refusals in one line, and the frames of PyAV where it runs."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.data.media import click_at, rotate, write
from tests.data.numbered import CASES
from tests.limits import HANG
from train.core.data import read_corpus
from vatt.clip import InputConfig
from vatt.data.augment import CentreView, RandomView
from vatt.data.clips import Clip
from vatt.data.config import AugmentConfig, DataConfig
from vatt.data.decode import DecoderError, MediaError, RgbFrames, Wanted, check_decoder, decode_windows
from vatt.data.samples import PretrainReader
from vatt.data.tokenizer import Tokenizer

SPEC = InputConfig(frames=16, fps=10, size=48, sample_rate=8000)


@pytest.fixture(autouse=True)
def fresh():
    check_decoder.cache_clear()
    yield
    check_decoder.cache_clear()


def test_it_is_refused_with_its_reason(monkeypatch, tmp_path):
    with pytest.raises(DecoderError, match=r"'ffmpeg' is none of pyav, torchcodec"):
        check_decoder("ffmpeg")
    check_decoder("pyav")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("raise RuntimeError('no libavutil.so\\nlong story')")
    with pytest.raises(DecoderError, match=r"libraries of torchcodec do not load: no libavutil.so$"):
        check_decoder("torchcodec")
    with pytest.raises(DecoderError, match="do not load"):
        PretrainReader(Tokenizer.train(["a"]), SPEC, DataConfig(decoder="torchcodec"))


def test_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(DecoderError, match=r"data.decoder=torchcodec: torchcodec is not installed"):
        check_decoder("torchcodec")


def test_a_job_refuses_it_before_it_reads_or_writes_anything(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    config = DataConfig(sources=["there is no such folder"], decoder="torchcodec")
    with pytest.raises(DecoderError, match=r"^data\.decoder=torchcodec"):
        read_corpus(config, {}, InputConfig())


@pytest.fixture
def runs():
    try:
        check_decoder("torchcodec")
    except DecoderError as error:
        pytest.skip(str(error))


def read(path, start, decoder, view=None):
    out = np.empty((SPEC.frames, SPEC.size, SPEC.size, 3), np.uint8), np.empty(SPEC.samples, np.float32)
    wanted = Wanted(lambda _: start, [RgbFrames(view or CentreView(), out[0])], out[1])
    decode_windows(path, [wanted], SPEC, HANG, decoder)
    return out


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_the_same_frames(runs, tmp_path, suffix):
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 200, (75, 6, 8, 3)).repeat(12, 1).repeat(12, 2).astype(np.uint8)
    path = write(tmp_path / f"a.{suffix}", coarse, fps=25, sound=click_at(1.5, 3.0), gop=25)
    for start in (0.0, 0.7, 1.3, 2.6):
        for view in (None, RandomView(AugmentConfig(), np.random.default_rng(1))):
            ours, theirs = (read(path, start, decoder, view) for decoder in ("pyav", "torchcodec"))
            assert np.abs(ours[0].astype(int) - theirs[0]).mean((1, 2, 3)).max() < 4
            np.testing.assert_allclose(ours[1], theirs[1], atol=1e-3)
    reader = PretrainReader(Tokenizer.train(["a"]), SPEC, DataConfig(decoder="torchcodec"), "gpu")
    assert reader(Clip(path), np.random.default_rng(0))["planes"].any()


def test_a_film_that_lies_on_its_side(runs, tmp_path):
    frames = np.full((30, 64, 96, 3), 30, np.uint8)
    frames[:, :32, :48, 0] = 220
    path = rotate(write(tmp_path / "r.mp4", frames), 1)
    ours, theirs = (read(path, 0.3, decoder)[0].astype(int) for decoder in ("pyav", "torchcodec"))
    assert np.abs(ours - theirs).mean() < 4


def test_a_broken_film_is_a_named_fault(runs, tmp_path):
    path = write(tmp_path / "half.mkv", np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"half\.mkv: video: "):
        read(path, 4.0, "torchcodec")


def test_cases_of_other_times_and_orientations(runs):
    """Mirrored films, which it turns; and what it shows as PyAV does: behind the only keyframe, a last frame held."""
    for name in ("hflip_matrix.mp4", "seek_gop250.ts", "last_frame_held.mp4"):
        found, expected = (read(CASES / name, 3.0, decoder)[0].astype(int) for decoder in ("torchcodec", "pyav"))
        assert np.abs(found - expected).mean() < 4, name
