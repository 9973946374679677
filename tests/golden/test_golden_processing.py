"""Spectrogram, mixup, fine-tuning losses and classification metrics against their files."""

from __future__ import annotations

import pytest
import torch

from tests.golden.golden import GRADIENT, assert_close, load
from vatt.evaluation.classification import accuracy, multilabel
from vatt.models.classifier import average_views
from vatt.models.spectrogram import mel_matrix, normalise, spectrogram
from vatt.objectives.classification import Mix, multi_label_loss, single_label_loss, smooth_labels, split_windows


def test_spectrogram():
    """README: "STFT magnitudes: 4e-5 on values of order 10 to 100", which log(1 + 10000 x) amplifies near 0."""
    golden = load("spectrogram")
    c, audio = golden.config, golden.tensor("audio")
    custom = dict(sample_rate=c["sample_rate"], window=c["stft_length"], step=c["stft_step"])
    assert c["stft_length"] == int(c["sample_rate"] * c["stft_length_sec"])
    assert c["stft_step"] == int(c["sample_rate"] * c["stft_step_sec"])
    bins = c["mel_bins"]
    expected = golden.outputs
    assert_close(mel_matrix(bins, c["stft_length"] // 2 + 1, c["sample_rate"]), expected["mel_matrix"], 1e-4)
    assert_close(spectrogram(audio), expected["default"])
    assert_close(spectrogram(audio, **custom, mel_bins=bins, log=False), expected["custom_no_log"])
    assert_close(spectrogram(audio, **custom, mel_bins=None, log=False), expected["custom_linear_no_log"])
    log_mel = spectrogram(audio, **custom, mel_bins=bins)
    assert_close(log_mel[..., None], expected["raw_audio_to_spectrogram"])
    assert_close(normalise(log_mel)[..., None], expected["normalized"])


def test_mixup():
    golden = load("mixup")
    mix = Mix(golden.tensor("permutation"), golden.tensor("lambda")[:, 0])
    label, expected, smoothing = golden.tensor("label"), golden.outputs, golden.config["smoothing"]
    assert_close(mix(golden.tensor("audio")), expected["audio"])
    assert_close(mix(golden.tensor("vision")), expected["vision"])
    assert_close(mix(label), expected["label"])
    assert_close(label, expected["vision_label_untouched"])
    assert_close(smooth_labels(label, smoothing), expected["label_smoothed"])
    assert_close(smooth_labels(mix(label), smoothing), expected["label_mixed_then_smoothed"])
    windows = split_windows(golden.tensor("audio")[0], golden.config["num_windows"])
    assert_close(windows, expected["extend_waveform"])


@pytest.mark.parametrize(
    ("kind", "loss", "targets"),
    [("video", single_label_loss, "one_hot_smoothed"), ("audio", multi_label_loss, "multi_hot")],
)
def test_finetuning_losses(kind, loss, targets):
    golden = load("finetune_losses")
    logits = golden.tensor("logits").requires_grad_()
    value = loss(logits, golden.tensor(targets))
    value.backward()
    assert golden.outputs[f"{kind}/regularization_loss"] == 0
    assert_close(value, golden.outputs[f"{kind}/model_loss"])
    assert_close(value, golden.outputs[f"{kind}/total_loss"])
    assert_close(logits.grad, golden.grads[f"{kind}/logits"], GRADIENT)


def test_views_are_averaged():
    golden = load("finetune_losses")
    average = average_views(golden.tensor("clip_logits"), golden.config["num_test_clips"])
    assert_close(average, golden.outputs["aggregated_logits"])


def test_classification_metrics():
    golden = load("metrics")
    scores = multilabel(golden.tensor("ml_pred"), golden.tensor("ml_true"))
    for name, value in scores.items():
        assert_close(torch.tensor(value, dtype=torch.float64), golden.outputs[f"multilabel/{name}"], name=name)
    top = accuracy(golden.tensor("cls_pred"), golden.tensor("cls_true"))
    for name, value in top.items():
        assert value == pytest.approx(float(golden.outputs[f"accuracy/{name}"]), abs=1e-12)
