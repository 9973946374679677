"""``VATT.embed_video``, ``embed_audio``, ``embed_text``: the numbers of the model itself, and clear refusals."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vatt.models
from tests.data.media import write
from tests.inference.library_models import WORDS, assert_same, media, save_classifier, save_model, small_config
from vatt import VATT, Classifier, Clip, MediaError, SpaceError, TextError, load_pretrained, save_pretrained
from vatt.data.augment import CentreView
from vatt.data.config import DataConfig
from vatt.data.decode import decode_window
from vatt.data.samples import evaluation_windows
from vatt.data.tokenizer import Tokenizer
from vatt.inference import embed_clips
from vatt.weights import folder as weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def model(folder):
    return VATT.from_pretrained(folder).double()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return media(tmp_path_factory.mktemp("media"))


def inputs(model, count=2):
    spec = model.config.input
    torch.manual_seed(3)
    video = torch.randint(0, 255, (count, spec.frames, spec.size, spec.size, 3), dtype=torch.uint8)
    return video, torch.rand(count, spec.samples) * 2 - 1


@torch.no_grad()
def test_a_file_is_the_normalised_mean_of_hand_cut_windows(model, files):
    """Windows of 2 s of a video of 3 s begin at 0, 0.5 and 1 s."""
    spec = model.config.input
    cut = [decode_window(files[0], lambda _, s=start: s, CentreView(), spec) for start in (0.0, 0.5, 1.0)]
    out = model(
        video=torch.from_numpy(np.stack([window.frames_TSS3 for window in cut])),
        audio=torch.from_numpy(np.stack([window.audio_L for window in cut])),
    )
    found = {
        "video/totxt": model.embed_video(files[0], windows=3),
        "video/toaud": model.embed_video(files[0], space="audio", windows=3),
        "audio/tovid": model.embed_audio(str(files[0]), windows=3),
    }
    for name, x in found.items():
        assert x.shape == out[name].shape[1:]
        assert x.dtype == torch.float32
        assert x.norm().item() == pytest.approx(1, abs=1e-5)
        assert_same(x, F.normalize(out[name].mean(0), dim=0))
    features = model.embed_video(files[0], space="features", windows=3)
    assert_same(features, out["video/features_pooled"].mean(0))
    assert abs(features.norm().item() - 1) > 0.1  # as the backbone gives them


@torch.no_grad()
def test_files_are_read_as_the_evaluation_reads_them(model, files):
    clip = Clip(files[1], 0.4, 2.9)
    samples, _ = evaluation_windows(clip, model.tokenizer, model.config.input, DataConfig(), 4)
    out = model(**{name: torch.stack([sample[name] for sample in samples]) for name in ("video", "audio")})
    assert_same(model.embed_video(clip), F.normalize(out["video/totxt"].mean(0), dim=0))
    assert_same(model.embed_audio(clip), F.normalize(out["audio/tovid"].mean(0), dim=0))
    assert not torch.allclose(model.embed_video(clip), model.embed_video(files[1]), atol=1e-4)


def test_lists_single_items_and_batches_agree(model, files):
    whole = model.embed_video(files, windows=2)
    assert whole.shape == (4, 8)
    assert (whole @ whole.T).fill_diagonal_(0).max() < 0.999  # or nothing below could fail
    assert_same(whole, torch.stack([model.embed_video(f, windows=2) for f in files]))
    assert_same(whole, model.embed_video(files, windows=2, batch_size=3))
    assert_same(whole, model.embed_video(files, windows=2, workers=1))
    video, audio = inputs(model)
    for embed, x in ((model.embed_video, video), (model.embed_audio, audio)):
        both = embed(x)
        assert_same(both, torch.stack([embed(x[0]), embed(x[1])]))
        assert_same(both, embed(list(x), batch_size=1))
        assert_same(both, embed(x.numpy()))
    assert torch.allclose(model.embed_video(video), model.embed_video(video / 127.5 - 1), atol=1e-4)
    assert model.embed_video([]).shape == (0, 8)
    assert model.embed_text([]).shape == (0, 8)


@torch.no_grad()
def test_sentences(model):
    sentences = ["A red circle moves.", "the blue star spins"]
    ids = torch.from_numpy(Tokenizer.train([WORDS]).encode(sentences, 6))
    expected = F.normalize(model(text=ids)["text/tovid"], dim=1)
    assert_same(model.embed_text(sentences), expected)
    assert_same(model.embed_text(sentences, batch_size=1), expected)
    assert_same(model.embed_text(sentences[1]), expected[1])
    assert model.embed_text("a", space="features").shape == (16,)
    with pytest.raises(TextError, match=r"item 1: ' !' holds no word$"):
        model.embed_text(["a", " !"])
    with pytest.raises(TypeError, match="expected sentences, got int"):
        model.embed_text(["a", 3])


def test_words_that_the_model_does_not_know(model, caplog):
    """One unknown word is as good as another to it, so what is made of such words alone means nothing."""
    for unknown in ("zebra", "Zebra quagga!"):
        with pytest.raises(TextError, match=f"item 1: '{unknown}' holds no word that the model knows"):
            model.embed_text(["a star", unknown])
    assert not caplog.text
    found = model.embed_text(["a blue zebra", "a blue Quagga", "a blue zebra, a star"], batch_size=1)
    assert_same(found[0], found[1])
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    told = "text: words that the model does not know, which all mean the same to it: 'zebra', 'Quagga'"
    assert record.getMessage() == told
    caplog.clear()
    model.embed_text("a blue star moves in the circle zebra")  # past the words that the model reads
    assert not caplog.text


@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
@pytest.mark.parametrize("head", ["fac", "joint"])
def test_spaces(name, head):
    model = VATT(small_config(name, head)).eval()
    model.tokenizer = Tokenizer.train([WORDS])
    video, audio = inputs(model, 1)
    pairs = [("audio", "video")] + ([("audio", "text"), ("text", "audio")] if head == "joint" else [])
    for given, space in [*pairs, ("text", "video"), ("video", "text"), ("video", "audio")]:
        items = {"video": video, "audio": audio, "text": ["a red star"]}[given]
        width = 8 if head == "fac" and "text" in (given, space) else 12
        assert getattr(model, f"embed_{given}")(items, space=space).shape == (1, width)
    with pytest.raises(SpaceError, match=r"no 'vidio' for audio, but video, .*features"):
        model.embed_audio(audio, space="vidio")
    if head == "fac":
        with pytest.raises(SpaceError, match="no 'text' for audio, but video, features"):
            model.embed_audio(audio, space="text")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v, a: ("video", v[0, 0]),
            r"video: expected \(4, 32, 32, 3\) \(4 frames at 2 a second\).*got \(32, 3\)",
        ),
        (lambda v, a: ("video", v[:, :, :16]), r"got \(4, 16, 32, 3\)"),
        (lambda v, a: ("video", v.permute(0, 4, 1, 2, 3)), r"got \(3, 4, 32, 32\)"),
        (lambda v, a: ("video", [v[0], v[0, :2]]), r"video, item 1: expected"),
        (lambda v, a: ("video", v.int()), r"expected uint8, or floating point in \[-1, 1\], got torch.int32"),
        (lambda v, a: ("video", v.float()), r"values must lie in \[-1, 1\], the largest is 254"),
        (lambda v, a: ("audio", a[0, :-1]), r"audio: expected \(16000,\) \(8000 Hz\)"),
        (lambda v, a: ("audio", (a * 32767).short()), "expected floating point"),
        (lambda v, a: ("audio", a * float("nan")), "the largest is nan"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(model, change, message):
    modality, items = change(*inputs(model))
    with pytest.raises(ValueError, match=message):
        getattr(model, f"embed_{modality}")(items)


def test_other_refusals(model, files, tmp_path):
    video, audio = inputs(model)
    with pytest.raises(ValueError, match="the model hears 8000 Hz, got 16000"):
        model.embed_audio(audio, sample_rate=16000)
    assert torch.equal(model.embed_audio(audio, sample_rate=8000), model.embed_audio(audio))
    with pytest.raises(TypeError, match="not both; got a list of PosixPath, Tensor"):
        model.embed_video([files[0], video[0]])
    with pytest.raises(ValueError, match="1 or more, got 0"):
        model.embed_video(files[0], windows=0)
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    with pytest.raises(MediaError, match=r"bad\.mp4: container: cannot be decoded"):
        model.embed_video([files[0], tmp_path / "bad.mp4"])
    with pytest.raises(MediaError, match=r"none\.wav: audio: no such file"):
        model.embed_audio(tmp_path / "none.wav")
    with pytest.raises(MediaError, match="is a sound file, which has no picture"):
        model.embed_video(tmp_path / "none.wav")


def test_the_mode_of_every_module_comes_back(model):
    video, _ = inputs(model, 1)
    expected = model.embed_video(video)
    model.train()
    model.head.eval()  # as one who trains the backbone alone
    try:
        assert torch.equal(model.embed_video(video), expected)  # no DropToken
        assert not expected.requires_grad
        assert model.training
        assert model.video.encoder.training
        assert not any(module.training for module in model.head.modules())
        with pytest.raises(MediaError):
            model.embed_video("absent.mp4")
        assert model.training
    finally:
        model.eval()


def test_words_come_from_the_folder_or_a_file(folder, tmp_path):
    bare = save_model(tmp_path / "bare", tokenizer=False)
    with pytest.raises(TextError, match=r"without tokenizer\.json.*vocabulary=FILE"):
        VATT.from_pretrained(bare).embed_text("a star")
    words = tmp_path / "words.txt"
    words.write_text("<pad>\n<unk>\na\nstar\n")
    named = VATT.from_pretrained(bare, vocabulary=words)
    assert named.tokenizer.vocab_size == 4
    same = VATT.from_pretrained(bare, vocabulary=folder / "tokenizer.json")
    assert torch.equal(same.embed_text("a star"), VATT.from_pretrained(folder).embed_text("a star"))
    words.write_text("\n".join(["<pad>", "<unk>", *(f"w{number}" for number in range(50))]))
    with pytest.raises(TextError, match=r"words\.txt: has 52 words, but the model in .* has 40 word vectors"):
        VATT.from_pretrained(bare, vocabulary=words)


def test_a_model_of_spectrograms_takes_sounds(files):
    config = small_config()
    config.audio_input, config.spectrogram.max_temporal_buckets = "spectrogram", 5
    model = VATT(config).double()
    sound, _ = inputs(model)[1][:2], None
    one, other = model.embed_audio(sound)
    assert not torch.allclose(one, other, atol=1e-4)
    assert_same(model.embed_audio(0.3 * sound), torch.stack([one, other]))  # at one level
    assert model.embed_audio(files[0], windows=2).shape == one.shape


def test_the_folder_of_a_run_is_taken(folder, files, tmp_path):
    shutil.copytree(folder, tmp_path / "run" / "model")
    model = VATT.from_pretrained(tmp_path / "run")
    assert torch.equal(model.embed_text("a"), VATT.from_pretrained(folder).embed_text("a"))


def test_a_model_of_any_kind_is_loaded_with_its_methods(folder, tmp_path):
    model = load_pretrained(folder)
    assert type(model) is VATT
    save_pretrained(model, tmp_path / "copy")  # with its words
    assert torch.equal(load_pretrained(tmp_path / "copy").embed_text("a star"), model.embed_text("a star"))
    assert type(load_pretrained(save_classifier(tmp_path / "classifier"))) is Classifier
    pure = weights.load_pretrained(folder)
    assert type(pure) is vatt.models.VATT
    save_pretrained(pure, tmp_path / "pure")
    assert load_pretrained(tmp_path / "pure").tokenizer is None


def test_silence_is_no_sound_that_could_be_found(files, tmp_path):
    model = VATT(small_config()).eval()
    rate = model.config.input.sample_rate
    sound = np.zeros(6 * rate, np.float32)
    silent = write(tmp_path / "silent.wav", None, sound=sound, rate=rate, audio_codec="pcm_s16le")
    sound[4 * rate :] = np.sin(np.arange(2 * rate))
    late = write(tmp_path / "late.wav", None, sound=sound, rate=rate, audio_codec="pcm_s16le")
    with pytest.raises(MediaError, match=r"silent\.wav: audio: is silent"):
        model.embed_audio([late, silent])
    with pytest.raises(ValueError, match=r"audio, item 1: is silent"):
        model.embed_audio(torch.stack([inputs(model, 1)[1][0], torch.zeros(model.config.input.samples)]))
    found = next(embed_clips(model, [Clip(path, kind="audio") for path in (late, silent)], "audio", windows=2))
    assert found.numbers == [0]
    assert [(record["field"], record["reason"], record["index"]) for record in found.skipped] == [
        ("audio", "is silent", 1)
    ]
    end = Clip(late, 4.0, 6.0, kind="audio")
    assert_same(model.embed_audio(late, windows=2), model.embed_audio(end, windows=1))  # of the window with sound alone
    assert model.embed_audio(silent, space="features").isfinite().all()
