"""The level of sounds: what scales them, where it is applied, and what older models mean."""

from __future__ import annotations

import json

import pytest
import torch

from tests.weights.test_model_folder import classifier_of, small
from vatt.clip import SILENCE
from vatt.inference import VATT, load_pretrained, save_pretrained
from vatt.models.config import SpectrogramConfig
from vatt.models.sound import LARGEST_GAIN, at_level, log_mel, log_mel_shape
from vatt.models.spectrogram import normalise, spectrogram
from vatt.objectives.classification import Mix
from vatt.objectives.finetuning import Finetuning, TargetConfig
from vatt.objectives.pretraining import Pretraining


def rms(x):
    return x.double().square().mean(-1).sqrt()


def noise(rows=3, samples=4000):
    return torch.randn(rows, samples, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_row_comes_to_an_rms_of_one(dtype):
    quiet_to_loud = (noise() * torch.tensor([[0.05], [1.0], [3.0]])).to(dtype)
    found = at_level(quiet_to_loud, "rms")
    assert found.dtype == dtype
    assert rms(found) == pytest.approx([1, 1, 1], rel={torch.bfloat16: 0.01, torch.float16: 0.002}.get(dtype, 1e-5))
    assert torch.equal(at_level(quiet_to_loud, "as_is"), quiet_to_loud)


def test_silence_stays_and_the_gain_is_bounded():
    sounds = torch.zeros(3, 1000)
    sounds[1] = SILENCE  # nothing above it: silence, whatever its rms
    sounds[2, 0] = 2 * SILENCE  # a click
    found = at_level(sounds, "rms")
    assert torch.equal(found[:2], sounds[:2])
    assert found[2, 0].item() == pytest.approx(2 * SILENCE * LARGEST_GAIN)
    assert torch.isfinite(found).all()


def test_the_order_of_rows_and_the_rest_of_the_batch_do_not_matter():
    sounds = noise()
    assert torch.equal(at_level(sounds, "rms")[1:2], at_level(sounds[1:2], "rms"))


def test_refused():
    for x in (torch.zeros(2, 8, dtype=torch.int16), torch.zeros(2, 8, dtype=torch.uint8), torch.zeros(2, 3, 8)):
        with pytest.raises(ValueError, match=r"audio: expected floating point \(B, L\)"):
            at_level(x, "rms")


def test_without_memory_compiled_and_backwards():
    assert at_level(torch.empty(2, 50, device="meta"), "rms").shape == (2, 50)
    program = torch.export.export(_Level(), (noise(),))
    assert torch.equal(program.module()(noise()), at_level(noise(), "rms"))
    x = torch.cat([noise(1), torch.zeros(1, 4000)]).requires_grad_()
    at_level(x, "rms").sum().backward()
    assert torch.isfinite(x.grad).all()


class _Level(torch.nn.Module):
    def forward(self, x):
        return at_level(x, "rms")


@pytest.mark.parametrize("name", ["vatt-tiny", "vatt-ma-tiny"])
@pytest.mark.parametrize("level", ["rms", "as_is"])
def test_models_apply_it(name, level):
    config = small(name)
    config.input.audio_level = level
    model = VATT(config).eval().double()
    sound = noise(2, config.input.samples).double()
    with torch.no_grad():
        plain = model(audio=sound)["audio/tovid"]
        louder = model(audio=5 * sound)["audio/tovid"]
        embedded = model.embed_audio(sound, space="video").double()
    assert torch.allclose(plain, louder, atol=1e-9) == (level == "rms")
    assert torch.nn.functional.normalize(plain, dim=1) == pytest.approx(embedded, abs=1e-5)
    classifier = classifier_of(config, "audio").eval().double()
    with torch.no_grad():
        assert torch.allclose(classifier(sound), classifier(5 * sound), atol=1e-9) == (level == "rms")


def test_mixup_mixes_sounds_of_one_level():
    """Else the louder of two sounds is all that is heard of the mixture, whatever share the label gives it."""
    config = small()
    heard = []
    module = Finetuning(classifier_of(config, "audio"), TargetConfig(mixup=5.0))
    module.model.backbone.register_forward_pre_hook(lambda _, x: heard.append(x[0]))
    loud_and_quiet = noise(2, config.input.samples) * torch.tensor([[1.0], [0.01]])
    batch = {"x": loud_and_quiet, "target": torch.eye(3)[:2]}
    drawn = {"mix_order": torch.tensor([1, 0]), "mix_share": torch.tensor([0.5, 0.5])}
    module.eval()(batch | drawn, seed=0)
    mixed = Mix(*drawn.values())(at_level(loud_and_quiet, "rms"))
    assert torch.allclose(heard[0], at_level(mixed, "rms"), atol=1e-5)


@pytest.mark.parametrize("kind", ["pretrained", "classifier"])
def test_a_model_from_before_takes_sounds_as_they_are(kind, tmp_path):
    config = small()
    model = VATT(config) if kind == "pretrained" else classifier_of(config, "audio")
    save_pretrained(model, tmp_path)
    assert load_pretrained(tmp_path).config.input.audio_level == "rms"
    values = json.loads((tmp_path / "config.json").read_text())
    del values["input"]["audio_level"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert load_pretrained(tmp_path).config.input.audio_level == "as_is"


def spectrogram_config():
    """vatt-tiny on windows of 0.8 s: 38 Fourier transforms, 2 patches of 16."""
    config = small()
    config.audio_input, config.input.frames = "spectrogram", 8
    config.spectrogram = SpectrogramConfig(num_layers=1, d_model=16, d_kv=8, d_ff=16, num_heads=2)
    config.spectrogram.max_temporal_buckets = 2
    return config


@pytest.mark.parametrize("level", ["rms", "as_is"])
def test_a_spectrogram_model_takes_waveforms(level):
    config = spectrogram_config()
    config.input.audio_level = level
    model, sound = VATT(config).eval(), noise(2, config.input.samples)
    x = log_mel(at_level(sound, level), config.input, config.spectrogram)
    assert x.shape[1:] == log_mel_shape(config.input, config.spectrogram) == (38, 80)
    if level == "rms":
        assert x.mean((1, 2)).tolist() == pytest.approx([0, 0], abs=1e-4)
        assert x.std((1, 2)).tolist() == pytest.approx([1, 1], abs=1e-3)
    else:  # the official loaders'
        assert torch.equal(x, normalise(spectrogram(sound, mel_bins=80)))
    with torch.no_grad():
        whole = model(audio=sound)["audio/tovid"]
        assert torch.equal(whole, model(audio=x)["audio/tovid"])  # one made elsewhere is taken as it is
        silent = model(audio=torch.zeros(1, config.input.samples))["audio/tovid"]
    assert silent.isfinite().all()
    assert Pretraining(config).empty_batch(3)["audio"].shape == (3, config.input.samples)


def test_autocast_leaves_a_spectrogram_alone():
    """It would round the mel bins, which are a product of matrices, to 8 bits."""
    config, sound = spectrogram_config(), noise(2, spectrogram_config().input.samples)
    exact = log_mel(sound, config.input, config.spectrogram)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel(sound, config.input, config.spectrogram), exact)


def test_a_window_must_fit_the_positions_of_a_spectrogram():
    config = spectrogram_config()
    config.input.frames = 32
    with pytest.raises(ValueError, match=r"spectrogram.max_temporal_buckets: 2 positions; .* 150 steps .* 9 patches"):
        VATT(config)
    config.input.sample_rate = 20
    with pytest.raises(ValueError, match=r"spectrogram.stft_length, stft_step: less than a sample at 20 Hz"):
        VATT(config)
